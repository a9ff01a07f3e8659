"""Subscribe to the camera while somebody wants a result, and report a QoS that keeps images away."""

from __future__ import annotations

import time
from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import QoSPolicyKind, QoSProfile, ReliabilityPolicy, qos_policy_name_from_kind
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage, Image

from oat_perception.node import messages
from oat_perception.node.pipeline import Pipeline

_OVERRIDABLE = (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY)


def camera_topic(node: Node) -> str:
    """Return the full name of the topic that images come on, as the node's parameters and remappings say."""
    topic: str = node.resolve_topic_name("image")
    # As image_transport does it: the base name is remapped, then the transport's name is added.
    return f"{topic}/compressed" if node.get_parameter("image_transport").value == "compressed" else topic


class CameraSubscriptions:
    """Subscriptions to images, and to detections if regions are wanted. All runs on the executor's thread.

    Attributes:
        listening_since_s: steady time at which the present subscription began; None without one.
        incompatible_qos: name of the last QoS policy that did not fit a camera; empty: none.
    """

    def __init__(self, node: Node, pipeline: Pipeline, *, compressed: bool, regions: bool) -> None:
        """Set up, without subscribing yet.

        Args:
            node: the node, whose parameters `image_reliability` and `image_depth` apply.
            pipeline: takes what arrives.
            compressed: whether images come as sensor_msgs/CompressedImage.
            regions: whether detections are listened to as well; needs vision_msgs.
        """
        self._node, self._pipeline = node, pipeline
        self._compressed, self._regions = compressed, regions
        self._subscriptions: list[Any] = []
        self.listening_since_s: float | None = None
        self.incompatible_qos = ""

    def listen(self, wanted: bool) -> None:
        """Subscribe or unsubscribe; harmless if nothing changes."""
        if wanted == bool(self._subscriptions):
            return
        log, topic = self._node.get_logger(), camera_topic(self._node)
        log.info(f"listening on {topic}, waiting for an image" if wanted else f"no longer listening on {topic}")
        if wanted:
            self.listening_since_s = time.monotonic()
            if self._regions:
                kind = messages.vision.Detection2DArray
                self._subscribe(kind, "regions", self._pipeline.accept_detections, raw=True)
            if self._compressed:
                self._subscribe(CompressedImage, topic, self._pipeline.accept)
            else:
                self._subscribe(Image, "image", self._pipeline.accept)
        else:
            self.listening_since_s = None
            while self._subscriptions:
                self._node.destroy_subscription(self._subscriptions.pop())

    def _subscribe(self, kind: Any, topic: str, callback: Any, *, raw: bool = False) -> None:
        reliability = ReliabilityPolicy[str(self._node.get_parameter("image_reliability").value).upper()]
        depth = int(self._node.get_parameter("image_depth").value)
        resolved = self._node.resolve_topic_name(topic)

        def on_incompatible(event: Any) -> None:
            self.incompatible_qos = qos_policy_name_from_kind(event.last_policy_kind).lower()
            self._node.get_logger().warning(
                f"a publisher on {resolved} offers another {self.incompatible_qos} than this node asks for, so none of "
                f"its messages arrive: set image_reliability to best_effort, or qos_overrides.{resolved}.subscription"
            )

        self._subscriptions.append(
            self._node.create_subscription(
                kind,
                topic,
                callback,
                QoSProfile(depth=depth, reliability=reliability),
                event_callbacks=SubscriptionEventCallbacks(incompatible_qos=on_incompatible),
                qos_overriding_options=self._overrides(resolved),
                raw=raw,
            )
        )

    def _overrides(self, topic: str) -> QoSOverridingOptions | None:
        """Return only the given overrides: a declared one would hide later changes of the node's own parameters."""
        prefix = f"qos_overrides.{topic}.subscription."
        given = {name.removeprefix(prefix) for name in self._node._parameter_overrides if name.startswith(prefix)}
        kinds = [kind for kind in _OVERRIDABLE if kind.name.lower() in given]
        return QoSOverridingOptions(kinds) if kinds else None
