"""Subscribe to the camera while somebody wants a result, and tell what keeps images away."""

from __future__ import annotations

import itertools
import math
import os
import time
from typing import Any

from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
    qos_policy_name_from_kind,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage, Image

from oat_perception.compat import SubscriptionEventCallbacks
from oat_perception.core.machine import other_users, user_name
from oat_perception.core.regions import RegionSettings
from oat_perception.node import messages
from oat_perception.node.middleware import STEADY
from oat_perception.node.pipeline import Pipeline
from oat_runtime.errors import ConfigError, quoted

_CHOICES = {
    QoSPolicyKind.HISTORY: HistoryPolicy,
    QoSPolicyKind.RELIABILITY: ReliabilityPolicy,
    QoSPolicyKind.DURABILITY: DurabilityPolicy,
}
_OVERRIDABLE = (*_CHOICES, QoSPolicyKind.DEPTH)
_MOST_DEPTH = 2**31 - 1
_ASK_EVERY_S = 0.9
"""The watchdog looks far more often, and the graph changes seldom."""

_LONGEST_LOOK_S = 0.1
"""Images go without their detections at most so much later than `regions_wait_s`."""


def camera_topic(node: Node, transport: str | None = None) -> str:
    """Return the full name of the topic that images come on by a transport, by default by that of the parameter."""
    topic: str = node.resolve_topic_name("image")
    # As image_transport does it: the base name is remapped, then the transport's name is added.
    return (
        f"{topic}/compressed" if (transport or node.get_parameter("image_transport").value) == "compressed" else topic
    )


def check_qos_overrides(node: Node) -> None:
    """Check what was given as QoS of the subscriptions here, since rclpy reads it only when it subscribes.

    Raises:
        ConfigError: a value is none that its policy has.
    """
    topics = ["image", camera_topic(node, "compressed"), "regions"]
    for topic, kind in itertools.product(map(node.resolve_topic_name, topics), _OVERRIDABLE):
        name = f"{_prefix(topic)}{kind.name.lower()}"
        if (given := node._parameter_overrides.get(name)) is None:
            continue
        value, expected = given.value, f"a whole number from 0 to {_MOST_DEPTH}"
        fits = type(value) is int and 0 <= value <= _MOST_DEPTH
        if kind in _CHOICES:
            names = [each.lower() for each in _CHOICES[kind].__members__ if each != "UNKNOWN"]
            fits, expected = isinstance(value, str) and value.lower() in names, f"one of {names}"
        if not fits:
            raise ConfigError(f"{name} must be {expected}, got {quoted(value)}")


def _prefix(topic: str) -> str:
    return f"qos_overrides.{topic}.subscription."


class CameraSubscriptions:
    """Subscriptions to images, and to detections if regions are wanted. All runs on the executor's thread.

    Attributes:
        listening_since_s: steady time at which the present subscription began; None without one.
        incompatible_qos: name of the last QoS policy that did not fit a camera; empty: none.
    """

    def __init__(self, node: Node, pipeline: Pipeline, *, compressed: bool, regions: RegionSettings) -> None:
        """Set up, without subscribing yet.

        Args:
            node: the node, whose parameters `image_reliability` and `image_depth` apply.
            pipeline: takes what arrives.
            compressed: whether images come as sensor_msgs/CompressedImage.
            regions: whether detections are listened to as well, which needs vision_msgs, and how long images wait.
        """
        self._node, self._pipeline = node, pipeline
        self._compressed, self._regions = compressed, regions
        self._subscriptions: list[Any] = []
        self._overdue: Any = None
        self._cause, self._asked_s, self._told = "", -math.inf, ""
        self.listening_since_s: float | None = None
        self.incompatible_qos = ""

    def listen(self, wanted: bool) -> None:
        """Subscribe or unsubscribe; harmless if nothing changes."""
        if wanted == bool(self._subscriptions):
            return
        log, topic = self._node.get_logger(), camera_topic(self._node)
        log.info(f"listening on {topic}, waiting for an image" if wanted else f"no longer listening on {topic}")
        if wanted:
            self._cause, self._asked_s, self._told = "", -math.inf, ""
            if self._regions.most:
                kind = messages.vision.Detection2DArray
                self._subscribe(kind, "regions", self._pipeline.accept_detections, raw=True)
                period_s = min(_LONGEST_LOOK_S, self._regions.wait_s / 4)
                self._overdue = self._node.create_timer(period_s, self._pipeline.answer_overdue, clock=STEADY)
            if self._compressed:
                self._subscribe(CompressedImage, topic, self._pipeline.accept)
            else:
                self._subscribe(Image, "image", self._pipeline.accept)
            self.listening_since_s = time.monotonic()
        else:
            self.listening_since_s = None
            if self._overdue is not None:
                self._node.destroy_timer(self._overdue)
                self._overdue = None
            while self._subscriptions:
                self._node.destroy_subscription(self._subscriptions.pop())
            self._pipeline.pause()

    @property
    def detectors(self) -> tuple[str, int]:
        """The topic of detections as it is resolved, and how many publish on it."""
        topic = self._node.resolve_topic_name("regions")
        return topic, self._node.count_publishers(topic)

    def why_silent(self) -> str:
        """Return why no image arrives, as far as the graph tells. It is logged where it becomes another one."""
        now_s = time.monotonic()
        if now_s - self._asked_s < _ASK_EVERY_S:
            return self._cause
        before, self._cause, self._asked_s = self._cause, self._why_silent(), now_s
        # The watchdog logs the first one. A publisher that has just come is given until the next look.
        if not self._told:
            self._told = self._cause
        elif self._cause == before != self._told:
            self._told = self._cause
            self._node.get_logger().warning(f"camera: no image yet: {self._cause}")
        return self._cause

    def _why_silent(self) -> str:
        transport = "raw" if self._compressed else "compressed"  # the one that the node does not take
        topic, other = camera_topic(self._node), camera_topic(self._node, transport)
        wanted = f"sensor_msgs/msg/{'CompressedImage' if self._compressed else 'Image'}"
        types = sorted({info.topic_type for info in self._node.get_publishers_info_by_topic(topic)})
        if not types and self._node.count_publishers(other):
            return f"nobody publishes {topic}, but {other} is published: set image_transport to {transport}"
        if not types:
            return f"nobody publishes {topic}: start the camera, or remap image to its topic"
        if wanted not in types:
            return f"{topic} is published as {', '.join(types)}, not as {wanted}: remap image to another topic"
        silent = f"a publisher of {topic} matches, but nothing arrives"
        if users := other_users():
            return (
                f"{silent}, likely because DDS's shared memory of {', '.join(users)} is closed to "
                f"{user_name(os.geteuid())}, who runs this node: run camera and node as one user, or give both "
                "config/fastdds_users.xml (docs/ros.md)"
            )
        return (
            f"{silent}: it sends nothing, it runs as another user or in another container (give both "
            "config/fastdds_users.xml), or its images are large and its process does not load config/fastdds.xml "
            "(docs/ros.md)"
        )

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
        prefix = _prefix(topic)
        given = {name.removeprefix(prefix) for name in self._node._parameter_overrides if name.startswith(prefix)}
        kinds = [kind for kind in _OVERRIDABLE if kind.name.lower() in given]
        return QoSOverridingOptions(kinds) if kinds else None
