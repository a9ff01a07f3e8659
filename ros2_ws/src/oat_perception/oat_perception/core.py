"""The node without ROS: one camera frame and the outside signals in, one prediction and its decision out.

Shape legend: C channels (RGB), H height, W width.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from oat_runtime.bundle import Bundle
from oat_runtime.image import network_input
from oat_runtime.operating_point import OperatingPoint, OperatingTable
from oat_runtime.runtime import Prediction
from policy.config import PolicyConfig
from policy.controller import AdaptivePolicy
from policy.decision import Decision
from policy.estimator import EstimatorConstants
from policy.image import image_statistics
from policy.record import header_line, step_line
from policy.signals import NetworkSignals, Override, Reading, Signals

_FLUSH_PERIOD_S = 1.0
_Item = TypeVar("_Item")


class Runtime(Protocol):
    """What is asked of `oat_runtime.OATRuntime`."""

    bundle: Bundle
    table: OperatingTable

    def set_point(self, *, lam: float, width: float, wait: bool = True) -> OperatingPoint:
        """Run at this point from now on, or as soon as it is prepared; returns the point that will run."""
        ...

    def predict(self, frame_HWC: npt.NDArray[np.uint8]) -> Prediction:
        """Classify one frame at the active point."""
        ...

    def predict_at(self, frame_HWC: npt.NDArray[np.uint8], point: OperatingPoint) -> Prediction:
        """Classify one frame at another prepared point."""
        ...


@dataclass(frozen=True, slots=True)
class Frame:
    """One camera image.

    Attributes:
        image_HWC: uint8 RGB, any size and strides; never changed.
        received_s: when it came, on the clock of `PerceptionCore.process`'s `now_s`.
    """

    image_HWC: npt.NDArray[np.uint8]
    received_s: float


@dataclass(frozen=True, slots=True)
class Received:
    """The last value of one outside signal. Its age counts from receipt, so a publisher's wrong clock cannot hide it.

    Attributes:
        value: as received, NaN included; None before the first one.
        received_s: when, on a steady clock.
        source: where it came from.
    """

    value: float | None = None
    received_s: float = 0.0
    source: str = ""

    def reading(self, now_s: float) -> Reading:
        """As the policy takes it."""
        return Reading(self.value, 0.0 if self.value is None else now_s - self.received_s, self.source)


_NEVER = Reading()


@dataclass(frozen=True, slots=True)
class ExternalSignals:
    """What comes from outside the camera: battery and environment confidence with ages, and the operator's wishes."""

    confidence: Reading = _NEVER
    battery: Reading = _NEVER
    override_lam: Override | None = None
    override_width: Override | None = None
    safety_lock: bool = False


@dataclass(frozen=True, slots=True)
class FrameResult:
    """Everything about one processed frame.

    Attributes:
        prediction: what the network said, naming the point that said it.
        probe: what it said at the probed point; None where no probe was due.
        signals: the inputs of the decision.
        decision: what the policy chose for this frame.
        note: why the point that ran is not the decided one; empty where it is.
        waited_ms: time from receipt to the start of processing.
        preprocess_ms: camera frame to network input.
        policy_ms: image statistics and decision.
        probe_ms: cost of the probe; 0 without one.
    """

    prediction: Prediction
    probe: Prediction | None
    signals: Signals
    decision: Decision
    note: str
    waited_ms: float
    preprocess_ms: float
    policy_ms: float
    probe_ms: float


class PerceptionCore:
    """Runs frames through policy and network. Used from one thread at a time; never reads a clock for a decision."""

    def __init__(self, runtime: Runtime, config: PolicyConfig) -> None:
        """Build the policy from the bundle's `select` table and estimator constants.

        Raises:
            ConfigError: table and configuration contradict each other.
            pydantic.ValidationError: the bundle's estimator constants are of another version.
        """
        constants = runtime.bundle.estimator
        self.policy = AdaptivePolicy(
            runtime.table, config, None if constants is None else EstimatorConstants.model_validate(constants)
        )
        self._runtime = runtime
        self._last: tuple[NetworkSignals, float] | None = None

    def warm(self) -> None:
        """Run everything once on a grey frame, without a decision, so that the first frame is as fast as the others."""
        spec = self._runtime.bundle.input
        grey_HWC = np.full((2 * spec.height, 2 * spec.width, 3), 127, np.uint8)
        image_statistics(network_input(grey_HWC, spec))
        self._runtime.predict(grey_HWC)

    def process(self, frame: Frame, *, external: ExternalSignals, now_s: float) -> FrameResult:
        """Decide on the operating point for this frame, and classify it there.

        Args:
            frame: the image.
            external: the other signals, with their ages at `now_s`.
            now_s: steady time.

        Raises:
            InputError: the frame is not a uint8 H×W×3 array; nothing was decided.
        """
        started = time.perf_counter()
        x_CHW = network_input(frame.image_HWC, self._runtime.bundle.input)
        # Resampled once: a frame of exactly the network's size goes through the runtime to the bit.
        fitted_HWC = np.ascontiguousarray(np.rint(x_CHW * np.float32(255)).astype(np.uint8).transpose(1, 2, 0))
        fitted = time.perf_counter()
        signals = Signals(
            now_s=now_s,
            image=image_statistics(x_CHW),
            network=self._previous(now_s),
            confidence=external.confidence,
            battery=external.battery,
            override_lam=external.override_lam,
            override_width=external.override_width,
            safety_lock=external.safety_lock,
        )
        decision = self.policy.step(signals)
        expected = self._runtime.set_point(lam=decision.point.lam, width=decision.point.width, wait=False)
        decided = time.perf_counter()
        prediction = self._runtime.predict(fitted_HWC)
        predicted = time.perf_counter()
        probe = None
        if decision.probe is not None and decision.probe != prediction.point:
            probe = self._runtime.predict_at(fitted_HWC, decision.probe)
        probe_ms = 0.0 if probe is None else 1e3 * (time.perf_counter() - predicted)
        self._last = (
            NetworkSignals(
                point=prediction.point,
                confidence=prediction.confidence,
                disagrees=None if probe is None else probe.label != prediction.label,
                latency_ms=prediction.latency_ms,
            ),
            now_s,
        )
        return FrameResult(
            prediction=prediction,
            probe=probe,
            signals=signals,
            decision=decision,
            note=_note(decision.point, expected, prediction.point),
            waited_ms=1e3 * (now_s - frame.received_s),
            preprocess_ms=1e3 * (fitted - started),
            policy_ms=1e3 * (decided - fitted),
            probe_ms=probe_ms,
        )

    def _previous(self, now_s: float) -> NetworkSignals | None:
        """What the network said about the previous frame, at its present age."""
        if self._last is None:
            return None
        last, at_s = self._last
        return NetworkSignals(last.point, last.confidence, last.disagrees, last.latency_ms, now_s - at_s)


def _note(decided: OperatingPoint, expected: OperatingPoint, ran: OperatingPoint) -> str:
    if ran == decided:
        return ""
    if ran == expected:
        return f"{decided} runs as {ran}: no λ between 0 and the smallest trained one is offered"
    return f"{expected} is being prepared, {ran} runs until then"


class Mailbox(Generic[_Item]):
    """One slot between two threads. The newest item wins; what it replaced is counted."""

    def __init__(self) -> None:
        """Start open and empty."""
        self._condition = threading.Condition()
        self._item: _Item | None = None
        self._closed = False
        self.num_dropped = 0

    def put(self, item: _Item) -> None:
        """Leave an item, in place of one that nobody took."""
        with self._condition:
            self.num_dropped += self._item is not None
            self._item = item
            self._condition.notify()

    def take(self, *, not_before_s: float = 0.0) -> _Item | None:
        """Wait for an item, at least until `not_before_s` (`time.monotonic`); None once the box is closed."""
        with self._condition:
            while not self._closed:
                early_s = not_before_s - time.monotonic()
                if self._item is not None and early_s <= 0:
                    item, self._item = self._item, None
                    return item
                self._condition.wait(early_s if early_s > 0 else None)
            return None

    def close(self) -> None:
        """Let the waiting thread go."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()


class DecisionLog:
    """Decisions as JSON lines, which `oat-replay` turns back into the same decisions."""

    def __init__(self, path: Path, policy: AdaptivePolicy) -> None:
        """Start a log; an older one at `path` is kept as `<path>.old`.

        Raises:
            OSError: the file cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            os.replace(path, path.with_name(path.name + ".old"))
        self._file = path.open("w", encoding="utf-8")
        self._file.write(header_line(policy) + "\n")
        self._flushed_s = 0.0

    def write(self, result: FrameResult) -> None:
        """Add one decision; what was written reaches the file within about a second.

        Raises:
            OSError: the file can no longer be written.
        """
        self._file.write(step_line(result.signals, result.decision) + "\n")
        if result.signals.now_s - self._flushed_s >= _FLUSH_PERIOD_S:
            self._file.flush()
            self._flushed_s = result.signals.now_s

    def close(self) -> None:
        """Finish the file."""
        self._file.close()
