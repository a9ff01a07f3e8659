"""Receive battery and environment confidence, each with the moment of its receipt."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable

from oat_msgs.msg import EnvironmentConfidence
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import BatteryState
from std_msgs.msg import Float32

from oat_perception.core.battery import battery_charge
from oat_perception.core.perception import Received
from oat_perception.middleware import STEADY
from oat_perception.node.silence import Cause, why_unheard
from oat_runtime.errors import one_line

_THROTTLE_S = 5.0
_CONFIDENCE, _CONFIDENCE_VALUE = "environment_confidence", "environment_confidence_value"
_TOPICS = {
    "battery": {"battery_state": "sensor_msgs/msg/BatteryState"},
    "environment confidence": {
        _CONFIDENCE: "oat_msgs/msg/EnvironmentConfidence",
        _CONFIDENCE_VALUE: "std_msgs/msg/Float32",
    },
}
"""Of each signal its topics, and the types that the node takes on them."""


class SignalSubscriptions:
    """Subscriptions from configure to cleanup. The executor's thread writes the values; any thread may read them.

    Attributes:
        battery: state of charge in [0, 1]; NaN if the message has none.
        confidence: as received.
        battery_power_w: power that the battery delivers; NaN if the driver does not measure it.
        causes: tell for each signal why nothing arrives.
    """

    def __init__(self, node: Node, *, percentage_full: Callable[[], float]) -> None:
        """Subscribe.

        Args:
            node: the node.
            percentage_full: returns the percentage that this robot's driver sends for a full battery.
        """
        self._node, self._percentage_full = node, percentage_full
        self.battery = self.confidence = Received()
        self.battery_power_w = math.nan
        self._confidence_topic = ""
        self.causes = {
            part: Cause(node, part, functools.partial(why_unheard, node, topics)) for part, topics in _TOPICS.items()
        }
        qos = qos_profile_sensor_data
        self._subscriptions = (
            node.create_subscription(BatteryState, "battery_state", self._on_battery, qos),
            node.create_subscription(EnvironmentConfidence, _CONFIDENCE, self._on_confidence, qos),
            # A topic of its own: DDS carries one type on a topic.
            node.create_subscription(Float32, _CONFIDENCE_VALUE, self._on_confidence_value, qos),
        )

    def close(self) -> None:
        """Unsubscribe."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def _on_battery(self, message: BatteryState) -> None:
        charge, complaint = battery_charge(message, percentage_full=self._percentage_full())
        if charge == 1.0 and complaint:
            self._node.get_logger().info(complaint, once=True)
        elif complaint:
            self._node.get_logger().warning(
                complaint, throttle_duration_sec=_THROTTLE_S, throttle_time_source_type=STEADY
            )
        self.battery = Received(charge, time.monotonic(), "battery_state")
        # The current is negative while the battery is discharged.
        self.battery_power_w = -message.current * message.voltage

    def _on_confidence(self, message: EnvironmentConfidence) -> None:
        source = one_line(message.source, most=80) or _CONFIDENCE
        self._take_confidence(_CONFIDENCE, message.confidence, source)

    def _on_confidence_value(self, message: Float32) -> None:
        self._take_confidence(_CONFIDENCE_VALUE, message.data, _CONFIDENCE_VALUE)

    def _take_confidence(self, topic: str, confidence: float, source: str) -> None:
        """Take what came last, on whichever topic; two that speak at a time are told once."""
        if self._confidence_topic not in ("", topic) and time.monotonic() - self.confidence.received_s < _THROTTLE_S:
            self._node.get_logger().warning(
                f"environment confidence: it comes on {_CONFIDENCE} and on {_CONFIDENCE_VALUE}, and the newest counts: "
                "let one sensor speak, or join them before",
                once=True,
            )
        self._confidence_topic = topic
        self.confidence = Received(confidence, time.monotonic(), source)
