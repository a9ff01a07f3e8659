"""Suite `groups`: accuracy of each group of images, such as a robot's session, and its interval over groups."""

from __future__ import annotations

import numpy as np
from rich.table import Table

from oat_runtime.data import ImageSet
from oat_runtime.errors import DataError
from oat_runtime.operating_point import Proportion
from oat_runtime.report import Row
from training.evaluation.counting import Bools
from training.evaluation.suite import Job, Result, Suite, counted_parts, widths_of
from training.evaluation.text_table import new_table, share_of

_LEAST = 20
"""Images of a group that has a line of its own; what fewer say is chance."""
_STUDENTS_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""For 1 to 9 degrees of freedom, two-sided 95 %."""


def run(job: Job) -> Result:
    """Count clean images of each group at every point."""
    return Result(counted_parts(job, _groups(job), key="group", title="groups"))


def _groups(job: Job) -> dict[str, Bools]:
    return groups_of(job.data)


def groups_of(data: ImageSet) -> dict[str, Bools]:
    """Return which images are of each group, by its name: its folder, where each group has one of its own.

    Raises:
        DataError: the images come in no groups, or in a single one.
    """
    if data.groups_N is None:
        raise DataError(f"{data.name}: expected images in groups, such as sessions: leave out groups")
    groups, firsts = np.unique(data.groups_N, return_index=True)
    if len(groups) < 2:
        raise DataError(
            f"{data.name}: expected images of at least 2 groups, such as sessions, and all {len(data)} that are "
            "counted are of one: count more of them (--count), or leave out groups"
        )
    names = [f"group {group}" for group in groups.tolist()]
    if data.names is not None:
        names = [data.names[first].partition("#")[0] for first in firsts.tolist()]
        folders = [name.rpartition("/")[0] for name in names]
        if all(folders) and len(set(folders)) == len(folders):
            names = folders
    return {name: data.groups_N == group for name, group in sorted(zip(names, groups.tolist(), strict=True))}


def over_groups(rows: list[Row]) -> tuple[float, float]:
    """Return the 95 % interval of the accuracy over all images if the groups are drawn anew, each whole.

    Images of one group are alike, so that an interval that takes each for itself is too narrow. It is Wilson's, of as
    many images as say as much one by one as these do in groups, and with Student's t for the number of groups: few of
    them say little of how much groups differ. It is never narrower than that of single images.

    Args:
        rows: of one point, one for each group; at least 2.
    """
    correct_G, total_G = (np.array([row[key] for row in rows], np.float64) for key in ("num_correct", "num_total"))
    num_groups, num_images = len(rows), float(total_G.sum())
    rate = float(correct_G.sum()) / num_images
    square = float(((correct_G - rate * total_G) ** 2).sum())
    # The variance of a ratio over groups is `square` times G / (G - 1) / images²; of single images, p (1 - p) / images.
    worth = rate * (1.0 - rate) * num_images**2 * (num_groups - 1) / (num_groups * square) if square else num_images
    counts = Proportion(int(correct_G.sum()), int(num_images), max(1, int(min(worth, num_images))))
    return counts.interval(students_t(num_groups - 1))


def students_t(freedom: int) -> float:
    """Return how many standard errors reach to the ends of a 95 % interval, to within 0.2 %.

    Args:
        freedom: degrees of freedom, at least 1.
    """
    if freedom <= len(_STUDENTS_T):
        return _STUDENTS_T[freedom - 1]
    return 1.96 + 2.37 / freedom + 2.82 / freedom**2


def by_group(rows: list[Row]) -> Table:
    """Return a line for each group of at least 20 images and one for all others, with a column for each λ."""
    lambdas = list(dict.fromkeys(row["lambda"] for row in rows))
    width = widths_of(rows)[0]
    cells = {(row["group"], row["lambda"]): row for row in rows if row["width"] == width}
    names = list(dict.fromkeys(row["group"] for row in rows))
    table = new_table("group", "images", *(f"λ={lam:g}, width {width:g}" for lam in lambdas))
    large = [name for name in names if cells[name, lambdas[0]]["num_total"] >= _LEAST]
    small = [name for name in names if name not in large]
    for name in large:
        mine = [cells[name, lam] for lam in lambdas]
        table.add_row(name, str(mine[0]["num_total"]), *map(share_of, mine))
    if small:
        sums = [
            {key: sum(cells[name, lam][key] for name in small) for key in ("num_correct", "num_total")}
            for lam in lambdas
        ]
        table.add_row(f"{len(small)} of fewer than {_LEAST}", str(sums[0]["num_total"]), *map(share_of, sums))
    return table


def all_groups(rows: list[Row]) -> Table:
    """Return a line for each point: accuracy over all images with its interval over groups, and the worst group."""
    table = new_table("width", "λ", "accuracy", "95 % over groups", "worst group", "of it")
    points: dict[tuple[float, float], list[Row]] = {}
    for row in rows:
        points.setdefault((row["width"], row["lambda"]), []).append(row)
    for (width, lam), mine in points.items():
        share = sum(row["num_correct"] for row in mine) / sum(row["num_total"] for row in mine)
        low, high = over_groups(mine)
        large = [row for row in mine if row["num_total"] >= _LEAST] or mine
        worst = min(large, key=lambda row: float(row["accuracy"]))
        table.add_row(
            f"{width:g}", f"{lam:g}", f"{100 * share:.1f}", f"{100 * low:.1f} – {100 * high:.1f}", worst["group"],
            share_of(worst),
        )  # fmt: skip
    return table


SUITE = Suite(
    name="groups",
    about="Clean accuracy of each group of images that are alike, such as a robot's session. The interval over groups "
    "says what other groups may bring; it is never narrower than that of single images.",
    run=run,
    tables=(by_group, all_groups),
    needs_more=True,
    precisions=("float32", "int8"),
    check=_groups,
)
