"""Suite `crosscheck`: our Auto-PGD against that of the Adversarial Robustness Toolbox."""

from __future__ import annotations

from functools import partial

from oat_runtime.operating_point import OperatingPoint
from oat_runtime.report import Check, progress
from training.evaluation.suite import Job, Result, Suite, counted
from training.evaluation.text_table import by_condition
from training.evaluation.toolbox import art_apgd, require_toolbox

_ATTACK = "apgd-ce"
LIMIT = 0.01
"""Share of images by which the two may differ (one point)."""


def run(job: Job) -> Result:
    """Count RA under both at the smallest and the largest λ, at the widest width."""
    _check(job)
    attack = job.attack_named(_ATTACK)
    width = max(job.widths)
    rows, checks = [], []
    for lam in progress(sorted({min(job.lambdas), max(job.lambdas)}), "crosscheck"):
        point = OperatingPoint(lam, width)
        ours_N = job.outcomes(point, attack=attack)
        key = f"{lam:g} {width:g} toolbox's {attack.model_dump_json()}"
        theirs_N = job.cache.get(key, job.data, partial(art_apgd, job.plain(point), job.data, attack=attack))
        rows.append(counted(point, "apgd-ce, ours", ours_N))
        rows.append(counted(point, "apgd-ce, toolbox", theirs_N))
        gap = abs(float(ours_N.mean() - theirs_N.mean()))
        checks.append(Check.at_most(f"apgd-ce at λ={lam:g}: ours and the toolbox's", [gap], LIMIT, "share of images"))
    return Result(rows, checks, attacks=[attack])


def _check(_: Job) -> None:
    require_toolbox(SUITE.name)


SUITE = Suite(
    name="crosscheck",
    about="Our Auto-PGD beside that of the Adversarial Robustness Toolbox, a third party's.",
    run=run,
    tables=(by_condition,),
    attacks=(_ATTACK,),
    needs_more=True,
    check=_check,
)
