"""Define the policy's inputs for a frame. A bad value becomes a state, and is never used as a number."""

from __future__ import annotations

import math
from dataclasses import dataclass

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
        confidence: calibrated confidence in [0, 1].
        disagrees: whether the probe gave another label; None without a probe.
        latency_ms: time of the network alone; None if unknown.
        age_s: seconds since that frame.
    """

    point: OperatingPoint
    confidence: float
    disagrees: bool | None = None
    latency_ms: float | None = None
    age_s: float = 0.0

    def state(self, *, max_age_s: float) -> SignalState:
        """Return the state of confidence and disagreement; the latency is checked separately."""
        return Reading(self.confidence, self.age_s).state(low=0.0, high=1.0, max_age_s=max_age_s)


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
        image: statistics of the network's input of this frame.
        network: the network's result on the previous frame.
        confidence: environment confidence in [0, 1]; 1 is clear and trusted.
        battery: state of charge in [0, 1]; 87.0 is invalid, not 87 %.
        override_lam: the operator's λ.
        override_width: the operator's width.
        safety_lock: whether the safety point is forced.
    """

    now_s: float
    image: ImageStatistics | None = None
    network: NetworkSignals | None = None
    confidence: Reading = Reading()
    battery: Reading = Reading()
    override_lam: Override | None = None
    override_width: Override | None = None
    safety_lock: bool = False


def image_state(image: ImageStatistics | None) -> SignalState:
    """Return the state of a frame's statistics: MISSING without a frame, INVALID if one is not finite."""
    if image is None:
        return SignalState.MISSING
    return SignalState.OK if all(math.isfinite(value) for value in image) else SignalState.INVALID
