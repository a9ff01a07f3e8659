"""Suite `classes`: which classes the network gets right, and for which it takes them, at both ends of λ."""

from __future__ import annotations

from collections import Counter

import numpy as np
from rich.table import Table

from oat_runtime import style
from oat_runtime.operating_point import AttackSpec, OperatingPoint, Proportion
from oat_runtime.report import Row, progress
from oat_runtime.text import plain
from training.evaluation.counting import predictions_of
from training.evaluation.suite import Job, Result, Suite
from training.evaluation.text_table import new_table, share, share_of

_NUM_PAIRS = 10
_MOST_NAMED, _MOST_NUMBERED = 64, 12
"""Classes up to which a matrix names them, and writes a number into each cell."""


def run(job: Job) -> Result:
    """Count what images of each class are taken for, clean and under attack, at the ends of λ and the widest width."""
    points = job.widest()
    ends = dict.fromkeys((points[0], points[-1]))
    names = job.data.class_names or tuple(map(str, range(job.judged.model.config.num_classes)))
    rows: list[Row] = []
    for point in progress(ends, "classes", total=len(ends)):
        for attack in (None, job.attack):
            taken_KK = confusion(job, point, attack)
            for label, taken_K in enumerate(taken_KK.tolist()):
                if sum(taken_K):
                    taken_for = {name: num for name, num in zip(names, taken_K, strict=True) if num}
                    rows.append(_row(point, attack, names[label], taken_for))
    return Result(rows, attacks=[job.attack])


def confusion(job: Job, point: OperatingPoint, attack: AttackSpec | None) -> np.ndarray:
    """Return how many images of each class (rows) were taken for each class (columns), (K, K) int64.

    An attacked image counts with the class that its attack reached first, as in `counting.outcomes_of`.
    """
    num_classes = job.judged.model.config.num_classes
    taken_KK = np.zeros((num_classes, num_classes), dtype=np.int64)
    found_N = predictions_of(job.plain(point), job.data, attack=attack, device=job.device)
    np.add.at(taken_KK, (job.data.labels_N, found_N), 1)
    return taken_KK


def _row(point: OperatingPoint, attack: AttackSpec | None, name: str, taken_for: dict[str, int]) -> Row:
    count = Proportion(taken_for.get(name, 0), sum(taken_for.values()))
    low, high = count.interval()
    return {
        "lambda": point.lam, "width": point.width, "condition": "clean" if attack is None else attack.name,
        "class": name, "num_correct": count.num_correct, "num_total": count.num_total, "accuracy": count.rate,
        "low_95": low, "high_95": high, "taken_for": taken_for,
    }  # fmt: skip


def _columns(rows: list[Row]) -> list[tuple[float, str]]:
    return list(dict.fromkeys((row["lambda"], row["condition"]) for row in rows))


def by_class(rows: list[Row]) -> Table:
    """Return a line for each class, with a column for each λ and condition; the worst in the last column first."""
    columns = _columns(rows)
    cells = {(row["class"], row["lambda"], row["condition"]): row for row in rows}
    classes = list(dict.fromkeys(row["class"] for row in rows))
    last_lam, last_condition = columns[-1]
    classes.sort(key=lambda name: cells[name, last_lam, last_condition]["accuracy"])
    table = new_table("class", "images", *(f"λ={lam:g}, {condition}" for lam, condition in columns))
    for name in classes:
        mine = [cells[name, lam, condition] for lam, condition in columns]
        table.add_row(name, str(mine[0]["num_total"]), *map(share_of, mine))
    return table


def confused(rows: list[Row]) -> Table:
    """Return the pairs of classes that are confused most often on clean images, at each end of λ."""
    table = new_table("λ", "class", "taken for", "images, %")
    for lam in dict.fromkeys(row["lambda"] for row in rows):
        pairs: Counter[tuple[str, str, int]] = Counter()
        for row in rows:
            if row["lambda"] == lam and row["condition"] == "clean":
                for other, num in row["taken_for"].items():
                    if other != row["class"]:
                        pairs[row["class"], other, row["num_total"]] = num
        for (name, other, total), num in pairs.most_common(_NUM_PAIRS):
            table.add_row(f"{lam:g}", name, other, share(Proportion(num, total)))
    return table


def confusion_maps(rows: list[Row]) -> style.Figure:
    """Draw what each class (rows) is taken for (columns), in per cent of its images: clean above, attacked below."""
    columns = _columns(rows)
    lambdas = list(dict.fromkeys(lam for lam, _ in columns))
    conditions = list(dict.fromkeys(condition for _, condition in columns))
    # What images are taken for is shown in full, also a class that none of them is of. Its row is empty.
    names = list(dict.fromkeys([*(row["class"] for row in rows), *(name for row in rows for name in row["taken_for"])]))
    side = 2.2 + 0.3 * min(len(names), 24)
    with style.new_figure(side * len(lambdas), side * len(conditions)) as figure:
        panels = figure.subplots(len(conditions), len(lambdas), squeeze=False)
        for (down, across), axes in np.ndenumerate(panels):
            lam, condition = lambdas[across], conditions[down]
            shares = np.full((len(names), len(names)), np.nan)
            for row in rows:
                if (row["lambda"], row["condition"]) == (lam, condition):
                    taken = [row["taken_for"].get(name, 0) / row["num_total"] for name in names]
                    shares[names.index(row["class"])] = 100 * np.array(taken)
            drawn = axes.imshow(shares, cmap="viridis", vmin=0, vmax=100)
            if len(names) <= _MOST_NUMBERED:
                for column, row in np.argwhere(~np.isnan(shares.T)):
                    value = shares[row, column]
                    colour = "white" if value < 50 else style.INK
                    axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=8.5)
            if len(names) <= _MOST_NAMED:
                shown = [plain(name) for name in names]
                axes.set_xticks(range(len(names)), shown, rotation=90, fontsize=min(9.5, 250 / len(names)))
                axes.set_yticks(range(len(names)), shown, fontsize=min(9.5, 250 / len(names)))
            else:
                axes.set_xticks([])
                axes.set_yticks([])
            axes.grid(False)
            axes.tick_params(length=0)
            style.title(axes, f"{style.lam_text(lam)}, {condition}")
        figure.colorbar(drawn, ax=list(panels.flat), shrink=0.6, label="% of the row")
        style.caption(
            figure, "Per cent of each row's images that were taken for the column's class. Rows: true classes."
        )
    return figure


SUITE = Suite(
    name="classes",
    about="Accuracy of each class, and what its images are taken for, at the most accurate and the most robust λ.",
    run=run,
    tables=(by_class, confused),
    figures={"confusion": confusion_maps},
    attacks="one",
    precisions=("float32", "int8"),
)
