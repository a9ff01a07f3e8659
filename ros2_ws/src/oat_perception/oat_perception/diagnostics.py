"""What the node says of its own health once a second, in the manner of REP 107. The tally is kept here too."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from oat_perception.core import ExternalSignals, FrameResult
from policy.config import PolicyConfig
from policy.signals import Reading, SignalState

_WINDOW = 300
"""Frames that percentiles are taken over."""
_RECENT_S = 5.0
"""Time that the rate is taken over, and for which a refused image is a warning."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The tally at one moment; times on the steady clock."""

    num_received: int
    num_processed: int
    num_errors: int
    num_probes: int
    refused: Mapping[str, int]
    num_out_of_order: int
    recent_refusal: str
    last_received_s: float | None
    in_work_since_s: float | None
    rate_hz: float
    inference_ms: tuple[float, float]
    total_ms: tuple[float, float]
    policy_ms: tuple[float, float]
    last: FrameResult | None


@dataclass(slots=True)
class Tally:
    """Counts of one activation. Written by the receiving and by the inference thread."""

    num_received: int = 0
    num_processed: int = 0
    num_errors: int = 0
    num_probes: int = 0
    num_out_of_order: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    last_received_s: float | None = None
    in_work_since_s: float | None = None
    _last_stamp_ns: int = 0
    _last_refusal: tuple[float, str] | None = None
    _done_s: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    _inference_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    _total_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    _policy_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    _last: FrameResult | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def received(self, now_s: float, stamp_ns: int) -> None:
        """An image message came, good or bad. A stamp before the last one: a bag began again, or a clock was set."""
        with self._lock:
            self.num_received += 1
            self.last_received_s = now_s
            self.num_out_of_order += stamp_ns < self._last_stamp_ns
            self._last_stamp_ns = stamp_ns

    def begin(self, now_s: float | None) -> None:
        """An image is taken into work; None: it is done with."""
        self.in_work_since_s = now_s

    def refuse(self, reason: str, now_s: float) -> None:
        """An image was dropped; counted by what stands before the colon."""
        with self._lock:
            self.refused[reason.split(":")[0]] += 1
            self._last_refusal = now_s, reason

    def failed(self) -> None:
        """An image could not be processed for a reason that is not its own fault."""
        with self._lock:
            self.num_errors += 1

    def processed(self, result: FrameResult, *, now_s: float, total_ms: float) -> None:
        """A result was published."""
        with self._lock:
            self.num_processed += 1
            self.num_probes += result.probe is not None
            self._done_s.append(now_s)
            self._inference_ms.append(result.prediction.latency_ms)
            self._total_ms.append(total_ms)
            self._policy_ms.append(result.policy_ms)
            self._last = result

    def snapshot(self, now_s: float) -> Snapshot:
        """All of it at one moment."""
        with self._lock:
            recent = [done_s for done_s in self._done_s if now_s - done_s <= _RECENT_S]
            refused_s, refusal = self._last_refusal or (now_s, "")
            span_s = now_s - recent[0] if recent else 0.0
            return Snapshot(
                num_received=self.num_received,
                num_processed=self.num_processed,
                num_errors=self.num_errors,
                num_probes=self.num_probes,
                num_out_of_order=self.num_out_of_order,
                refused=dict(self.refused),
                recent_refusal=refusal if now_s - refused_s <= _RECENT_S else "",
                last_received_s=self.last_received_s,
                in_work_since_s=self.in_work_since_s,
                rate_hz=len(recent) / span_s if span_s > 0 else 0.0,
                inference_ms=_percentiles(self._inference_ms),
                total_ms=_percentiles(self._total_ms),
                policy_ms=_percentiles(self._policy_ms),
                last=self._last,
            )


@dataclass(frozen=True, slots=True)
class Health:
    """What the statuses are made from.

    Attributes:
        node: the node's full name.
        state: lifecycle state.
        problem: why the last transition failed; empty where it did not.
        listening_since_s: when the node began to listen to the camera; None while nobody wants a result.
        incompatible_qos: policy that keeps a camera's images away; empty: none does.
        bundle: name, hash and engine of what is loaded; empty while unconfigured.
        tally: the counts; None unless active.
        num_dropped: images replaced by newer ones before they were processed.
        signals: state and age (None: never received) of each outside signal.
        machine: readings of the machine, by name and unit.
        camera_timeout_s: silence of the camera that counts as such.
        policy_timeout_s: time without a decision on an image in work that counts as silence.
        now_s: steady time.
    """

    node: str
    state: str
    problem: str
    listening_since_s: float | None
    incompatible_qos: str
    bundle: Mapping[str, str]
    tally: Snapshot | None
    num_dropped: int
    signals: Mapping[str, tuple[SignalState, float | None]]
    machine: Mapping[str, str]
    camera_timeout_s: float
    policy_timeout_s: float
    now_s: float


def signal_states(config: PolicyConfig, external: ExternalSignals) -> dict[str, tuple[SignalState, float | None]]:
    """State and age of the outside signals that this robot is meant to have."""
    found: dict[str, tuple[Reading, float]] = {}
    if external.confidence.value is not None or config.confidence_topic == "required":
        found["environment confidence"] = external.confidence, config.confidence_max_age_s
    if config.battery_ladder:
        found["battery"] = external.battery, config.battery_max_age_s
    return {
        name: (reading.state(low=0.0, high=1.0, max_age_s=limit_s), None if reading.value is None else reading.age_s)
        for name, (reading, limit_s) in found.items()
    }


def statuses(health: Health) -> list[DiagnosticStatus]:
    """One status each for node, machine, camera, network, policy, operating point and outside signals.

    Only those of node and machine unless the node is active.
    """
    level = DiagnosticStatus.ERROR if health.problem else DiagnosticStatus.OK
    found = [
        _status(health, "node", level, "; ".join(filter(None, [health.state, health.problem])), health.bundle),
        _status(health, "machine", DiagnosticStatus.OK, "", health.machine),
    ]
    if (tally := health.tally) is not None:
        found += [_camera(health, tally), _network(health, tally), _policy(health, tally), _point(health, tally)]
        found += [_signal(health, name) for name in health.signals]
    return found


def silences(found: Iterable[DiagnosticStatus]) -> dict[str, str]:
    """What is not as it should be, by the part's name."""
    bad = [status for status in found if status.level != DiagnosticStatus.OK]
    return {status.name.rpartition(": ")[2]: status.message for status in bad}


def _camera(health: Health, tally: Snapshot) -> DiagnosticStatus:
    level, message = DiagnosticStatus.OK, "images arrive"
    if health.listening_since_s is None:
        message = "not listened to: nobody subscribes to a result"
    else:
        last_s = tally.last_received_s
        silent_s = health.now_s - max(last_s or 0.0, health.listening_since_s)
        if silent_s > health.camera_timeout_s:
            level = DiagnosticStatus.STALE
            message = "no image yet" if last_s is None else f"no image for {silent_s:.1f} s"
            if health.incompatible_qos:
                message += f": a camera offers another {health.incompatible_qos} than image_reliability asks for"
        elif last_s is None:
            message = "no image yet"
        elif tally.recent_refusal:
            level, message = DiagnosticStatus.WARN, f"refused: {tally.recent_refusal}"
    values = {
        "images received": str(tally.num_received),
        "images replaced by newer ones": str(health.num_dropped),
        "stamps that went back": str(tally.num_out_of_order),
        **{f"images refused, {reason}": str(count) for reason, count in sorted(tally.refused.items())},
    }
    return _status(health, "camera", level, message, values)


def _network(health: Health, tally: Snapshot) -> DiagnosticStatus:
    level, message = DiagnosticStatus.OK, f"{tally.rate_hz:.1f} Hz"
    if tally.num_errors:
        level, message = DiagnosticStatus.ERROR, f"{tally.num_errors} images failed: see the log"
    elif health.listening_since_s is None:
        message = "idle: nobody subscribes to a result"
    values = {
        "rate (Hz)": f"{tally.rate_hz:.2f}",
        "images processed": str(tally.num_processed),
        "probes": str(tally.num_probes),
        "inference p50 (ms)": f"{tally.inference_ms[0]:.2f}",
        "inference p99 (ms)": f"{tally.inference_ms[1]:.2f}",
        "receipt to publication p50 (ms)": f"{tally.total_ms[0]:.2f}",
        "receipt to publication p99 (ms)": f"{tally.total_ms[1]:.2f}",
    }
    return _status(health, "network", level, message, values)


def _policy(health: Health, tally: Snapshot) -> DiagnosticStatus:
    level, message, values = DiagnosticStatus.OK, "decides", {}
    since_s = tally.in_work_since_s
    silent_s = 0.0 if since_s is None else health.now_s - since_s
    if silent_s > health.policy_timeout_s:
        level, message = DiagnosticStatus.ERROR, f"silent: an image is in work for {silent_s:.1f} s"
    elif tally.last is not None and tally.last.policy_failed:
        level, message = DiagnosticStatus.ERROR, "failed: the safest point runs until it answers again"
    if tally.last is not None:
        values = {"policy p50 (ms)": f"{tally.policy_ms[0]:.2f}", "policy p99 (ms)": f"{tally.policy_ms[1]:.2f}"}
    return _status(health, "policy", level, message, values)


def _point(health: Health, tally: Snapshot) -> DiagnosticStatus:
    if tally.last is None:
        return _status(health, "operating point", DiagnosticStatus.OK, "no image yet", {})
    decision, point = tally.last.decision, tally.last.prediction.point
    values = {
        "lambda": f"{point.lam:g}",
        "width": f"{point.width:g}",
        "lambda source": decision.lam_source.value,
        "width source": decision.width_source.value,
        "reason": decision.reason,
    }
    level = DiagnosticStatus.WARN if tally.last.note else DiagnosticStatus.OK
    return _status(health, "operating point", level, tally.last.note or str(point), values)


def _signal(health: Health, name: str) -> DiagnosticStatus:
    state, age_s = health.signals[name]
    level = {SignalState.OK: DiagnosticStatus.OK, SignalState.STALE: DiagnosticStatus.STALE}.get(
        state, DiagnosticStatus.WARN
    )
    return _status(health, name, level, state.value, {"age (s)": "" if age_s is None else f"{age_s:.2f}"})


def _status(health: Health, part: str, level: bytes, message: str, values: Mapping[str, str]) -> DiagnosticStatus:
    return DiagnosticStatus(
        name=f"{health.node.strip('/')}: {part}",
        hardware_id=health.bundle.get("bundle", ""),
        level=level,
        message=message,
        values=[KeyValue(key=key, value=value) for key, value in values.items()],
    )


def _percentiles(values: deque[float]) -> tuple[float, float]:
    if not values:
        return float("nan"), float("nan")
    p50, p99 = np.percentile(np.array(values), (50, 99))
    return float(p50), float(p99)
