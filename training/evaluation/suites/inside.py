"""Suite `inside`: statistics before the last batch norm, saliency, and cost."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import torch
from rich.table import Table

from oat_runtime import style
from oat_runtime.errors import ConfigError
from oat_runtime.report import Row
from oat_runtime.text import changed_names, plain
from training.evaluation import inspection
from training.evaluation.counting import BATCH
from training.evaluation.suite import Job, Result, Suite
from training.evaluation.text_table import new_table
from training.network import folded

_ATTACK = "pgd-7"
_MOST_SIDE = 48
"""Pixels a side of the images and maps that are kept: a suite's file holds at most 200,000 values."""


def run(job: Job) -> Result:
    """Measure batch-norm statistics by λ, saliency with its alignment (beside other networks), and cost by width.

    Raises:
        ConfigError: another network has other classes.
    """
    _check(job)
    width = max(job.widths)
    x_NCHW, y_N = (torch.cat(parts) for parts in zip(*job.batches(), strict=True))
    rows: list[Row] = []
    every = -(-max(x_NCHW.shape[2:]) // _MOST_SIDE)
    model = job.judged.model
    attack = job.attack_named(_ATTACK)
    for found in inspection.norm_statistics(model, x_NCHW, y_N, lambdas=job.lambdas, width=width, attack=attack):
        statistics = {"mean_C": found.mean_C.tolist(), "var_C": found.var_C.tolist()}
        rows.append({"part": "norm", "lambda": found.lam, "images": found.images, "width": width} | statistics)
    nets: list[tuple[str, float | None, torch.nn.Module]] = [
        (style.lam_text(point.lam), point.lam, job.plain(point)) for point in job.widest()
    ]
    for other in job.beside:
        config = other.model.config
        nets.append((other.name, None, folded(other.model, lam=config.lambdas[-1], width=config.widths[-1])))
    pairs = list(zip(torch.split(x_NCHW, BATCH), torch.split(y_N, BATCH), strict=True))
    for name, lam, net in nets:
        gradient = torch.cat([inspection.saliency(net, x, y) for x, y in pairs])
        aligned_N = inspection.alignment(gradient, x_NCHW)
        aligned_N = aligned_N[torch.isfinite(aligned_N)]
        num = len(aligned_N)
        mean = float(aligned_N.mean()) if num else 0.0
        half = 1.96 * float(aligned_N.std()) / num**0.5 if num > 1 else 1.0  # one image says nothing of others
        maps = gradient[:6, :, ::every, ::every].abs().amax(dim=1)
        maps = maps / maps.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)
        rows.append(
            {"part": "saliency", "network": name, "lambda": lam, "num_total": num, "alignment": mean, "half_95": half,
             "maps_NHW": (maps * 255).round().to(torch.uint8).cpu().tolist()}
        )  # fmt: skip
    height, columns = job.data.images_NHWC.shape[1:3]
    rows += [
        {"part": "cost"} | asdict(inspection.cost(model, width=at, height=height, columns=columns)) for at in job.widths
    ]
    rows.append({"part": "images", "images_NHWC": job.data.images_NHWC[:6][:, ::every, ::every].tolist()})
    return Result(rows, attacks=[attack])


def _check(job: Job) -> None:
    """Refuse networks of other classes: labels are places in the list of classes."""
    names, num = job.data.class_names, job.judged.model.config.num_classes
    for other in job.beside:
        theirs, num_theirs = other.class_names, other.model.config.num_classes
        if num_theirs == num and (theirs == names or not (theirs and names)):
            continue
        what = changed_names(names, theirs) if theirs and names else f"it has {num_theirs} classes, not {num}"
        raise ConfigError(
            f"{other.name}: expected the classes of {job.judged.name}, in their order; {what}: leave it out of --beside"
        )


def costs(rows: list[Row]) -> Table:
    """Return the multiply-adds of an image and numbers stored, by width."""
    keys = ("convolutions", "norms", "film", "folded")
    table = new_table("width", *(f"{key}, 10⁶" for key in keys), "parameters")
    for row in rows:
        if row["part"] == "cost":
            table.add_row(f"{row['width']:g}", *(f"{row[key] / 1e6:.2f}" for key in keys), f"{row['parameters']:,}")
    return table


def alignments(rows: list[Row]) -> Table:
    """Return how much the gradient by the pixels looks like the image."""
    table = new_table("network", "images", "alignment of gradient and image")
    for row in rows:
        if row["part"] == "saliency":
            table.add_row(row["network"], f"{row['num_total']}", f"{row['alignment']:.3f} ± {row['half_95']:.3f}")
    return table


def norm_curves(rows: list[Row]) -> style.Figure:
    """Draw mean and variance of four channels at the last norm over λ (the form of the paper's Fig. 2)."""
    rows = [row for row in rows if row["part"] == "norm"]
    mixed = sorted(
        (row for row in rows if (row["images"] == "mixed") == (row["lambda"] > 0)), key=lambda r: r["lambda"]
    )
    spread = np.ptp([row["mean_C"] for row in mixed], axis=0) / np.sqrt(
        np.mean([row["var_C"] for row in mixed], axis=0)
    )
    channels = np.sort(np.argsort(spread)[-4:])
    x = [row["lambda"] for row in mixed]
    with style.new_figure(10.0, 4.0) as figure:
        panels = figure.subplots(1, 2)
        for axes, key, name in zip(panels, ("mean_C", "var_C"), ("Mean", "Variance"), strict=True):
            for channel, colour, marker in zip(channels, style.COLOURS, style.MARKERS, strict=False):
                y = [row[key][channel] for row in mixed]
                style.join_over_lambda(axes, x, x, y, color=colour, marker=marker, label=f"channel {channel}")
            style.lambda_axis(axes)
            style.title(axes, f"{name} at the last batch norm")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center")
    return figure


def saliency_maps(rows: list[Row]) -> style.Figure:
    """Draw images, the gradients of their loss for each network, and how much the two are alike."""
    images = np.array(next(row for row in rows if row["part"] == "images")["images_NHWC"], dtype=np.uint8)
    rows = [row for row in rows if row["part"] == "saliency"]
    with style.new_figure(1.05 * (len(rows) + 1) + 5.0, 1.05 * len(images) + 0.6) as figure:
        halves = figure.subfigures(1, 2, width_ratios=[1.05 * (len(rows) + 1), 5.0], squeeze=False)
        left, right = halves[0]
        panels = left.subplots(len(images), len(rows) + 1, squeeze=False)
        for line, image in zip(panels, images, strict=True):
            line[0].imshow(image)
        panels[0][0].set_title("image", fontsize=9.5)
        for column, row in enumerate(rows, start=1):
            panels[0][column].set_title(plain(row["network"]), fontsize=9.5)
            for line, found in zip(panels, row["maps_NHW"], strict=False):
                line[column].imshow(np.array(found), cmap="magma")
        for axes in panels.ravel():
            axes.set_axis_off()
        axes = right.subplots()
        for index, row in enumerate(rows):
            colour = style.BLUE if row["lambda"] is not None else style.PURPLE
            axes.errorbar(row["alignment"], index, xerr=row["half_95"], fmt="o", color=colour, lw=2.0)
        axes.set_yticks(range(len(rows)), [plain(row["network"]) for row in rows])
        axes.invert_yaxis()
        axes.set_xlim(left=0.0)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"Alignment |cos(image, gradient)|, mean of {rows[0]['num_total']}, 95 %")
        style.title(axes, "How much saliency looks like the image")
    return figure


def cost_bars(rows: list[Row]) -> style.Figure:
    """Draw multiply-adds and parameters of the deployed network by width."""
    rows = sorted((row for row in rows if row["part"] == "cost"), key=lambda row: row["width"])
    places, looks = np.arange(len(rows)), style.width_looks([row["width"] for row in rows])
    with style.new_figure(9.0, 3.4) as figure:
        left, right = figure.subplots(1, 2)
        scale, unit = (1e9, "G") if rows[-1]["folded"] >= 1e9 else (1e6, "M")
        for axes, values, label, text in (
            (left, [row["folded"] / scale for row in rows], f"Multiply-adds an image, {unit}", "Folded, at any λ"),
            (right, [row["parameters"] / 1e6 for row in rows], "Numbers stored, M", "Size of one folded point"),
        ):
            colours = [looks[row["width"]]["color"] for row in rows]
            bars = axes.bar(places, values, 0.6, color=colours)
            axes.bar_label(bars, [f"{value:.3g}" for value in values], padding=2)
            axes.set_xticks(places, [f"width {row['width']:g}" for row in rows])
            axes.grid(axis="x", visible=False)
            axes.margins(y=0.15)
            axes.set_ylabel(label)
            style.title(axes, text)
    return figure


SUITE = Suite(
    name="inside",
    about="Batch-norm statistics by λ, gradients of the loss with respect to the pixels, and cost. Multiply-adds are "
    "those of convolutions and classifier, plus what scales and shifts by channel and cannot be folded.",
    run=run,
    tables=(costs, alignments),
    figures={"batch-norm": norm_curves, "saliency": saliency_maps, "cost": cost_bars},
    attacks=(_ATTACK,),
    beside=True,
    most_images=200,
    check=_check,
)
