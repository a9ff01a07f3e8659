"""Report the node's health as diagnostics (REP 107)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from oat_perception.core.decision_log import DecisionLog
from oat_perception.core.matching import MatchingState
from oat_perception.core.perception import ExternalSignals
from oat_perception.core.tally import Snapshot
from oat_perception.node.guard import Failures
from policy.config import PolicyConfig
from policy.signals import Reading, SignalState

_WITHOUT = {
    "environment confidence": "set confidence_required to false where there is none, or lambda stays the safest",
    "battery": "set use_battery to false where there is none, or width and rate stay those of an unknown one",
}
"""What to do about a signal that was never received."""
_NEARLY_BLACK = (
    "every image is nearly black: set image_bits where a camera of 10 to 14 bits sends 16-bit images, or see to lens, "
    "light and exposure"
)
_ALARM = (
    "alarm: the images are no longer like those of the calibration, so lambda may not fit them: look at lens, light "
    "and exposure, and where the place or the camera is new, calibrate with oat-calibrate"
)


@dataclass(frozen=True, slots=True)
class Watched:
    """One external signal: its state, its age in seconds (None: never received), and the age up to which it counts."""

    state: SignalState
    age_s: float | None
    max_age_s: float


@dataclass(frozen=True, slots=True)
class Health:
    """The values from which the statuses are made.

    Attributes:
        node: the node's full name.
        state: lifecycle state.
        problem: why the last transition failed; empty if it succeeded.
        listening_since_s: when the node began to listen to the camera; None while nobody wants a result.
        incompatible_qos: why QoS keeps a camera's images away; empty: it does not.
        bundle: name, hash and engine of what is loaded; empty while unconfigured.
        tally: the counts; None unless active.
        num_dropped: images replaced by newer ones because the node was busy.
        signals: the external signals, by name.
        machine: readings of the machine, by name and unit.
        camera_timeout_s: time without an image after which the camera counts as silent.
        policy_timeout_s: time for one image after which the policy counts as silent.
        now_s: steady time.
        num_skipped: images left out by the policy's rate.
        matching: how images meet their detections; None where no regions are asked for.
        detectors: topic of the detections, and how many publish on it.
        causes: by part, tell why nothing ever came or comes any more, as far as the graph knows; empty where it knows
            nothing. Asked only of a part that is silent.
        log: the decision log; None where none is kept.
        failures: what failed where nothing may fail; None without a guard.
    """

    node: str
    state: str
    problem: str
    listening_since_s: float | None
    incompatible_qos: str
    bundle: Mapping[str, str]
    tally: Snapshot | None
    num_dropped: int
    signals: Mapping[str, Watched]
    machine: Mapping[str, str]
    camera_timeout_s: float
    policy_timeout_s: float
    now_s: float
    num_skipped: int = 0
    matching: MatchingState | None = None
    detectors: tuple[str, int] = ("", 0)
    causes: Mapping[str, Callable[[], str]] = field(default_factory=dict)
    log: DecisionLog | None = None
    failures: Failures | None = None


def signal_states(config: PolicyConfig, external: ExternalSignals) -> dict[str, Watched]:
    """Return the states of the external signals that this robot should have."""
    found: dict[str, tuple[Reading, float]] = {}
    if external.confidence.value is not None or config.confidence_topic == "required":
        found["environment confidence"] = external.confidence, config.confidence_max_age_s
    if config.battery_ladder or config.battery_capacity_wh is not None:
        found["battery"] = external.battery, config.battery_max_age_s
    return {
        name: Watched(
            reading.state(low=0.0, high=1.0, max_age_s=limit_s),
            None if reading.value is None else reading.age_s,
            limit_s,
        )
        for name, (reading, limit_s) in found.items()
    }


def next_silence_s(health: Health) -> float:
    """Return the steady time at which the next healthy part will count as silent if nothing comes; else infinity."""
    expiries_s = [math.inf]
    if (tally := health.tally) is not None:
        if health.listening_since_s is not None:
            heard_s = max(tally.last_received_s or 0.0, health.listening_since_s)
            expiries_s.append(heard_s + health.camera_timeout_s)
        if health.matching is not None and health.matching.due_s is not None:
            expiries_s.append(health.matching.due_s)
        if tally.in_work_since_s is not None:
            expiries_s.append(tally.in_work_since_s + health.policy_timeout_s)
        for signal in health.signals.values():
            if signal.age_s is not None:
                expiries_s.append(health.now_s + signal.max_age_s - signal.age_s)
    return min(expiry_s for expiry_s in expiries_s if expiry_s >= health.now_s)


def statuses(health: Health) -> list[DiagnosticStatus]:
    """Return a status for each part: node, machine, log, camera, regions, network, policy, point, external signals.

    Unless the node is active, there are only those of node, machine and decision log.
    """
    found = [_node(health), _status(health, "machine", DiagnosticStatus.OK, "", health.machine)]
    if health.log is not None:
        found.append(_log(health, health.log))
    if (tally := health.tally) is not None:
        found += [_camera(health, tally), _network(health, tally), _policy(health, tally), _point(health, tally)]
        if health.matching is not None:
            found.append(_regions(health, health.matching))
        found += [_signal(health, name) for name in health.signals]
    return found


def troubles(found: Iterable[DiagnosticStatus]) -> dict[str, DiagnosticStatus]:
    """Return the statuses that are not OK, by the part's name."""
    return {part_of(status): status for status in found if status.level != DiagnosticStatus.OK}


def part_of(status: DiagnosticStatus) -> str:
    """Return the name of the part that a status is about."""
    return str(status.name).rpartition(": ")[2]


def _node(health: Health) -> DiagnosticStatus:
    level = DiagnosticStatus.ERROR if health.problem else DiagnosticStatus.OK
    words, values = [health.state, health.problem], dict(health.bundle)
    if health.failures is not None:
        if not health.problem and (recent := health.failures.recent(health.now_s)):
            level, words = DiagnosticStatus.WARN, [health.state, recent]
        values |= {f"failures of {where}": str(num) for where, num in sorted(health.failures.counts.items())}
    return _status(health, "node", level, "; ".join(filter(None, words)), values)


def _log(health: Health, log: DecisionLog) -> DiagnosticStatus:
    level, message = DiagnosticStatus.OK, "every decision is kept"
    if log.num_lost:
        message = f"{log.num_lost} decisions are not in it"
    if log.problem:
        level, message = DiagnosticStatus.WARN, f"{message}, and none is written ({log.problem}): {log.remedy}"
    values = {"decisions written": str(log.num_written), "decisions lost": str(log.num_lost)}
    return _status(health, "decision log", level, message, values)


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
                message += f": {health.incompatible_qos}"
            elif last_s is None and (cause := _cause(health, "camera")):
                message += f": {cause}"
        elif last_s is None:
            message = "no image yet"
        elif tally.recent_refusal:
            level, message = DiagnosticStatus.WARN, f"refused: {tally.recent_refusal}"
        elif tally.is_nearly_black:
            level, message = DiagnosticStatus.WARN, _NEARLY_BLACK
    values = {
        "images received": str(tally.num_received),
        "images replaced by newer ones": str(health.num_dropped),
        "images skipped for the rate": str(health.num_skipped),
        "stamps that went back": str(tally.num_out_of_order),
        "brightest value of the last image": str(tally.brightest),
        **{f"images refused, {reason}": str(count) for reason, count in sorted(tally.refused.items())},
    }
    return _status(health, "camera", level, message, values)


def _network(health: Health, tally: Snapshot) -> DiagnosticStatus:
    level, message = DiagnosticStatus.OK, f"{tally.rate_hz:.1f} Hz"
    if tally.recent_error:
        level, message = DiagnosticStatus.ERROR, f"{tally.num_errors} images failed: {tally.recent_error}"
    elif health.listening_since_s is None:
        message = "idle: nobody subscribes to a result"
    values = {
        "rate (Hz)": f"{tally.rate_hz:.2f}",
        "images processed": str(tally.num_processed),
        "images failed": str(tally.num_errors),
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
    elif tally.last is not None and tally.last.alarmed:
        level, message = DiagnosticStatus.WARN, _ALARM
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
    message, level = tally.last.note or str(point), DiagnosticStatus.WARN if tally.last.note else DiagnosticStatus.OK
    if cause := tally.last.rate_cause:
        values |= {"highest rate (Hz)": f"{decision.max_rate_hz:.3g}", "highest rate because of": cause}
        message += f"; at most {decision.max_rate_hz:.3g} images a second: {cause}"
    return _status(health, "operating point", level, message, values)


def _regions(health: Health, matching: MatchingState) -> DiagnosticStatus:
    topic, num_publishers = health.detectors
    level, message = DiagnosticStatus.OK, "no detections yet" if matching.heard_s is None else "detections arrive"
    overdue = matching.without_detections or (matching.due_s is not None and health.now_s >= matching.due_s)
    if overdue and matching.silent_since_s is not None:
        level = DiagnosticStatus.STALE
        message = f"no detections for {health.now_s - matching.silent_since_s:.1f} s"
        if matching.heard_s is not None and matching.heard_s > matching.silent_since_s:
            message += ": they come, and none has stamp and frame_id of an image that waits"
        elif cause := _cause(health, "regions"):
            message += f": {cause}"
        message += "; whole images are answered without them"
    counts = {name: str(count) for name, count in matching.counts.items()}
    return _status(health, "regions", level, message, counts | {f"publishers on {topic}": str(num_publishers)})


def _signal(health: Health, name: str) -> DiagnosticStatus:
    state, age_s = health.signals[name].state, health.signals[name].age_s
    level = {SignalState.OK: DiagnosticStatus.OK, SignalState.STALE: DiagnosticStatus.STALE}.get(
        state, DiagnosticStatus.WARN
    )
    message = state.value
    if state in (SignalState.MISSING, SignalState.STALE) and (cause := _cause(health, name)):
        message += f": {cause}"
    if state is SignalState.MISSING:
        message += f"; {_WITHOUT[name]}"
    return _status(health, name, level, message, {"age (s)": "" if age_s is None else f"{age_s:.2f}"})


def _cause(health: Health, part: str) -> str:
    return health.causes.get(part, str)()


def _status(health: Health, part: str, level: bytes, message: str, values: Mapping[str, str]) -> DiagnosticStatus:
    return DiagnosticStatus(
        name=f"{health.node.strip('/')}: {part}",
        hardware_id=health.bundle.get("bundle", ""),
        level=level,
        message=message,
        values=[KeyValue(key=key, value=value) for key, value in values.items()],
    )
