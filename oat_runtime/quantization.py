"""Say what int8 needs beside a network's weights: the range of every activation that is held in 8 bits.

Ranges are measured once, when a bundle is exported, at each trained λ and width. They travel with the bundle as plain
numbers, so a robot calibrates nothing. A *site* is a place in a network where an activation is rounded to 8 bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from oat_runtime.architecture import ModelConfig, knot_weights, layout
from oat_runtime.compat import Self
from oat_runtime.operating_point import OperatingPoint, StrictModel

Range = tuple[float, float]
"""The smallest and the largest value of an activation. Zero is in it, because 8 bits must hold zero exactly."""
Ranges = Mapping[str, Range]
"""One range a site, by the names of `activation_sites`."""

_NARROWEST, _LARGEST = 1e-6, 1e6
QUANTIZATION: Final = "quantization.json"
"""Name of the file in a bundle."""

Low = Annotated[float, Field(ge=-_LARGEST, le=0)]
High = Annotated[float, Field(ge=0, le=_LARGEST)]


def activation_sites(config: ModelConfig) -> tuple[str, ...]:
    """Return the names of the sites of a network, in the order in which an image passes them.

    `stem` is what the blocks get. Within a block, `pre` is the first ReLU of a pre-activation block, `conv1` the ReLU
    behind the first convolution, `conv2` and `shortcut` what is added, and the block's own name the sum. The last sum
    is no site: the classifier and all before it that is not a block's stay in float32.
    """
    parts, sites = layout(config), ["stem"]
    for index, block in enumerate(parts.blocks):
        name = f"blocks.{index}"
        sites += [f"{name}.pre"] if parts.pre_activation else []
        sites += [f"{name}.shortcut"] if block.shortcut is not None else []
        sites += [f"{name}.conv1", f"{name}.conv2", name]
    return tuple(sites[:-1])


def as_range(low: float, high: float) -> Range:
    """Return the range of an activation whose values were seen between `low` and `high`."""
    return min(low, 0.0), max(high, 0.0, min(low, 0.0) + _NARROWEST)


def union(one: Ranges, other: Ranges) -> dict[str, Range]:
    """Return ranges that hold what either holds; both have the same sites."""
    return {site: (min(low, other[site][0]), max(high, other[site][1])) for site, (low, high) in one.items()}


class PointRanges(StrictModel):
    """The ranges of one trained λ and width."""

    lam: float = Field(ge=0, le=1)
    width: float = Field(gt=0, le=1)
    ranges: tuple[tuple[Low, High], ...]
    """One a site, in the order of `Quantization.sites`."""

    @model_validator(mode="after")
    def _wide_enough(self) -> Self:
        if any(high - low < _NARROWEST * (1 - 1e-6) for low, high in self.ranges):
            raise ValueError(f"a range must be at least {_NARROWEST:g} wide")
        return self


class Quantization(StrictModel):
    """The file that a bundle's manifest names under `quantization`: what int8 needs beside the weights."""

    schema_version: Literal[1] = 1
    form: Literal["activation ranges"] = "activation ranges"
    """Per-tensor ranges of activations. Weights are rounded from the float ones: 8 bits, symmetric, per channel."""
    measured: str = ""
    """On what the ranges were measured, for people."""
    sites: tuple[Annotated[str, Field(max_length=100)], ...] = Field(max_length=1000)
    points: tuple[PointRanges, ...] = Field(max_length=256)

    @model_validator(mode="after")
    def _one_range_a_site(self) -> Self:
        if any(len(point.ranges) != len(self.sites) for point in self.points):
            raise ValueError("each point must hold one range for each site")
        return self

    @classmethod
    def of(cls, config: ModelConfig, ranges: Mapping[OperatingPoint, Ranges], *, measured: str) -> Self:
        """Make the file's content.

        Args:
            config: the architecture.
            ranges: of each trained λ at each width.
            measured: on what they were measured.

        Raises:
            ValueError: a site or a point is missing or too much, or a range has no zero in it.
        """
        sites = activation_sites(config)
        if strange := next((set(found) ^ set(sites) for found in ranges.values() if set(found) != set(sites)), None):
            raise ValueError(f"expected one range for each of the {len(sites)} sites, got it wrong for {min(strange)}")
        points = tuple(
            PointRanges(lam=point.lam, width=point.width, ranges=tuple(found[site] for site in sites))
            for point, found in ranges.items()
        )
        made = cls(measured=measured, sites=sites, points=points)
        made.check(config)
        return made

    def check(self, config: ModelConfig) -> None:
        """Hold the sites and the points to an architecture.

        Raises:
            ValueError: a site or a point is missing, too much, or in another order.
        """
        if self.sites != (expected := activation_sites(config)):
            raise ValueError(f"its sites are not the {len(expected)} of {config.name}")
        points = [(row.lam, row.width) for row in self.points]
        if sorted(points) != sorted((lam, width) for lam in config.lambdas for width in config.widths):
            raise ValueError("it must hold each trained lambda at each width once")

    def at(self, point: OperatingPoint, config: ModelConfig) -> dict[str, Range]:
        """Return the ranges of any point that the bundle offers. A λ between two knots takes what holds for both.

        Raises:
            OperatingPointError: λ or width is not offered.
        """
        config.width_index(point.width)
        weights = knot_weights(point.lam, config.lambdas)
        used = {knot for knot, weight in zip(config.lambdas, weights, strict=True) if weight > 0.0}
        return _union_of(
            dict(zip(self.sites, row.ranges, strict=True))
            for row in self.points
            if row.lam in used and row.width == point.width
        )


def _union_of(several: Iterable[dict[str, Range]]) -> dict[str, Range]:
    first, *rest = several
    for other in rest:
        first = union(first, other)
    return first
