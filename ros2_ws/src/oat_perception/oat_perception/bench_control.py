"""The benchmark's laws: switches that hold from the next image on, malformed images, and fallbacks in time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from oat_msgs.msg import DecisionRecord, EnvironmentConfidence, Perception
from rcl_interfaces.srv import SetParameters
from sensor_msgs.msg import BatteryState

from oat_perception.bench_camera import NODE, Camera, parameter, stamp_ns
from oat_perception.malformed import malformed_images
from oat_runtime.errors import OATError
from oat_runtime.operating_point import OperatingPoint
from oat_runtime.runtime import OATRuntime

TIMEOUTS = {
    "camera_timeout_s": 0.5,
    "confidence_max_age_s": 0.5,
    "battery_max_age_s": 0.5,
    "battery_hold_s": 0.5,
    "battery_unknown_width": 0.5,
}
"""The node's parameters for the fallbacks, so that each comes soon."""
_NEW_LAMBDAS = (0.15, 0.25, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9)
_BURST = 50
_EARLY_S = 0.1
"""A fallback that comes earlier than this before its time is not the one that was waited for."""
_SAME = 1e-4


@dataclass(frozen=True, slots=True)
class Switches:
    """Counts and times of many switches.

    Attributes:
        num_tries: λ set by the parameter service.
        num_effective: after which the first image stamped after the reply ran at it.
        reply_ms: time of each call.
    """

    num_tries: int
    num_effective: int
    reply_ms: tuple[float, ...]


class Control:
    """Sets λ by the parameter service, as an operator does."""

    def __init__(self, camera: Camera) -> None:
        """Find the service."""
        self._camera = camera
        self._client = camera.create_client(SetParameters, f"{NODE}/set_parameters")
        camera.wait(self._client.service_is_ready, "the parameter service")

    def set_lambda(self, lam: float) -> float:
        """Returns the milliseconds until the reply."""
        started_s = time.monotonic()
        future = self._client.call_async(SetParameters.Request(parameters=[parameter("lambda", lam)]))
        self._camera.wait(future.done, "the parameter service's reply")
        (result,) = future.result().results
        if not result.successful:
            raise OATError(f"lambda={lam} was refused: {result.reason}")
        return 1e3 * (time.monotonic() - started_s)


def prepared_switches(camera: Camera, control: Control, lambdas: tuple[float, ...], *, num: int) -> Switches:
    """Set λ again and again, with an image on its way each time."""
    effective, reply_ms = 0, []
    rng = np.random.default_rng(0)
    for lam in rng.choice(lambdas, num):
        camera.send()
        reply_ms.append(control.set_lambda(float(lam)))
        effective += camera.ask().lambda_value == lam
    return Switches(num, effective, tuple(reply_ms))


def unprepared_switch(
    camera: Camera, control: Control, runtime: OATRuntime, image_HWC: np.ndarray
) -> tuple[float, bool]:
    """Set λ values that were never prepared, one after the other, while images go on.

    Returns:
        The longest time in seconds from the reply to the first result at the new λ; and whether each result until
        then was that of the point that it names, by the bare runtime's own answer there.
    """
    worst_s, named_truly = 0.0, True
    expected: dict[OperatingPoint, np.ndarray] = {}
    seen: list[Perception] = []
    for lam in _NEW_LAMBDAS:
        control.set_lambda(lam)
        started_s = time.monotonic()
        while True:
            seen.append(camera.ask())
            if seen[-1].lambda_value == lam:
                break
            if time.monotonic() - started_s > 10:
                raise OATError(f"lambda={lam} never ran")
        worst_s = max(worst_s, time.monotonic() - started_s)
    for answer in seen:
        point = OperatingPoint(answer.lambda_value, answer.width)
        if point not in expected:
            runtime.prepare([point])
            expected[point] = runtime.predict_at(image_HWC, point).probabilities_K
        named_truly &= bool(np.abs(np.array(answer.probabilities) - expected[point]).max() < _SAME)
    return worst_s, named_truly


def survive_malformed(camera: Camera, *, num: int) -> tuple[int, int, int]:
    """Send malformed images, with a good one after each burst.

    Returns:
        Malformed images that the node counted, good images sent, and good images answered.
    """
    before, num_good, num_answered = camera.refused(), 0, 0
    for index, message in enumerate(malformed_images(seed=0, num=num), start=1):
        camera.images.publish(message)
        if index % _BURST and index != num:
            continue
        num_good += 1
        # In order and reliable: its answer says that all before it have arrived.
        with contextlib.suppress(OATError):
            camera.ask()
            num_answered += 1
    with contextlib.suppress(OATError):
        camera.wait(lambda: camera.refused() - before >= num, "diagnostics count every malformed image", timeout_s=3.0)
    return camera.refused() - before, num_good, num_answered


def fallbacks(camera: Camera) -> dict[str, float | None]:
    """Milliseconds by which each fallback came after its configured time; None: never, or far too early."""
    late_ms: dict[str, float | None] = {}

    def speak() -> None:
        camera.confidence.publish(EnvironmentConfidence(confidence=1.0))
        camera.battery.publish(BatteryState(percentage=1.0, present=True))

    def until(condition: Callable[[Perception], bool]) -> float | None:
        start_s = time.monotonic()
        while time.monotonic() - start_s < 5:
            if condition(camera.ask()):
                return time.monotonic()
            camera.spin_until(time.monotonic() + 0.01)
        return None

    reasons: dict[int, str] = {}

    def keep(record: DecisionRecord) -> None:
        reasons[stamp_ns(record)] = record.reason

    subscription = camera.create_subscription(DecisionRecord, f"{NODE}/decision", keep, 10)

    def distrusts(answer: Perception) -> bool:
        camera.wait(lambda: stamp_ns(answer) in reasons, "the decision of an answered image")
        return "environment confidence stale" in reasons[stamp_ns(answer)]

    def is_well() -> bool:
        speak()
        answer = camera.ask()
        return bool(reasons) and answer.width == 1.0 and not distrusts(answer)

    camera.wait(is_well, "trust and a full battery have their effect")
    speak()
    last_s = time.monotonic()
    confident_s = until(distrusts)
    narrow_s = until(lambda answer: answer.width == TIMEOUTS["battery_unknown_width"])
    camera.ask()
    quiet_s, silent_s = time.monotonic(), None
    while time.monotonic() - quiet_s < 5 and silent_s is None:
        camera.spinner.spin_once(timeout_sec=0.02)
        if camera.diagnoses["camera"].level == DiagnosticStatus.STALE:
            silent_s = time.monotonic()
    camera.destroy_subscription(subscription)
    for name, came_s, due_s in (
        ("confidence", confident_s, last_s + TIMEOUTS["confidence_max_age_s"]),
        ("battery", narrow_s, last_s + TIMEOUTS["battery_max_age_s"] + TIMEOUTS["battery_hold_s"]),
        ("camera", silent_s, quiet_s + TIMEOUTS["camera_timeout_s"]),
    ):
        too_early = came_s is not None and came_s < due_s - _EARLY_S
        late_ms[name] = None if came_s is None or too_early else max(0.0, 1e3 * (came_s - due_s))
    return late_ms
