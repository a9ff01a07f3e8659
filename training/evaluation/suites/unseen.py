"""Suite `unseen`: values of λ that were never trained."""

from __future__ import annotations

import torch
from torch import Tensor

from oat_runtime.architecture import effective_lambda
from oat_runtime.operating_point import OperatingPoint
from oat_runtime.report import Check, Row
from training.evaluation import plot_style as style
from training.evaluation.counting import Bools, progress
from training.evaluation.suite import Job, Result, Suite, counted
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
                ends = sorted(float(found[knot][index].mean()) for knot in (below, above))
                rate = float(found[lam][index].mean())
                excess.append(max(ends[0] - rate, rate - ends[1]))
            differences.append(min(float((logits[lam] - logits[knot]).abs().max()) for knot in (below, above)))
    checks = [
        Check.at_most("outside its neighbours' range", excess, MARGIN, "share of images"),
        Check.at_least("logits differ from both neighbours'", differences, 1e-3, "largest difference", strict=True),
    ]
    return Result(rows, checks, attacks=[job.attack])


def unseen_lambdas(rows: list[Row]) -> style.Figure:
    """Draw SA and RA over λ, filled where λ was trained and hollow where it was not."""
    conditions = list(dict.fromkeys(row["condition"] for row in rows))
    with style.new_figure(10.0, 4.2) as figure:
        for axes, condition in zip(figure.subplots(1, 2), conditions, strict=True):
            for index, width in enumerate(style.widths_of(rows)):
                curve = style.over_lambda(rows, condition, width)
                colour, marker = style.COLOURS[index % 5], style.MARKERS[index % 5]
                x, y = [row["lambda"] for row in curve], [100 * row["accuracy"] for row in curve]
                style.join_over_lambda(axes, x, x, y, colour=colour)
                for trained in (True, False):
                    chosen = [n for n, row in enumerate(curve) if row["trained"] == trained]
                    axes.plot(
                        [x[n] for n in chosen], [y[n] for n in chosen], marker, color=colour, ms=6,
                        markerfacecolor=colour if trained else "white", label=f"width {width:g}" if trained else None,
                    )  # fmt: skip
            style.title(axes, "Clean accuracy" if condition == "clean" else f"Accuracy under {condition.upper()}")
            axes.set_xlabel("λ   (filled: trained, hollow: never seen in training)")
            axes.set_ylabel("Accuracy, %")
            axes.legend(frameon=False)
    return figure


SUITE = Suite(
    name="unseen",
    title="Unseen",
    about="λ that no training saw, made by interpolating γ and β between the trained neighbours.",
    run=run,
    tables=(by_condition,),
    figures={"unseen-lambda": unseen_lambdas},
)
