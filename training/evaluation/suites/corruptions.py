"""Suite `corruptions`: 15 kinds of corruption at 5 severities."""

from __future__ import annotations

import numpy as np
from rich.table import Table

from oat_runtime import style
from oat_runtime.report import Row, progress
from oat_runtime.stress.corruptions import CORRUPTIONS, SEVERITIES
from oat_runtime.text import plain
from training.evaluation.counting import corrupted_sets
from training.evaluation.suite import Job, Result, Suite, counted
from training.evaluation.text_table import new_table


def run(job: Job) -> Result:
    """Count the accuracy under every kind and severity for each λ, at the widest width."""
    rows = []
    sets = corrupted_sets(job.data, tuple(CORRUPTIONS), SEVERITIES)
    for kind, severity, images in progress(sets, "corruptions", total=len(CORRUPTIONS) * len(SEVERITIES)):
        extra = {"kind": kind, "severity": severity, "regime": str(CORRUPTIONS[kind].regime)}
        rows += [counted(point, images.name, job.cache.outcomes(point, images)) | extra for point in job.widest()]
    return Result(rows)


def by_kind(rows: list[Row]) -> Table:
    """Return a line for each kind, with a column for each λ; all severities together."""
    lambdas = list(dict.fromkeys(row["lambda"] for row in rows))
    table = new_table("kind", "regime", *(f"λ={lam:g}" for lam in lambdas))
    kinds = {row["kind"]: row["regime"] for row in rows}
    for kind, regime in (*kinds.items(), ("all", "")):
        cells = []
        for lam in lambdas:
            hits = [row for row in rows if row["lambda"] == lam and kind in (row["kind"], "all")]
            num_correct, num_total = (sum(row[key] for row in hits) for key in ("num_correct", "num_total"))
            cells.append(f"{100 * num_correct / num_total:.1f}")
        table.add_row(kind, regime, *cells)
    return table


def corruption_bars(rows: list[Row]) -> style.Figure:
    """Draw the accuracy under each kind of corruption, mean of five severities, with a bar for each λ."""
    lambdas = sorted({row["lambda"] for row in rows})
    kinds = sorted(dict.fromkeys(row["kind"] for row in rows), key=lambda kind: (_regime(rows, kind), kind))
    colours = style.lambda_colours(lambdas)
    with style.new_figure(12.0, 4.4) as figure:
        axes = figure.subplots()
        thickness = 0.84 / len(lambdas)
        for index, lam in enumerate(lambdas):
            means = [
                100 * np.mean([r["accuracy"] for r in rows if r["kind"] == kind and r["lambda"] == lam])
                for kind in kinds
            ]
            places = np.arange(len(kinds)) - 0.42 + thickness * (index + 0.5)
            axes.bar(places, means, thickness, color=colours[lam], label=style.lam_text(lam))
        axes.set_xticks(range(len(kinds)), [plain(kind).replace("_", "\n") for kind in kinds], fontsize=9.5)
        border = sum(_regime(rows, kind) == "high_frequency" for kind in kinds) - 0.5
        axes.axvline(border, color=style.FAINT, lw=1.0, ls=":")
        for at, text, side in ((border - 0.1, "high-frequency", "right"), (border + 0.1, "low-frequency", "left")):
            axes.annotate(
                text, (at, 1.0), (0, 3), xycoords=("data", "axes fraction"), textcoords="offset points", ha=side,
                color=style.FAINT, fontsize=9.5,
            )  # fmt: skip
        axes.grid(axis="x", visible=False)
        axes.set_ylabel("Accuracy, mean of 5 severities, %")
        axes.margins(x=0.01)
        figure.legend(loc="outside right center")
    return figure


def _regime(rows: list[Row], kind: str) -> str:
    return str(next(row["regime"] for row in rows if row["kind"] == kind))


SUITE = Suite(
    name="corruptions",
    about="Fifteen kinds of corruption after CIFAR-10-C, five severities each.",
    run=run,
    tables=(by_kind,),
    figures={"corruptions": corruption_bars},
    precisions=("float32", "int8"),
)
