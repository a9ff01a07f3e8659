"""Suite `unseen`: values of λ that were never trained."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from oat_runtime import style
from oat_runtime.architecture import effective_lambda
from oat_runtime.operating_point import OperatingPoint
from oat_runtime.report import Check, Row, progress
from training.evaluation.counting import Bools, surely_above
from training.evaluation.suite import Job, Result, Suite, counted, over_lambda, widths_of
from training.evaluation.text_table import by_condition

UNSEEN = (0.15, 0.25, 0.35, 0.5, 0.7, 0.9)
"""S3 of the paper: values of λ that were never trained."""
MARGIN = 0.01
"""An unseen λ must lie between its trained neighbours' figures, give or take this (one point)."""


def run(job: Job) -> Result:
    """Count SA and RA at unseen λ; check that they lie between their neighbours', and that each λ differs from them."""
    knots = job.judged.model.config.lambdas
    usable = [lam for lam in UNSEEN if knots[0] <= lam <= knots[-1] and lam not in knots]
    rows: list[Row] = []
    excess, differences = [0.0], []
    for width in progress(sorted(job.widths, reverse=True), "unseen λ"):
        found: dict[float, tuple[Bools, ...]] = {}
        logits: dict[float, Tensor] = {}
        for lam in sorted({*knots, *usable}):
            point = OperatingPoint(lam, width)
            logits[lam] = job.logits(point)
            labels_N = torch.from_numpy(job.data.labels_N).to(job.device)
            clean_N = (logits[lam].argmax(dim=1) == labels_N).cpu().numpy()
            found[lam] = (clean_N, job.outcomes(point, attack=job.attack))
            for condition, correct_N in zip(("clean", job.attack.name), found[lam], strict=True):
                rows.append(counted(point, condition, correct_N) | {"trained": lam in knots})
        for lam in usable:
            if effective_lambda(lam, knots) != lam:
                continue
            below, above = max(k for k in knots if k < lam), min(k for k in knots if k > lam)
            if below == 0.0:
                continue  # λ=0 has batch norms of its own
            for index in range(2):
                low_N, high_N = sorted((found[below][index], found[above][index]), key=np.mean)
                mine_N = found[lam][index]
                excess.append(max(surely_above(low_N, mine_N), surely_above(mine_N, high_N)))
            differences.append(min(float((logits[lam] - logits[knot]).abs().max()) for knot in (below, above)))
    checks = [
        Check.at_most("outside its neighbours' range", excess, MARGIN, "share of images"),
        Check.at_least("logits differ from both neighbours'", differences, 1e-3, "largest difference", strict=True),
    ]
    return Result(rows, checks, attacks=[job.attack])


def unseen_lambdas(rows: list[Row]) -> style.Figure:
    """Draw SA and RA over λ, filled where λ was trained and hollow where it was not."""
    conditions = list(dict.fromkeys(row["condition"] for row in rows))
    with style.new_figure(10.0, 4.6) as figure:
        panels = figure.subplots(1, 2)
        for axes, condition in zip(panels, conditions, strict=True):
            for width, look in style.width_looks(widths_of(rows)).items():
                curve = over_lambda(rows, condition, width)
                x, y = [row["lambda"] for row in curve], [100 * row["accuracy"] for row in curve]
                style.join_over_lambda(axes, x, x, y, **look, label=f"width {width:g}")
                hollow = [n for n, row in enumerate(curve) if not row["trained"]]
                axes.plot([x[n] for n in hollow], [y[n] for n in hollow], ls="none", ms=5.5, mfc="white", zorder=4,
                          **look)  # fmt: skip
            style.title(axes, "Clean accuracy" if condition == "clean" else f"Accuracy under {condition.upper()}")
            style.lambda_axis(axes, note="filled: trained, hollow: never seen in training")
        panels[0].set_ylabel("Accuracy, %")
        style.caption(figure, "The two vertical axes have different scales.")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=5)
    return figure


SUITE = Suite(
    name="unseen",
    about="λ that no training saw, made by interpolating γ and β between the trained neighbours.",
    run=run,
    tables=(by_condition,),
    figures={"unseen-lambda": unseen_lambdas},
    attacks="one",
    narrowed_by=("widths",),
)
