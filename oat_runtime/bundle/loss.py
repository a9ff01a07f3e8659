"""Say what a precision loses against float32 in a bundle's own counts, and whether that is within a bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from oat_runtime.bundle.reader import Bundle
from oat_runtime.operating_point import OperatingPoint, OperatingRow, Precision, Proportion, Regime

_CLEAN = "clean"


@dataclass(frozen=True, slots=True)
class LossBound:
    """The most that `auto` may lose for speed at any operating point, in points of accuracy on `select`.

    Attributes:
        sa_points: on clean images.
        ra_points: under the worst attack that was counted.
    """

    sa_points: float = 0.5
    ra_points: float = 1.0


DEFAULT_LOSS: Final = LossBound()


@dataclass(frozen=True, slots=True)
class Loss:
    """What one precision loses against float32 at one point; negative where it gains.

    Attributes:
        point: where.
        sa_points: accuracy on clean images, in float32 less in the precision.
        ra_points: the same under the worst attack.
    """

    point: OperatingPoint
    sa_points: float
    ra_points: float

    def __str__(self) -> str:
        """As in `0.3 points SA and 0.8 RA at λ=0.4 width=1`."""
        return f"{self.sa_points:.2g} points SA and {self.ra_points:.2g} RA at {self.point}"


def losses(bundle: Bundle, precision: Precision) -> list[Loss]:
    """Return the loss at each trained point, by the counts of `select`; empty if they cannot be compared.

    They can be if the precision was counted on as many clean images as float32, and under the same attacks on as many.
    """
    if bundle.counted_in(precision) != precision:
        return []
    theirs, found = bundle.table("select", precision), []
    for row in bundle.select.rows:
        one, other = _counts(row), _counts(theirs.row(row.point))
        sizes = {name: count.num_total for name, count in one.items()}
        same = {name: other[name].num_total if name in other else 0 for name in sizes}
        if same != sizes or _CLEAN not in one or len(one) < 2:
            return []
        found.append(
            Loss(row.point, 100 * (one[_CLEAN].rate - other[_CLEAN].rate), 100 * (_worst(one) - _worst(other)))
        )
    return found


def _counts(row: OperatingRow) -> dict[str, Proportion]:
    """Return the counts on clean images and under each attack."""
    attacks = {m.condition for m in row.measurements if m.regime is Regime.ADVERSARIAL}
    counted = {m.condition for m in row.measurements}
    return {name: row.condition(name) for name in (attacks | {_CLEAN}) & counted}


def _worst(counts: dict[str, Proportion]) -> float:
    return min(count.rate for name, count in counts.items() if name != _CLEAN)


def objection(bundle: Bundle, precision: Precision, bound: LossBound) -> str:
    """Return why the loss of a precision is not known to be within a bound, for people; empty if it is."""
    found = losses(bundle, precision)
    if not found:
        return f"{bundle.manifest.name} has no figures of {precision} that compare with those of float32"
    over = [loss for loss in found if not _within(loss, bound)]
    if not over:
        return ""
    worst = max(over, key=lambda loss: max(loss.sa_points - bound.sa_points, loss.ra_points - bound.ra_points))
    return f"it loses {worst}, and may lose {bound.sa_points:g} and {bound.ra_points:g}"


def _within(loss: Loss, bound: LossBound) -> bool:
    rounding = 1e-9  # of the percentages: a loss of exactly the bound is within it
    return loss.sa_points <= bound.sa_points + rounding and loss.ra_points <= bound.ra_points + rounding
