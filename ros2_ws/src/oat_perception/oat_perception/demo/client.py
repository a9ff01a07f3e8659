"""Collect the node's results for the demo, and set parameters as an operator would."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState
from oat_msgs.msg import DecisionRecord, Perception
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.task import Future

from oat_perception.demo.run_record import Record
from oat_perception.node import messages
from oat_perception.node.enums import SOURCE_NAMES
from oat_perception.node.messages import stamp_ns
from oat_runtime.errors import OATError

PERCEPTION, CAMERA = "oat_perception", "camera_replay"
_SPIN_S = 0.05


class DemoClient(Node):
    """Subscribe to the node's results, and call the services of both nodes.

    Attributes:
        reasons: reason of the decision for each image, by the image's stamp.
    """

    def __init__(self, class_names: Sequence[str], *, regions: bool, context: Context | None = None) -> None:
        """Subscribe.

        Args:
            class_names: of the node's bundle.
            regions: whether the node answers regions, and not whole images.
            context: of rclpy; None: the default one.
        """
        super().__init__("demo", context=context)
        self._results: dict[int, Record] = {}
        self._regions: dict[int, list[Record]] = {}
        self._class_names, self._has_regions = class_names, regions
        self.reasons: dict[int, str] = {}
        if regions:
            kind = messages.vision.Detection2DArray
            self.create_subscription(kind, f"{PERCEPTION}/detections", self._on_detections, 100)
        self.create_subscription(Perception, f"{PERCEPTION}/perception", self._on_perception, 100)
        self.create_subscription(DecisionRecord, f"{PERCEPTION}/decision", self._on_decision, 100)
        self._get_state = self.create_client(GetState, f"{PERCEPTION}/get_state")
        self._set = {
            name: self.create_client(SetParametersAtomically, f"{name}/set_parameters_atomically")
            for name in (PERCEPTION, CAMERA)
        }
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self)

    def destroy_node(self) -> None:
        """Shut the executor down, then destroy the node."""
        self._executor.shutdown()
        super().destroy_node()

    def spin(self, seconds: float = _SPIN_S) -> None:
        """Handle what arrives for `seconds`."""
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left_s)

    def wait_until_ready(self, *, timeout_s: float, alive: Callable[[], None]) -> None:
        """Wait until the perception node is active and the camera takes parameters.

        Args:
            timeout_s: give up after this time.
            alive: called again and again; raises if a process has died.

        Raises:
            OATError: not ready in time.
        """
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s:
            alive()
            self.spin()
            if self._set[CAMERA].service_is_ready() and self._is_active() and self.count_publishers("image"):
                self.spin(0.5)  # let the nodes discover one another too
                return
        raise OATError(
            f"the nodes were not ready after {timeout_s:.0f} s: see perception_node.log and camera_replay_node.log"
        )

    def set_on(self, node: str, values: Mapping[str, bool | float]) -> None:
        """Set parameters of another node, all or none.

        Raises:
            OATError: it refused, or did not answer.
        """
        request = SetParametersAtomically.Request()
        request.parameters = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        future = self._set[node].call_async(request)
        response = self._wait(future, timeout_s=5.0)
        wanted = ", ".join(f"{name}={value:g}" for name, value in values.items())
        if response is None:
            raise OATError(f"{node} did not answer the request to set {wanted}")
        if not response.result.successful:
            raise OATError(f"{node} refused {wanted}: {response.result.reason}")

    def _is_active(self) -> bool:
        if not self._get_state.service_is_ready():
            return False
        response = self._wait(self._get_state.call_async(GetState.Request()), timeout_s=2.0)
        return response is not None and response.current_state.id == State.PRIMARY_STATE_ACTIVE

    def _wait(self, future: Future, *, timeout_s: float) -> Any:
        until_s = time.monotonic() + timeout_s
        while not future.done() and time.monotonic() < until_s:
            self._executor.spin_once(timeout_sec=_SPIN_S)
        return future.result() if future.done() else None

    def _on_decision(self, message: DecisionRecord) -> None:
        self.reasons[stamp_ns(message)] = message.reason

    def _on_detections(self, message: Any) -> None:
        """Take the best class of each region; one without pixels has none, and counts as wrong."""
        answers = []
        for region in message.detections:
            best = region.results[0].hypothesis if region.results else None
            label = -1 if best is None else int(best.class_id)
            known = 0 <= label < len(self._class_names)
            answers.append(
                {
                    "label": label,
                    "class_name": self._class_names[label] if known else "none",
                    "confidence": math.nan if best is None else best.score,
                }
            )
        self._regions[stamp_ns(message)] = answers

    def _on_perception(self, message: Perception) -> None:
        whole = {"label": message.label, "class_name": message.class_name, "confidence": message.confidence}
        self._results[stamp_ns(message)] = {
            "stamp_ns": stamp_ns(message),
            "answers": [whole],
            "lambda": message.lambda_value,
            "width": message.width,
            "lambda_source": SOURCE_NAMES[message.lambda_source],
            "width_source": SOURCE_NAMES[message.width_source],
            "posterior": [float(mass) for mass in message.regime_posterior],
            "environment_confidence": message.environment_confidence,
            "battery": message.battery_fraction,
            "image_age_ms": message.image_age_ms,
            "preprocess_ms": message.preprocess_ms,
            "inference_ms": message.inference_ms,
            "total_ms": message.total_ms,
            "num_dropped": message.num_dropped,
        }

    @property
    def results(self) -> list[Record]:
        """One record for each answered image, in the order of their stamps."""
        found = sorted(self._results.items())
        if not self._has_regions:
            return [record for _, record in found]
        return [record | {"answers": self._regions[stamp]} for stamp, record in found if stamp in self._regions]

    @property
    def latest_reason(self) -> str:
        """Reason of the newest decision."""
        return self.reasons[max(self.reasons)] if self.reasons else ""

    def results_with_reasons(self) -> list[Record]:
        """Return all results in the order of their images, each with the reason of its decision."""
        return [{**result, "reason": self.reasons.get(result["stamp_ns"], "")} for result in self.results]
