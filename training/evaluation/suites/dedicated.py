"""Suite `dedicated`: one network for every λ and width against networks trained for one λ and one width each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from oat_runtime.errors import ConfigError, quoted
from oat_runtime.operating_point import OperatingPoint
from oat_runtime.report import Check, Row, progress
from training.evaluation.judged import Judged
from training.evaluation.suite import Job, Result, Suite, counted
from training.evaluation.text_table import by_condition
from training.split import DIVIDES

MEAN_LIMIT = 0.005
"""How far the mean over all points may lie below the dedicated networks': half a point."""
POINT_LIMIT = 0.015
"""How far any single point may: one and a half."""
_OF_OLDER_RUNS = {"split": "random", "resize": "center_crop"}
"""What settings were of runs that do not name them."""


def run(job: Job) -> Result:
    """Count SA and RA of the points that the other networks were trained for, ours and theirs on the same images.

    Raises:
        ConfigError: no other network, or one that does not compare with ours.
    """
    pairs = _pairs(job)
    rows: list[Row] = []
    below: dict[str, list[float]] = {"clean": [], job.attack.name: []}
    for other, point in progress(pairs, "dedicated"):
        jobs = (job, theirs := replace(job, judged=other))
        for condition, attack in (("clean", None), (job.attack.name, job.attack)):
            ours_N, theirs_N = (each.outcomes(point, attack=attack) for each in jobs)
            rows.append(counted(point, condition, ours_N))
            rows.append(counted(point, f"{condition}, dedicated", theirs_N))
            below[condition].append(float(theirs_N.mean() - ours_N.mean()))
        job.cache.cached_s += theirs.cache.cached_s
    checks = []
    for condition, values in below.items():
        name = f"{condition}: below the dedicated networks"
        mean = float(np.mean(values))
        checks.append(Check.at_most(f"{name}, mean over points", [mean], MEAN_LIMIT, "share of images"))
        checks.append(Check.at_most(f"{name}, worst point", values, POINT_LIMIT, "share of images"))
    return Result(rows, checks, attacks=[job.attack])


def _pairs(job: Job) -> list[tuple[Judged, OperatingPoint]]:
    """Return the other networks with the points that they were trained for."""
    if not job.beside:
        raise ConfigError("the suite dedicated needs networks of one λ and one width each: name them with --beside")
    return [(other, _point(job.judged, other)) for other in job.beside]


def _point(judged: Judged, other: Judged) -> OperatingPoint:
    """Return the one point of `other`, which `judged` must have been trained for on the same images."""
    config, theirs = judged.model.config, other.model.config
    if (len(theirs.lambdas), len(theirs.widths)) != (1, 1):
        raise ConfigError(
            f"{other.name} was trained for λ {theirs.lambdas} and widths {theirs.widths}: expected one of each, as "
            "`oat-train RECIPE --set model.lambdas=[1.0] --set model.widths=[1.0] --set num_random_widths=null "
            "--set lambda_weights=null --set clean_share=0 --set width_distillation=0` makes it"
        )
    lam, width = theirs.lambdas[0], theirs.widths[0]
    if lam not in config.lambdas or width not in config.widths:
        raise ConfigError(f"{other.name} is of λ={lam:g} and width {width:g}, which {judged.name} was not trained for")
    ours, its = _images_of(judged), _images_of(other)
    if others := [f"{key} is {quoted(its[key])}, not {quoted(ours[key])}" for key in ours if its[key] != ours[key]]:
        raise ConfigError(
            f"{other.name} was trained on other images than {judged.name}: {'; '.join(others)}; give both the same"
        )
    return OperatingPoint(lam, width)


def _images_of(judged: Judged) -> dict[str, Any]:
    """Return all settings that decide which images it was trained on, and how they were fitted."""
    recipe = _OF_OLDER_RUNS | judged.recipe
    return {"dataset": judged.dataset} | {key: recipe.get(key) for key in (*DIVIDES, "resize")}


SUITE = Suite(
    name="dedicated",
    about="One network for every λ and width beside networks trained for one λ and one width each.",
    run=run,
    tables=(by_condition,),
    attacks="one",
    beside=True,
    narrowed_by=(),
    needs_more=True,
    check=_pairs,
)
