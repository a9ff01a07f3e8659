"""Compare int8 with float32 on the same images: paired differences of accuracy with intervals, at every point."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from oat_runtime.bundle import Bundle, outcome_key
from oat_runtime.bundle.loss import DEFAULT_LOSS
from oat_runtime.operating_point import OperatingPoint
from oat_runtime.report import Check
from training.evaluation.counting import Bools
from training.evaluation.text_table import new_table

LARGEST_LOSS, LARGEST_ROBUST_LOSS = DEFAULT_LOSS.sa_points, DEFAULT_LOSS.ra_points
"""Points of accuracy that int8 may lose: clean at each point and robust in the mean; robust at a single point."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How much more often one network is correct than another on the same images, in points of accuracy.

    Attributes:
        mean: what was counted.
        low: lower end of the 95 % interval.
        high: upper end of it.
        num_total: images.
    """

    mean: float
    low: float
    high: float
    num_total: int

    @classmethod
    def of(cls, these_N: Bools, those_N: Bools) -> Difference:
        """Return by how much these outcomes are better than those, on the same images.

        The interval is that of Agresti and Min (2005): half an image is added to each of the four kinds of pairs. So it
        has a width even where both networks answered alike.

        Raises:
            ValueError: there are no images, or not as many on both sides.
        """
        if not len(these_N) or these_N.shape != those_N.shape:
            raise ValueError(f"expected outcomes of the same images, got {len(these_N)} and {len(those_N)}")
        won, lost, num = int((these_N & ~those_N).sum()), int((those_N & ~these_N).sum()), len(these_N)
        more, all_pairs = won + lost + 1.0, num + 2.0
        centre = (won - lost) / all_pairs
        half = 1.96 * math.sqrt(more - (won - lost) ** 2 / all_pairs) / all_pairs
        return cls(100.0 * (won - lost) / num, 100.0 * (centre - half), 100.0 * (centre + half), num)

    def __str__(self) -> str:
        """As in `-0.10 (-0.42 to 0.22)`."""
        return f"{self.mean:+.2f} ({self.low:+.2f} to {self.high:+.2f})"


def differences(bundle: Bundle) -> dict[OperatingPoint, tuple[Difference, Difference]]:
    """Return what int8 gains over float32 in SA and in RA at each trained point, on the images that both counted."""
    before, after, found = bundle.outcomes(), bundle.outcomes("int8"), {}
    for row in bundle.table("report", "int8").rows:
        keys = (outcome_key(condition, row.point) for condition in ("clean", bundle.report.attack.name))
        clean, attacked = (Difference.of(after[key], before[key][: len(after[key])]) for key in keys)
        found[row.point] = (clean, attacked)
    return found


def differences_table(found: dict[OperatingPoint, tuple[Difference, Difference]]) -> Table:
    """Return a line for each point."""
    table = new_table("width", "λ", "SA", "RA")
    clean, attacked = next(iter(found.values()))
    table.title = f"int8 less float32, points, 95 % ({clean.num_total:,} and {attacked.num_total:,} images)"
    for point, pair in sorted(found.items(), key=lambda item: (-item[0].width, item[0].lam)):
        table.add_row(f"{point.width:g}", f"{point.lam:g}", *map(str, pair))
    return table


def differences_checks(found: dict[OperatingPoint, tuple[Difference, Difference]]) -> list[Check]:
    """Return whether int8 loses no more than `LARGEST_LOSS` and `LARGEST_ROBUST_LOSS`."""
    clean, attacked = zip(*found.values(), strict=True)
    mean = float(np.mean([difference.mean for difference in attacked]))
    highs = [difference.high for difference in attacked]
    return [
        Check.at_least("SA in int8 less float32, worst point", [d.mean for d in clean], -LARGEST_LOSS, "points"),
        Check.at_least("RA in int8 less float32, mean", [mean], -LARGEST_LOSS, "points"),
        Check.at_least("RA in int8 less float32, upper end at the worst point", highs, -LARGEST_ROBUST_LOSS, "points"),
    ]
