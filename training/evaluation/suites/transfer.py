"""Suite `transfer`: attacks made at one λ and tested at another."""

from __future__ import annotations

import numpy as np
import torch
from rich.table import Table

from oat_runtime import style
from oat_runtime.operating_point import OperatingPoint
from oat_runtime.report import Row, progress
from oat_runtime.stress.attacks import perturb
from training.evaluation.counting import Bools
from training.evaluation.suite import Job, Result, Suite, counted
from training.evaluation.text_table import new_table, share_of


def run(job: Job) -> Result:
    """Count the accuracy of each λ on the attacks made at each λ, at the widest width."""
    rows, nets = [], {point: job.plain(point) for point in job.widest()}
    for source in progress(nets, "transfer"):
        generator = torch.Generator(job.device).manual_seed(job.attack.seed)
        correct: dict[OperatingPoint, list[Bools]] = {point: [] for point in nets}
        for x_NCHW, y_N in job.batches():
            images = perturb(nets[source], x_NCHW, y_N, spec=job.attack, generator=generator, keep="best")
            with torch.no_grad():
                for point, parts in correct.items():
                    parts.append((nets[point](images).argmax(dim=1) == y_N).cpu().numpy())
        for point, parts in correct.items():
            rows.append(counted(point, job.attack.name, np.concatenate(parts)) | {"made_at": source.lam})
    return Result(rows, attacks=[job.attack])


def matrix(rows: list[Row]) -> Table:
    """Return a line for each λ that attacks were made at, with a column for each λ that they were tested at."""
    lambdas = list(dict.fromkeys(row["made_at"] for row in rows))
    table = new_table("made at λ", *(f"seen by {lam:g}" for lam in lambdas))
    for source in lambdas:
        seen = [share_of(row) for row in rows if row["made_at"] == source]
        table.add_row(f"{source:g}", *seen)
    return table


def transfer_map(rows: list[Row]) -> style.Figure:
    """Draw the accuracy of each λ (columns) on attacks made at each λ (rows)."""
    lambdas = sorted({row["lambda"] for row in rows})
    table = {(row["made_at"], row["lambda"]): 100 * row["accuracy"] for row in rows}
    values = np.array([[table[source, target] for target in lambdas] for source in lambdas])
    with style.new_figure(5.2, 5.2) as figure:
        axes = figure.subplots()
        axes.imshow(values, cmap="viridis")
        middle = 0.5 * (values.min() + values.max())
        for (row, column), value in np.ndenumerate(values):
            colour = "white" if value < middle else style.INK
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=colour)
        ticks = range(len(lambdas))
        axes.set_xticks(ticks, [f"{lam:g}" for lam in lambdas])
        axes.set_yticks(ticks, [f"{lam:g}" for lam in lambdas])
        axes.grid(False)
        axes.tick_params(length=0)
        axes.set_xlabel("λ of the network")
        axes.set_ylabel("λ at which the attack was made")
        style.title(axes, f"Accuracy under transferred {rows[0]['condition'].upper()}, %")
    return figure


SUITE = Suite(
    name="transfer",
    about="Attacks made against one λ and shown to another: changing λ is not a defence where rows and "
    "columns look alike.",
    run=run,
    tables=(matrix,),
    figures={"transfer": transfer_map},
    attacks="one",
    precisions=("float32", "int8"),
)
