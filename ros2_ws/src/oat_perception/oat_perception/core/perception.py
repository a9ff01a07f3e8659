"""Decide and classify without ROS: one frame and the external signals in, a prediction and its decision out.

Shape legend: C channels (RGB), H height, W width.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from oat_perception.core.regions import Box, cut_out
from oat_runtime.errors import OATError, one_line, quoted
from oat_runtime.image import network_input
from oat_runtime.operating_point import OperatingPoint, OperatingTable, Regime
from oat_runtime.runtime import OATRuntime, Prediction
from policy.belief.constants import EstimatorConstants, FittedFor, constants_of
from policy.config import PolicyConfig
from policy.controller import AdaptivePolicy
from policy.decision import ChosenBy, Decision, Rule
from policy.image import image_statistics, mean_statistics
from policy.records.record import Gap, header_line
from policy.signals import NetworkSignals, Override, Reading, Signals, network_signals

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CameraFrame:
    """One camera image.

    Attributes:
        image_HWC: uint8 RGB, any size and strides; never changed.
        received_s: when it came, on the clock of `PerceptionCore.process`'s `now_s`.
        boxes: regions to classify beside the whole image, at the same operating point; one that is None has no pixels.
            None: no detector named any, not even that there are none.
    """

    image_HWC: npt.NDArray[np.uint8]
    received_s: float
    boxes: tuple[Box | None, ...] | None = None


@dataclass(frozen=True, slots=True)
class Received:
    """The last value of one external signal. Its age counts from receipt, so a publisher's wrong clock cannot hide it.

    Attributes:
        value: as received, NaN included; None before the first one.
        received_s: when, on a steady clock.
        source: where it came from.
    """

    value: float | None = None
    received_s: float = 0.0
    source: str = ""

    def reading(self, now_s: float) -> Reading:
        """Return the signal as the policy takes it.

        Its age is at least 0: a value may come after `now_s` was taken, and this clock does not run backwards.
        """
        return Reading(self.value, 0.0 if self.value is None else max(0.0, now_s - self.received_s), self.source)


_NEVER = Reading()


@dataclass(frozen=True, slots=True)
class ExternalSignals:
    """The signals that are not images: battery and environment confidence with ages, and the operator's commands."""

    confidence: Reading = _NEVER
    battery: Reading = _NEVER
    override_lam: Override | None = None
    override_width: Override | None = None
    safety_lock: bool = False


@dataclass(frozen=True, slots=True)
class FrameResult:
    """Everything about one processed frame.

    Attributes:
        prediction: the network's result, with the point that produced it.
        probes: its results at the opposite λ, for each region of a frame with regions, else for the image; empty if no
            probe was due, or it failed.
        regions: its result for each of the frame's boxes; None for a box without pixels.
        signals: the inputs of the decision.
        decision: the policy's choice for this frame.
        note: why another point ran than the decided one, and why a probe that was due is missing; empty if neither.
        waited_ms: time from receipt to the start of processing.
        preprocess_ms: time from camera frame to network inputs, including those of its regions.
        policy_ms: time of image statistics and decision.
        probe_ms: cost of the probe; 0 without one.
        policy_failed: the policy raised, so the decision is the fallback's.
        rate_cause: what sets the decision's `max_rate_hz`, for people; empty: nothing.
        alarmed: the last frames are unlike those of the calibration; no part of the decision, which it does not move.
        record_header: what a replay needs before the record of this decision, the policy's first; empty for the others.
        gap: the policy's steps since the record before this one that had no result of their own; None: there are none.
    """

    prediction: Prediction
    probes: tuple[Prediction, ...]
    regions: tuple[Prediction | None, ...]
    signals: Signals
    decision: Decision
    note: str
    waited_ms: float
    preprocess_ms: float
    policy_ms: float
    probe_ms: float
    policy_failed: bool = False
    rate_cause: str = ""
    alarmed: bool = False
    record_header: str = ""
    gap: Gap | None = None


class PerceptionCore:
    """Run frames through policy and network. Use it from one thread at a time. No decision depends on a clock here."""

    def __init__(
        self,
        runtime: OATRuntime,
        config: PolicyConfig,
        *,
        table: OperatingTable | None = None,
        constants: EstimatorConstants | None = None,
    ) -> None:
        """Build the policy from the bundle's `select` table and estimator constants.

        Args:
            runtime: the loaded network.
            config: limits, budgets and hysteresis.
            table: the runtime's table with this device's latencies; None: the runtime's own, without.
            constants: the estimator's, fitted to this camera; None: the bundle's own.

        Raises:
            ConfigError: table and configuration contradict each other.
            DataError: the bundle's estimator constants are of another version.
        """
        shipped = runtime.bundle.estimator
        if constants is None and shipped is not None:
            constants = constants_of(shipped, where=runtime.bundle.path)
            if constants.fitted_for is None:  # a record of decisions knows no bundle, and `oat-replay` reads that alone
                constants = constants.model_copy(update={"fitted_for": FittedFor.of(runtime.bundle)})
        self.policy = AdaptivePolicy(table or runtime.table, config, constants)
        self._record_header = header_line(self.policy)
        self._runtime = runtime
        self._last: tuple[NetworkSignals, float] | None = None
        self._policy_failed = False
        limit_hz = config.max_rate_hz
        # Of the last decision, and what sets it.
        self._rate: tuple[float | None, str] = limit_hz, "max_rate_hz" if limit_hz else ""
        self._gap: Gap | None = None

    def warm(self) -> None:
        """Run everything once on a grey frame, without a decision, so that the first frame is as fast as the others."""
        spec = self._runtime.bundle.input
        grey_HWC = np.full((2 * spec.height, 2 * spec.width, 3), 127, np.uint8)
        x_CHW = network_input(grey_HWC, spec)
        image_statistics(x_CHW)
        self._runtime.predict_inputs(x_CHW[None])

    def process(self, frame: CameraFrame, *, external: ExternalSignals, now_s: float) -> FrameResult:
        """Decide on the operating point for this frame, and classify it there.

        Args:
            frame: the image.
            external: the other signals, with their ages at `now_s`.
            now_s: steady time.

        Raises:
            InputError: the frame is not a uint8 H×W×3 array; nothing was decided.
        """
        started = time.perf_counter()
        x_NCHW = self._inputs(frame)
        fitted = time.perf_counter()
        judges_regions = self._runtime.bundle.input.region_margin is not None
        signals = Signals(
            now_s=now_s,
            image=mean_statistics(x_NCHW[1:]) if judges_regions else image_statistics(x_NCHW[0]),
            network=self._previous(now_s),
            confidence=external.confidence,
            battery=external.battery,
            override_lam=external.override_lam,
            override_width=external.override_width,
            safety_lock=external.safety_lock,
            num_regions=len(frame.boxes) if judges_regions and frame.boxes is not None else None,
        )
        decision, policy_failed = self._decide(signals)
        try:
            result = self._answer(frame, x_NCHW, signals, decision, now_s=now_s, started=started, fitted=fitted)
        except Exception as error:
            self._last = None  # what the network said before was told to the policy, and counts once
            if not policy_failed:
                self._miss(f"an image failed: {quoted(error)}")
            raise
        if policy_failed:
            return replace(result, policy_failed=True, rate_cause=self._rate[1])
        header, self._record_header = self._record_header, ""
        gap, self._gap = self._gap, None
        return replace(result, record_header=header, gap=gap, rate_cause=self._rate[1], alarmed=self.policy.alarmed)

    def _answer(
        self,
        frame: CameraFrame,
        x_NCHW: npt.NDArray[np.float32],
        signals: Signals,
        decision: Decision,
        *,
        now_s: float,
        started: float,
        fitted: float,
    ) -> FrameResult:
        """Run the network where it was decided."""
        expected = self._runtime.set_point(lam=decision.point.lam, width=decision.point.width, wait=False)
        decided = time.perf_counter()
        # One batch, so that no switch comes between the image and its regions.
        prediction, *of_regions = self._runtime.predict_inputs(x_NCHW)
        answers = iter(of_regions)
        # A network that judges regions says nothing of a whole image.
        judges_regions = bool(of_regions) or self._runtime.bundle.input.region_margin is not None
        judged, x_judged_NCHW = (of_regions, x_NCHW[1:]) if judges_regions else ([prediction], x_NCHW[:1])
        predicted = time.perf_counter()
        probes: list[Prediction] = []
        notes = [_note(decision.point, expected, prediction.point, self._runtime.failure_of(expected))]
        if judged and decision.probe is not None and decision.probe != prediction.point:
            try:
                probes = self._runtime.predict_inputs(x_judged_NCHW, at=decision.probe)
            except OATError as error:  # the image has its answer
                notes.append(f"no probe: {one_line(error)}")
        probe_ms = 1e3 * (time.perf_counter() - predicted) if probes else 0.0
        # The time is that of the whole batch, where regions came with the image: the deadline is for all of one
        # inference, so regions count as a machine that is that much slower than its profile of one image.
        last = network_signals(
            [answer.confidence for answer in judged],
            [answer.label for answer in judged],
            [answer.label for answer in probes],
            of_regions=judges_regions,
            point=prediction.point,
            latency_ms=prediction.latency_ms,
        )
        self._last = last, now_s
        return FrameResult(
            prediction=prediction,
            probes=tuple(probes),
            regions=tuple(None if box is None else next(answers) for box in frame.boxes or ()),
            signals=signals,
            decision=decision,
            note="; ".join(filter(None, notes)),
            waited_ms=1e3 * (now_s - frame.received_s),
            preprocess_ms=1e3 * (fitted - started),
            policy_ms=1e3 * (decided - fitted),
            probe_ms=probe_ms,
        )

    def _decide(self, signals: Signals) -> tuple[Decision, bool]:
        """Return the policy's decision, or the fallback if it raises: its errors must not stop perception."""
        try:
            decision = self.policy.step(signals)
        except Exception as error:
            if not self._policy_failed:
                _log.exception("the policy failed: the safest point runs until it answers again")
            self._policy_failed = True
            self._miss(f"the policy failed: {quoted(error)}")
            return _fallback(self.policy.safety_point, signals, error, max_rate_hz=self._rate[0]), True
        self._policy_failed = False
        self._rate = decision.max_rate_hz, self.policy.rate_cause
        return decision, False

    def _miss(self, reason: str) -> None:
        """The policy went a step that no record will hold, so the next record says what the policy remembers now."""
        gap = Gap(1, reason, self.policy.snapshot())
        self._gap = gap if self._gap is None else self._gap.and_then(gap)

    def _inputs(self, frame: CameraFrame) -> npt.NDArray[np.float32]:
        """Return the network's inputs, (1 + R, 3, H, W): the whole image, then each region that has pixels."""
        spec = self._runtime.bundle.input
        # One crop at a time: a turned one is a copy.
        crops = (cut_out(frame.image_HWC, box, spec) for box in frame.boxes or () if box is not None)
        return np.stack([network_input(pixels, spec) for pixels in itertools.chain((frame.image_HWC,), crops)])

    def _previous(self, now_s: float) -> NetworkSignals | None:
        """Return the network's result on the previous frame, at its present age."""
        if self._last is None:
            return None
        last, at_s = self._last
        return NetworkSignals(last.point, last.confidence, last.disagrees, last.latency_ms, now_s - at_s)


def _fallback(safest: OperatingPoint, signals: Signals, error: Exception, *, max_rate_hz: float | None) -> Decision:
    """Return the safest point, or the operator's, without adapting; the rate stays as it was."""
    lam, width = (
        None if signals.safety_lock or override is None or not override.active(signals.now_s) else override.value
        for override in (signals.override_lam, signals.override_width)
    )
    unasked = ChosenBy.SAFETY_LOCK if signals.safety_lock else ChosenBy.DEFAULT
    point = OperatingPoint(safest.lam if lam is None else lam, safest.width if width is None else width)
    return Decision(
        point=point,
        changed=False,
        reason=f"the policy failed ({error!r}): the safest point runs until it answers again",
        lam_source=unasked if lam is None else ChosenBy.OPERATOR,
        width_source=unasked if width is None else ChosenBy.OPERATOR,
        rule=Rule.KEEP,
        width_rule=Rule.KEEP,
        target=point,
        runner_up=None,
        expected_accuracy=math.nan,
        posterior={regime: float(regime is Regime.UNKNOWN) for regime in Regime},
        states={},
        rejected=(),
        probe=None,
        max_rate_hz=max_rate_hz,
    )


def _note(decided: OperatingPoint, expected: OperatingPoint, ran: OperatingPoint, failure: OATError | None) -> str:
    if ran == decided:
        return ""
    if ran == expected:
        return f"{decided} runs as {ran}: no λ between 0 and the smallest trained one is offered"
    if failure is not None:
        return f"{ran} runs, since {expected} cannot be prepared: {one_line(failure)}"
    return f"{expected} is being prepared, {ran} runs until then"
