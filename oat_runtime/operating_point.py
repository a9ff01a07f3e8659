"""Define operating points (λ, width) and the table of measurements at each of them. Loads no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from oat_runtime.compat import Self, StrEnum
from oat_runtime.errors import OperatingPointError


class StrictModel(BaseModel):
    """Base of all that is read from a file: refuses unknown keys, NaN, infinity and long texts, and never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, str_max_length=10_000)


class Regime(StrEnum):
    """A kind of environment. UNKNOWN is a belief of the policy; nothing is ever measured under it."""

    CLEAN = "clean"
    HIGH_FREQUENCY = "high_frequency"
    LOW_FREQUENCY = "low_frequency"
    ADVERSARIAL = "adversarial"
    UNKNOWN = "unknown"


Precision = Literal["float32", "bfloat16", "float16", "int8"]
"""The arithmetic of a network. An engine need not offer each, and a bundle need not be counted in each."""
MEASURED_REGIMES = (Regime.CLEAN, Regime.HIGH_FREQUENCY, Regime.LOW_FREQUENCY, Regime.ADVERSARIAL)


@dataclass(frozen=True, slots=True, order=True)
class OperatingPoint:
    """One setting of the network.

    Attributes:
        lam: trade-off λ in [0, 1]; 0 is the most accurate setting, 1 the most robust.
        width: share of channels in (0, 1].

    Raises:
        OperatingPointError: a value is not a finite number in its range.
    """

    lam: float
    width: float

    def __post_init__(self) -> None:
        """Check both ranges; NaN fails every comparison and so is refused too."""
        if not 0.0 <= self.lam <= 1.0:
            raise OperatingPointError(f"lambda must be in [0, 1], got {self.lam}")
        if not 0.0 < self.width <= 1.0:
            raise OperatingPointError(f"width must be in (0, 1], got {self.width}")

    def __str__(self) -> str:
        """As in `λ=0.4 width=0.75`."""
        return f"λ={self.lam:g} width={self.width:g}"


@dataclass(frozen=True, slots=True)
class Proportion:
    """A counted share: `num_correct` of `num_total` answers, one for each image unless it is `pooled`."""

    num_correct: int
    num_total: int
    num_images: int | None = None
    """Distinct images, where each was counted under several conditions."""

    @classmethod
    def pooled(cls, counts: Iterable[Proportion]) -> Self:
        """Return the counts of the same images under several conditions together; empty if there are none.

        Answers about one image are alike, so the interval is that of as many answers as there are images. That is never
        too narrow: the mean of several answers about an image varies no more than one of them.
        """
        found = list(counts)
        return cls(
            sum(count.num_correct for count in found),
            sum(count.num_total for count in found),
            max((count.num_images or count.num_total for count in found), default=0),
        )

    @property
    def rate(self) -> float:
        """Share in [0, 1]; NaN where nothing was counted."""
        return self.num_correct / self.num_total if self.num_total else math.nan

    def interval(self, z: float = 1.96) -> tuple[float, float]:
        """Wilson score interval (Wilson 1927) at `z` standard errors; (0, 1) where nothing was counted."""
        if not self.num_total:
            return 0.0, 1.0
        p, n = self.rate, self.num_images or self.num_total
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, centre - half), min(1.0, centre + half)


class AttackSpec(StrictModel):
    """An attack exactly as it was run, in an L∞ ball or, with `-l2` at the end of its name, in an L2 ball.

    ε and step are on the [0, 1] pixel scale.
    """

    name: str
    """Method and, for `pgd-N`, number of steps."""
    epsilon: float = Field(ge=0, le=1)
    """Radius ε of the ball."""
    step_size: float = Field(ge=0, le=1)
    """Length of a step, in an L∞ ball that of each pixel; 0 for an attack that sizes its own steps."""
    num_steps: int = Field(ge=1, le=1_000_000)
    """Number of gradient steps."""
    seed: int = 0
    """Seed of the random starts."""


class Measurement(StrictModel):
    """The count of correct images under one condition at one operating point."""

    condition: str
    """`clean`, an attack's name (`pgd-20`), or a corruption with its severity (`gaussian_noise-3`)."""
    regime: Regime
    num_correct: int = Field(ge=0)
    num_total: int = Field(ge=1, le=1_000_000_000)

    @model_validator(mode="after")
    def _counts_agree(self) -> Self:
        if self.num_correct > self.num_total:
            raise ValueError(f"{self.condition}: {self.num_correct} correct of {self.num_total} is impossible")
        if self.regime is Regime.UNKNOWN:
            raise ValueError(f"{self.condition}: nothing can be measured under the regime 'unknown'")
        return self


class OperatingRow(StrictModel):
    """What was measured at one operating point. Latency and energy come from a device profile, where there is one."""

    lam: float = Field(ge=0, le=1)
    width: float = Field(gt=0, le=1)
    measurements: tuple[Measurement, ...]
    latency_ms_p50: Annotated[float, Field(gt=0)] | None = None
    latency_ms_p99: Annotated[float, Field(gt=0)] | None = None
    energy_j: Annotated[float, Field(gt=0)] | None = None

    @property
    def point(self) -> OperatingPoint:
        """The row's operating point."""
        return OperatingPoint(self.lam, self.width)

    def accuracy(self, regime: Regime) -> Proportion:
        """Return the counts of all measurements of one regime together; empty if there are none."""
        return Proportion.pooled(
            Proportion(m.num_correct, m.num_total) for m in self.measurements if m.regime is regime
        )

    def condition(self, name: str) -> Proportion:
        """Return the counts of one condition; empty if it was not measured."""
        hits = [m for m in self.measurements if m.condition == name]
        return Proportion(sum(m.num_correct for m in hits), sum(m.num_total for m in hits))

    def minimax(self) -> float:
        """Return the lower 95 % bound of accuracy in the worst of the four measured regimes."""
        return min(self.accuracy(regime).interval()[0] for regime in MEASURED_REGIMES)


class OperatingTable(StrictModel):
    """Measured rows of one bundle: every trained λ at every trained width.

    `select` is counted on validation images and is all that the policy reads; `report` is counted on the test
    set and is read by people only.
    """

    name: Literal["select", "report"]
    dataset: str
    split: str
    attack: AttackSpec
    rows: tuple[OperatingRow, ...] = Field(min_length=1)
    bundle_sha256: str = ""
    """Identity of the bundle the rows belong to; filled in when a bundle is loaded."""
    device: str = ""
    """Device, engine and precision that the latencies belong to; empty if nothing was measured."""

    @model_validator(mode="after")
    def _rows_are_a_grid(self) -> Self:
        points = [(row.lam, row.width) for row in self.rows]
        if len(set(points)) != len(points):
            raise ValueError("an operating point occurs twice in the table")
        if len(points) != len(self.lambdas) * len(self.widths):
            raise ValueError("the table must hold every λ at every width")
        return self

    @property
    def lambdas(self) -> tuple[float, ...]:
        """All λ, ascending."""
        return tuple(sorted({row.lam for row in self.rows}))

    @property
    def widths(self) -> tuple[float, ...]:
        """All widths, ascending."""
        return tuple(sorted({row.width for row in self.rows}))

    def row(self, point: OperatingPoint) -> OperatingRow:
        """The row of one point.

        Raises:
            OperatingPointError: the table holds no such point.
        """
        for row in self.rows:
            if row.lam == point.lam and row.width == point.width:
                return row
        raise OperatingPointError(
            f"no row for {point}: the table holds λ in {list(self.lambdas)} and widths in {list(self.widths)}"
        )

    def with_rows(self, rows: tuple[OperatingRow, ...], *, device: str) -> OperatingTable:
        """A copy with other rows (say, with latencies filled in) measured on `device`."""
        return OperatingTable(**{**dict(self), "rows": rows, "device": device})
