"""Suite `autoattack`: does a third party's AutoAttack break images that our Auto-PGD leaves?"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from oat_runtime.data import ImageSet
from oat_runtime.operating_point import AttackSpec, OperatingPoint
from oat_runtime.report import Check, progress
from training.evaluation.attack_checks import worst_case
from training.evaluation.counting import Bools, surely_above
from training.evaluation.suite import Job, Result, Suite, counted
from training.evaluation.text_table import by_condition
from training.evaluation.toolbox import art_autoattack, require_toolbox

_ATTACKS, _NUM_QUERIES = ("apgd-ce", "apgd-t"), 1000
_PART = 20
"""Images that are attacked and kept together, so that a stop loses minutes and not hours."""


def run(job: Job) -> Result:
    """Count at the ends of λ and its middle, at the widest width, both on the same images."""
    _check(job)
    specs = job.attacks_among(_ATTACKS)
    rows, gaps = [], []
    for lam in progress(job.three_lambdas(), "autoattack"):
        point = OperatingPoint(lam, max(job.widths))
        ours = {spec.name: job.outcomes(point, attack=spec) for spec in specs}
        parts = progress(list(_parts(job.data)), f"the toolbox's at λ={lam:g}")
        theirs_N = np.concatenate([_theirs(job, point, specs[0], part) for part in parts])
        found = {"clean": job.outcomes(point), **ours, "autoattack, toolbox": theirs_N}
        found["worst-case"] = worst_case(found)
        rows += [counted(point, name, correct_N) for name, correct_N in found.items()]
        gaps.append(surely_above(worst_case(ours), theirs_N))
    name = "accuracy under our Auto-PGD above that under the toolbox's AutoAttack"
    return Result(rows, [Check.at_most(name, gaps, 0.0, "share of images")], attacks=specs)


def _parts(data: ImageSet) -> Iterator[ImageSet]:
    for start in range(0, len(data), _PART):
        yield data.subset(np.arange(start, min(start + _PART, len(data))), data.name)


def _theirs(job: Job, point: OperatingPoint, attack: AttackSpec, part: ImageSet) -> Bools:
    key = f"{point.lam:g} {point.width:g} toolbox's autoattack {_NUM_QUERIES} {attack.model_dump_json()}"
    count = partial(art_autoattack, job.plain(point), part, attack=attack, num_queries=_NUM_QUERIES)
    return job.cache.get(key, part, count)


def _check(_: Job) -> None:
    require_toolbox(SUITE.name)


SUITE = Suite(
    name="autoattack",
    about="AutoAttack of the Adversarial Robustness Toolbox, a third party's, beside our Auto-PGD on the same images. "
    "It runs Auto-PGD on two losses (where there are two classes, on the cross-entropy alone), DeepFool, and Square "
    f"with {_NUM_QUERIES:,} queries, each on what is left. “worst-case” counts an image as right if none broke it.",
    run=run,
    tables=(by_condition,),
    attacks=_ATTACKS,
    most_images=200,
    needs_more=True,
    check=_check,
)
