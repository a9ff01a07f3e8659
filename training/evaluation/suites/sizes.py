"""Suite `sizes`: accuracy by the size of an object in its frame, for images that were cut out of frames."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from rich.table import Table

from oat_runtime.errors import DataError
from oat_runtime.report import Row
from training.evaluation.counting import Bools
from training.evaluation.suite import Job, Result, Suite, counted_parts
from training.evaluation.text_table import new_table, share_of


def run(job: Job) -> Result:
    """Count clean images by the longer side of their boxes at every point.

    Raises:
        DataError: the images were not cut out of frames.
    """
    return Result(counted_parts(job, _sizes(job), key="size", title="sizes"))


def _sizes(job: Job) -> dict[str, Bools]:
    if job.data.sides_N is None:
        raise DataError(f"{job.data.name}: expected crops of boxes, whose sizes are known: leave out sizes")
    return sizes_of(job.data.sides_N)


def sizes_of(sides_N: npt.NDArray[np.int64]) -> dict[str, Bools]:
    """Return which boxes are of each range of sizes, by its name, the smallest first; none is empty.

    Ranges begin at the powers of two and halfway between them: 16, 24, 32, 48, 64 pixels and so on.
    """
    edges = sorted(side * 2**power for power in range(31) for side in (2, 3))
    at_N = np.searchsorted(edges, sides_N, side="right")
    found: dict[str, Bools] = {}
    for at in np.unique(at_N).tolist():
        least = edges[at - 1] if at else 0
        found[f"{least} to {edges[at] - 1} px"] = at_N == at
    return found


def by_size(rows: list[Row]) -> Table:
    """Return a line for each width and range of sizes, with a column for each λ."""
    lambdas = list(dict.fromkeys(row["lambda"] for row in rows))
    table = new_table("width", "longer side", "images", *(f"λ={lam:g}" for lam in lambdas))
    lines: dict[tuple[float, str], list[Row]] = {}
    for row in rows:
        lines.setdefault((row["width"], row["size"]), []).append(row)
    for (width, size), mine in lines.items():
        table.add_row(f"{width:g}", size, str(mine[0]["num_total"]), *map(share_of, mine))
    return table


SUITE = Suite(
    name="sizes",
    about="Clean accuracy by the longer side of the box that an image was cut out by, in pixels of its frame.",
    run=run,
    tables=(by_size,),
    needs_more=True,
    precisions=("float32", "int8"),
    check=_sizes,
)
