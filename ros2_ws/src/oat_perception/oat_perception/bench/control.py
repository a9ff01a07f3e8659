"""Check commands and bad input: a λ that is set holds from the next image on, and malformed images are counted."""

from __future__ import annotations

import contextlib
import time

import numpy as np
from oat_msgs.msg import Perception
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter

from oat_perception.bench.camera import NODE, Camera
from oat_perception.bench.malformed import malformed_images
from oat_runtime.errors import OATError
from oat_runtime.operating_point import OperatingPoint
from oat_runtime.runtime import OATRuntime

_NEW_LAMBDAS = (0.15, 0.25, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9)
_BURST = 50
_SAME = 1e-4


class Control:
    """Set λ by the parameter service, as an operator does."""

    def __init__(self, camera: Camera) -> None:
        """Find the service."""
        self._camera = camera
        self._client = camera.create_client(SetParameters, f"{NODE}/set_parameters")
        camera.wait(self._client.service_is_ready, "the parameter service")

    def set_lambda(self, lam: float) -> float:
        """Set λ, and return the milliseconds until the reply."""
        started_s = time.monotonic()
        request = SetParameters.Request(parameters=[Parameter("lambda", value=lam).to_parameter_msg()])
        future = self._client.call_async(request)
        self._camera.wait(future.done, "the parameter service's reply")
        (result,) = future.result().results
        if not result.successful:
            raise OATError(f"lambda={lam} was refused: {result.reason}")
        return 1e3 * (time.monotonic() - started_s)


def prepared_switches(
    camera: Camera, control: Control, lambdas: tuple[float, ...], *, num: int
) -> tuple[int, list[float]]:
    """Set λ again and again by the parameter service, with an image on its way each time.

    Returns:
        How often the first image stamped after the reply ran at the new λ; and the milliseconds of each call.
    """
    effective, reply_ms = 0, []
    for lam in np.random.default_rng(0).choice(lambdas, num).tolist():
        camera.send()
        reply_ms.append(control.set_lambda(lam))
        effective += camera.ask().lambda_value == lam
    return effective, reply_ms


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
            expected[point] = runtime.predict(image_HWC, at=point).probabilities_K
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
