"""Suite `calibration`: how far confidence is from accuracy, with and without the fitted temperatures."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from oat_runtime import style
from oat_runtime.report import Row, progress
from training.evaluation.suite import Job, Result, Suite, over_lambda, widths_of
from training.evaluation.text_table import new_table


def run(job: Job) -> Result:
    """Measure the expected calibration error of each point, as the network is and with the bundle's temperature."""
    rows = []
    labels_N = torch.from_numpy(job.data.labels_N).to(job.device)
    for point in progress(job.points(), "calibration"):
        logits = job.logits(point)
        fitted = 1.0 if job.judged.bundle is None else job.judged.bundle.temperature(point, job.cache.precision)
        for name, temperature in (("raw", 1.0), ("fitted", fitted)):
            row = {"lambda": point.lam, "width": point.width, "condition": name, "temperature": temperature}
            found = reliability(logits, labels_N, temperature=temperature)
            rows.append(row | {"num_total": len(job.data)} | asdict(found))
    return Result(rows)


@dataclass(frozen=True, slots=True)
class Reliability:
    """Calibration of one network on labelled images.

    Attributes:
        error: expected calibration error (Guo et al. 2017) over bins of equal width.
        confidence_B: mean confidence in each bin; None where it is empty.
        accuracy_B: accuracy in each bin; None where it is empty.
        share_B: share of images in each bin.
    """

    error: float
    confidence_B: list[float | None]
    accuracy_B: list[float | None]
    share_B: list[float]


def reliability(logits_NK: Tensor, y_N: Tensor, *, temperature: float = 1.0, num_bins: int = 15) -> Reliability:
    """Compare the confidence softmax(logits / temperature) with the accuracy."""
    confidence, predicted = torch.softmax(logits_NK.double() / temperature, dim=1).max(dim=1)
    confidence_N, right_N = confidence.cpu().numpy(), (predicted == y_N).double().cpu().numpy()
    bin_N = np.minimum((confidence_N * num_bins).astype(np.int64), num_bins - 1)
    count_B = np.bincount(bin_N, minlength=num_bins).astype(np.float64)
    with np.errstate(invalid="ignore"):
        confidence_B = np.bincount(bin_N, confidence_N, num_bins) / count_B
        accuracy_B = np.bincount(bin_N, right_N, num_bins) / count_B
    share_B = count_B / count_B.sum()
    error = float(np.nansum(share_B * np.abs(accuracy_B - confidence_B)))
    bins = [[None if np.isnan(value) else float(value) for value in values] for values in (confidence_B, accuracy_B)]
    return Reliability(error, confidence_B=bins[0], accuracy_B=bins[1], share_B=share_B.tolist())


def errors(rows: list[Row]) -> Table:
    """Return the expected calibration error of each point, without and with its temperature."""
    table = new_table("width", "λ", "temperature", "error without, %", "error with, %")
    pairs: dict[tuple[float, float], dict[str, Row]] = {}
    for row in rows:
        pairs.setdefault((row["width"], row["lambda"]), {})[row["condition"]] = row
    for (width, lam), pair in pairs.items():
        errors = [f"{100 * pair[name]['error']:.2f}" for name in ("raw", "fitted")]
        table.add_row(f"{width:g}", f"{lam:g}", f"{pair['fitted']['temperature']:.3f}", *errors)
    return table


def calibration_curves(rows: list[Row]) -> style.Figure:
    """Draw the expected calibration error over λ, with and without the fitted temperatures; and reliability."""
    looks = style.width_looks(widths_of(rows))
    with style.new_figure(10.0, 4.9) as figure:
        left, right = figure.subplots(1, 2)
        for width, look in looks.items():
            for name, line in (("raw", "--"), ("fitted", "-")):
                curve = over_lambda(rows, name, width)
                x, y = [row["lambda"] for row in curve], [100 * row["error"] for row in curve]
                label = f"width {width:g}" if name == "fitted" else None
                style.join_over_lambda(left, x, x, y, **look, label=label, line=line)
        left.set_ylim(bottom=0)
        style.whole_ticks(left.yaxis)
        style.lambda_axis(left)
        left.set_ylabel("Expected calibration error, points")
        style.title(left, "Calibration error", below="dashed: as trained, solid: with temperature")
        widest = over_lambda(rows, "fitted", max(looks))
        colours = style.lambda_colours([row["lambda"] for row in widest])
        for row in widest:
            pairs = [
                (c, a)
                for c, a, share in zip(row["confidence_B"], row["accuracy_B"], row["share_B"], strict=True)
                if c is not None and a is not None and share * row["num_total"] >= 10
            ]
            confidence, accuracy = zip(*pairs, strict=True) if pairs else ((), ())
            label = style.lam_text(row["lambda"])
            right.plot(confidence, accuracy, "o-", color=colours[row["lambda"]], label=label, ms=4)
        right.plot([0, 1], [0, 1], ":", color=style.FAINT)
        right.set_xlabel("Confidence")
        right.set_ylabel("Accuracy")
        style.title(right, "Reliability", below=f"width {max(looks):g}, bins of 10 images or more")
        for axes in (left, right):  # below: no corner of the axes is free of curves
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3)
    return figure


SUITE = Suite(
    name="calibration",
    about="How far confidence is from accuracy. Temperatures were fitted on validation images.",
    run=run,
    tables=(errors,),
    figures={"calibration": calibration_curves},
    precisions=("float32", "int8"),
)
