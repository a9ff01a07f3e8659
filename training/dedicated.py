"""Suite `dedicated`: one network for every λ and width against networks trained for one λ and one width each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from oat_runtime.errors import ConfigError
from oat_runtime.operating_point import OperatingPoint
from training.subject import Subject
from training.suites import Job, Result, Row, check, counted, progress

MEAN_LIMIT = 0.005
"""How far the mean over all points may lie below the dedicated networks': half a point."""
POINT_LIMIT = 0.015
"""How far any single point may: one and a half."""
_HELD_OUT = ("num_validation", "seed")


def dedicated(job: Job) -> Result:
    """SA and RA of the points that networks beside were trained for, ours and theirs on the same images.

    Raises:
        ConfigError: no network beside, or one that does not compare with ours.
    """
    if not job.beside:
        raise ConfigError("the suite dedicated needs networks of one λ and one width each: name them with --beside")
    pairs = [(other, _point(job.subject, other)) for other in job.beside]
    rows: list[Row] = []
    below: dict[str, list[float]] = {"clean": [], job.attack.name: []}
    for other, point in progress(pairs, "dedicated"):
        jobs = (job, theirs := replace(job, subject=other))
        for condition, attack in (("clean", None), (job.attack.name, job.attack)):
            ours_N, theirs_N = (
                each.right(each.plain(point.lam, point.width), point.lam, point.width, attack=attack) for each in jobs
            )
            rows.append(counted(point.lam, point.width, condition, ours_N))
            rows.append(counted(point.lam, point.width, f"{condition}, dedicated", theirs_N))
            below[condition].append(float(theirs_N.mean() - ours_N.mean()))
        job.kept.spared_s += theirs.kept.spared_s
    checks = []
    for condition, values in below.items():
        name = f"{condition}: below the dedicated networks"
        checks.append(check(f"{name}, mean over points", float(np.mean(values)), MEAN_LIMIT, "share of images"))
        checks.append(check(f"{name}, worst point", max(values), POINT_LIMIT, "share of images"))
    return Result(rows, checks, attacks=[job.attack])


def _point(subject: Subject, other: Subject) -> OperatingPoint:
    """The one point of `other`, which `subject` must have been trained for on the same images."""
    config, theirs = subject.model.config, other.model.config
    if (len(theirs.lambdas), len(theirs.widths)) != (1, 1):
        raise ConfigError(
            f"{other.name} was trained for λ {theirs.lambdas} and widths {theirs.widths}: expected one of each, as "
            "`oat-train RECIPE --set model.lambdas=[1.0] --set model.widths=[1.0]` makes it"
        )
    lam, width = theirs.lambdas[0], theirs.widths[0]
    if lam not in config.lambdas or width not in config.widths:
        raise ConfigError(f"{other.name} is of λ={lam:g} and width {width:g}, which {subject.name} was not trained for")
    held_out = [[s.dataset, *(s.recipe.get(key) for key in _HELD_OUT)] for s in (subject, other)]
    if held_out[0] != held_out[1]:
        raise ConfigError(
            f"{other.name} was trained on other images than {subject.name}: data set, held-out images and seed are "
            f"{held_out[1]}, not {held_out[0]}; give both the same"
        )
    return OperatingPoint(lam, width)
