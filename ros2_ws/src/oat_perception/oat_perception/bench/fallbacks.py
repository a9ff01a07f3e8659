"""Measure how long after its configured time each fallback takes effect.

From outside, only two moments are known: when an image was sent, and when a message arrived. So each delay here
includes one message's way to the node or back. The median of a few tries is taken, because other programs can disturb
one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from oat_msgs.msg import DecisionRecord, EnvironmentConfidence, Perception
from sensor_msgs.msg import BatteryState, CompressedImage

from oat_perception.bench.camera import NODE, Camera
from oat_perception.node.messages import stamp_ns
from oat_runtime.errors import OATError

SETTINGS: dict[str, Any] = {
    "camera_timeout_s": 0.5,
    "confidence_max_age_s": 0.5,
    "battery_max_age_s": 0.5,
    "battery_hold_s": 0.5,
    "battery_unknown_width": 0.5,
    "use_battery": True,
    "battery_ladder_rate_hz": [0.0, 0.0, 0.0],
    "width_dwell_s": 0.05,
    "margin": 0.0,
}
"""The node's parameters for the signals' fallbacks, so that each comes soon."""
_BIG_PX = 8000
"""Side of a PNG that a node decodes for several times `policy_timeout_s`. Grey keeps the message small."""
POLICY_SETTINGS: dict[str, Any] = {
    "image_transport": "compressed",
    "image_reliability": "reliable",
    "max_pixels": _BIG_PX**2,
    "policy_timeout_s": 0.2,
}
"""The node's parameters for the fallback on an image that takes too long."""
_IMAGE_PERIOD_S = 0.01
_AFTER_S = 0.3
"""Images go on for so long after the last fallback was due, and all of them must be answered under it."""
_EARLY_S = 0.1
"""A fallback that comes more than this before its time is another one."""
_NUM_TRIES = 3
_PATIENCE_S = 5.0
_WELL_TIMEOUT_S = 30.0


def signal_fallbacks(camera: Camera) -> dict[str, float | None]:
    """Return how many milliseconds after its configured time each fallback takes effect; None: never, or far too early.

    Confidence and battery fall silent while images go on. Their fallbacks take effect when the last image was sent that
    was still answered without them. The decision's reason tells which ones those are: a policy may choose the width of
    an unknown battery for other reasons as well.

    Raises:
        OATError: signals that arrive have no effect; the message says what the last answer said.
    """
    reasons: dict[int, str] = {}
    last = ["no image was answered"]

    def keep(record: DecisionRecord) -> None:
        reasons[stamp_ns(record)] = record.reason

    def speak() -> float:
        camera.confidence.publish(EnvironmentConfidence(confidence=1.0))
        camera.battery.publish(BatteryState(percentage=1.0, present=True))
        return time.monotonic()

    def reason_of(answer: Perception) -> str:
        camera.wait(lambda: stamp_ns(answer) in reasons, "the decision of an answered image")
        return reasons[stamp_ns(answer)]

    def distrusts(answer: Perception) -> bool:
        return "environment confidence stale" in reason_of(answer)

    def is_narrow(answer: Perception) -> bool:
        return bool(answer.width == SETTINGS["battery_unknown_width"]) and "(battery stale)" in reason_of(answer)

    def is_well() -> bool:
        speak()
        answer = camera.ask()
        camera.spin_until(time.monotonic() + _IMAGE_PERIOD_S)
        reason = reasons.get(stamp_ns(answer), "its decision is not heard")
        last[0] = (
            f"confidence {answer.environment_confidence:g} of {answer.environment_confidence_age_ms:.0f} ms ago, "
            f"battery {answer.battery_fraction:g} of {answer.battery_age_ms:.0f} ms ago, λ={answer.lambda_value:g}, "
            f"width {answer.width:g}: {reason}"
        )
        return stamp_ns(answer) in reasons and "environment confidence" not in reason and "(battery" not in reason

    subscription = camera.create_subscription(DecisionRecord, f"{NODE}/decision", keep, 10)
    try:
        camera.wait(is_well, "trust and a full battery have their effect", timeout_s=_WELL_TIMEOUT_S)
    except OATError as error:
        raise OATError(f"{error}; the last answer: {last[0]}") from error
    spoke_s = speak()
    confidence_due_s = spoke_s + SETTINGS["confidence_max_age_s"]
    battery_due_s = spoke_s + SETTINGS["battery_max_age_s"] + SETTINGS["battery_hold_s"]
    distrusted, narrow = [], []
    while (sent_s := time.monotonic()) < battery_due_s + _AFTER_S:
        answer = camera.ask()
        distrusted.append((sent_s, distrusts(answer)))
        narrow.append((sent_s, is_narrow(answer)))
        camera.spin_until(sent_s + _IMAGE_PERIOD_S)
    camera.destroy_subscription(subscription)
    return {
        "confidence": _late_ms(distrusted, due_s=confidence_due_s),
        "battery": _late_ms(narrow, due_s=battery_due_s),
    }


def camera_fallback(camera: Camera) -> float | None:
    """Return the same for a camera that falls silent, as the diagnostics report it."""

    def fall_silent() -> float:
        camera.ask()
        _wait_for(camera, "camera", DiagnosticStatus.OK)
        sent_s = time.monotonic()
        camera.ask()
        return sent_s + float(SETTINGS["camera_timeout_s"])

    return _diagnosed_ms(camera, "camera", DiagnosticStatus.STALE, fall_silent)


def policy_fallback(camera: Camera) -> float | None:
    """Return the same for an image that takes longer than `policy_timeout_s`, as the diagnostics report it."""
    images = camera.create_publisher(CompressedImage, "image/compressed", 1)
    camera.wait(images.get_subscription_count, "the node listens to compressed images", timeout_s=120.0)
    _, png = cv2.imencode(".png", np.full((_BIG_PX, _BIG_PX), 127, np.uint8))
    message = CompressedImage(format="png", data=png.tobytes())
    message.header.stamp = camera.get_clock().now().to_msg()

    def send() -> float:
        # Grey images are unlike the calibration's, and the alarm's warning is no silence.
        _wait_for(camera, "policy", DiagnosticStatus.OK, DiagnosticStatus.WARN)
        images.publish(message)
        return time.monotonic() + float(POLICY_SETTINGS["policy_timeout_s"])

    return _diagnosed_ms(camera, "policy", DiagnosticStatus.ERROR, send)


def _late_ms(images: list[tuple[float, bool]], *, due_s: float) -> float | None:
    """From when each image was sent and whether its answer was under the fallback."""
    first_s = next((sent_s for sent_s, fallen_back in images if fallen_back), None)
    without_s = [sent_s for sent_s, fallen_back in images if not fallen_back]
    if first_s is None or first_s < due_s - _EARLY_S or not without_s or without_s[-1] == images[-1][0]:
        return None
    return max(0.0, 1e3 * (without_s[-1] - due_s))


def _diagnosed_ms(camera: Camera, part: str, level: bytes, provoke: Callable[[], float]) -> float | None:
    """Median time from when it is due, which `provoke` returns, to the arrival of diagnostics that call the part so."""
    late_ms = []
    try:
        for _ in range(_NUM_TRIES):
            due_s = provoke()
            _wait_for(camera, part, level)
            late_ms.append(1e3 * (time.monotonic() - due_s))
    except OATError:
        return None
    return None if min(late_ms) < -1e3 * _EARLY_S else max(0.0, statistics.median(late_ms))


def _wait_for(camera: Camera, part: str, *levels: bytes) -> None:
    camera.wait(
        lambda: part in camera.diagnoses and camera.diagnoses[part].level in levels,
        f"diagnostics of the {part}",
        timeout_s=_PATIENCE_S,
    )
