"""Define the policy's inputs for a frame. A bad value becomes a state, and is never used as a number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from oat_runtime.compat import StrEnum
from oat_runtime.operating_point import OperatingPoint
from policy.image import ImageStatistics


class SignalState(StrEnum):
    """Whether a signal may be used as a number: only when it is OK."""

    OK = "ok"
    MISSING = "missing"
    STALE = "stale"
    INVALID = "invalid"
    CLOCK_REGRESSED = "clock_regressed"
    NOTHING = "nothing"
    """Of an image in which no region was named to a network that judges regions: the belief stays as it is."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One external value as it was received.

    Attributes:
        value: the number as received, even if NaN; None if nothing was ever received.
        age_s: seconds since receipt, on the clock of `Signals.now_s`.
        source: where it came from, for the record; for example a topic's name.
    """

    value: float | None = None
    age_s: float = 0.0
    source: str = ""

    def state(self, *, low: float, high: float, max_age_s: float) -> SignalState:
        """Return the state of this reading, given its range and the age up to which it counts."""
        if self.value is None:
            return SignalState.MISSING
        if self.age_s < 0:
            return SignalState.CLOCK_REGRESSED
        # Written so that NaN fails: an unknown age is old, an unknown value is invalid.
        if not self.age_s <= max_age_s:
            return SignalState.STALE
        return SignalState.OK if low <= self.value <= high else SignalState.INVALID


@dataclass(frozen=True, slots=True)
class NetworkSignals:
    """The network's result on the previous frame.

    Attributes:
        point: the operating point that produced it.
        confidence: calibrated confidence in [0, 1]; None if the frame had no region to judge.
        disagrees: whether the probe gave another label, or the share of regions for which it did; None without a probe.
        latency_ms: time of the network alone; None if unknown.
        age_s: seconds since that frame.
    """

    point: OperatingPoint
    confidence: float | None
    disagrees: bool | float | None = None
    latency_ms: float | None = None
    age_s: float = 0.0

    def state(self, *, max_age_s: float) -> SignalState:
        """Return the state of confidence and disagreement; the latency is checked separately."""
        return Reading(self.confidence, self.age_s).state(low=0.0, high=1.0, max_age_s=max_age_s)


def network_signals(
    confidences: Sequence[float],
    labels: Sequence[int],
    probed: Sequence[int] = (),
    *,
    of_regions: bool,
    point: OperatingPoint,
    latency_ms: float | None,
    age_s: float = 0.0,
) -> NetworkSignals:
    """Sum up what the network said of one frame; the node and the benchmark both take it from here.

    Args:
        confidences: of the whole image alone, or of each region.
        labels: of the same.
        probed: their labels at the opposite λ; empty without a probe.
        of_regions: the answers are of regions: then the confidence is their median, and the disagreement the share of
            other labels.
        point: the operating point that gave the answers.
        latency_ms: time of the network alone; None if unknown.
        age_s: seconds since that frame.
    """
    differ = [bool(now != then) for now, then in zip(labels, probed, strict=True)] if len(probed) else []
    confidence = median(confidences) if len(confidences) else None
    disagrees = (sum(differ) / len(differ) if of_regions else differ[0]) if differ else None
    return NetworkSignals(point, confidence, disagrees, latency_ms, age_s)


def opposite(lam: float, lambdas: tuple[float, ...]) -> float:
    """Return the λ of the probe: the end of the trained range, ascending `lambdas`, that is farther from `lam`."""
    return lambdas[0] if lam - lambdas[0] >= lambdas[-1] - lam else lambdas[-1]


@dataclass(frozen=True, slots=True)
class Override:
    """A value set by the operator, until `expires_s` on the clock of `Signals.now_s` (None: until it is taken back)."""

    value: float
    expires_s: float | None = None

    def active(self, now_s: float) -> bool:
        """Return whether the override still holds; one with an expiry does not hold at an unknown (NaN) time."""
        return self.expires_s is None or now_s < self.expires_s


@dataclass(frozen=True, slots=True)
class Signals:
    """All inputs of one decision.

    Attributes:
        now_s: monotonic time; a step backwards becomes the state CLOCK_REGRESSED.
        image: statistics of the network's input of this frame; for a network that judges regions, their mean.
        network: the network's result on the previous frame.
        confidence: environment confidence in [0, 1]; 1 is clear and trusted.
        battery: state of charge in [0, 1]; 87.0 is invalid, not 87 %.
        override_lam: the operator's λ.
        override_width: the operator's width.
        safety_lock: whether the safety point is forced.
        num_regions: regions that were named in this frame to a network that judges regions; None: it judges images.
    """

    now_s: float
    image: ImageStatistics | None = None
    network: NetworkSignals | None = None
    confidence: Reading = Reading()
    battery: Reading = Reading()
    override_lam: Override | None = None
    override_width: Override | None = None
    safety_lock: bool = False
    num_regions: int | None = None


def image_state(image: ImageStatistics | None, num_regions: int | None = None) -> SignalState:
    """Return the state of a frame's statistics: INVALID if one is not finite.

    Without statistics it is NOTHING if the frame came and no region was named in it, otherwise MISSING.
    """
    if image is None:
        return SignalState.NOTHING if num_regions == 0 else SignalState.MISSING
    return SignalState.OK if all(math.isfinite(value) for value in image) else SignalState.INVALID
