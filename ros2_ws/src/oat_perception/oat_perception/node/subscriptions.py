"""Subscribe to the camera while somebody wants a result, and tell what keeps images away."""

from __future__ import annotations

import itertools
import os
import time
from typing import Any

from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSCompatibility,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
    qos_policy_name_from_kind,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage, Image

from oat_perception.compat import SubscriptionEventCallbacks
from oat_perception.core.machine import other_users, user_name
from oat_perception.core.parameters import no_such_parameter
from oat_perception.core.regions import RegionSettings
from oat_perception.middleware import STEADY
from oat_perception.node import messages
from oat_perception.node.pipeline import Pipeline
from oat_perception.node.silence import Cause, another_type, types_on, why_unheard
from oat_runtime.errors import ConfigError, quoted

_CHOICES = {
    QoSPolicyKind.HISTORY: HistoryPolicy,
    QoSPolicyKind.RELIABILITY: ReliabilityPolicy,
    QoSPolicyKind.DURABILITY: DurabilityPolicy,
}
_OVERRIDABLE = (*_CHOICES, QoSPolicyKind.DEPTH)
_MOST_DEPTH = 2**31 - 1
_SUFFIX = "/compressed"
_RAW, _COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
_DETECTIONS = "vision_msgs/msg/Detection2DArray"
_LONGEST_LOOK_S = 0.1
"""Images go without their detections at most so much later than `regions_wait_s`."""


def camera_topic(node: Node, transport: str | None = None) -> str:
    """Return the full name of the topic that images come on by a transport, by default by that of the parameter."""
    topic: str = node.resolve_topic_name("image")
    # As image_transport does it: the base name is remapped, then the transport's name is added.
    compressed = (transport or node.get_parameter("image_transport").value) == "compressed"
    return topic + _SUFFIX if compressed else topic


def check_qos_overrides(node: Node) -> None:
    """Check what was given as QoS of the subscriptions here, since rclpy reads it only when it subscribes.

    Raises:
        ConfigError: a value is none that its policy has.
    """
    for topic, kind in itertools.product(_heard_topics(node).values(), _OVERRIDABLE):
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


def qos_override_objection(node: Node, name: str) -> str:
    """Return why a parameter that begins with `qos_overrides.` has no effect, or an empty text if it has one."""
    spelled = {
        f"{_prefix(topic)}{kind.name.lower()}": f"{_prefix(resolved)}{kind.name.lower()}"
        for name_before, resolved in _heard_topics(node).items()
        for topic in (resolved, node.resolve_topic_name(name_before, only_expand=True), name_before)
        for kind in _OVERRIDABLE
    }
    if name in spelled.values():
        return ""
    wrong = no_such_parameter(name, spelled, meant=spelled.__getitem__)
    return (
        f"{wrong}; it is ignored: only reliability, depth, history and durability of the subscriptions to image, "
        "image/compressed and regions can be set, by full topic names"
    )


def _heard_topics(node: Node) -> dict[str, str]:
    """Return the full names of the topics that are subscribed to here, by their names before they are resolved."""
    compressed = node.resolve_topic_name(camera_topic(node, "compressed"))
    heard = {name: node.resolve_topic_name(name) for name in ("image", "regions")}
    return heard | {f"image{_SUFFIX}": compressed}


def _prefix(topic: str) -> str:
    return f"qos_overrides.{topic}.subscription."


class CameraSubscriptions:
    """Subscriptions to images, and to detections if regions are wanted. All runs on the executor's thread.

    Attributes:
        listening_since_s: steady time at which the present subscription began; None without one.
        causes: tell why no image ever came, and why no detections come.
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
        self._misfits: dict[str, str] = {}
        self.listening_since_s: float | None = None
        self.causes = {
            "camera": Cause(node, "camera: no image yet", self._why_no_image),
            "regions": Cause(node, "regions: no detections", self._why_no_detections),
        }

    def listen(self, wanted: bool) -> None:
        """Subscribe or unsubscribe; harmless if nothing changes."""
        if wanted == (self.listening_since_s is not None):
            return
        log, topic = self._node.get_logger(), camera_topic(self._node)
        log.info(f"listening on {topic}, waiting for an image" if wanted else f"no longer listening on {topic}")
        if wanted:
            self.listening_since_s = time.monotonic()  # first: to declare a QoS override calls this again
            self._misfits.clear()
            if self._regions.most:
                kind = messages.vision.Detection2DArray
                self._subscribe(kind, "regions", self._pipeline.accept_detections, raw=True)
                period_s = min(_LONGEST_LOOK_S, self._regions.wait_s / 4)
                self._overdue = self._node.create_timer(period_s, self._pipeline.answer_overdue, clock=STEADY)
            if self._compressed:
                self._subscribe(CompressedImage, topic, self._pipeline.accept)
            else:
                self._subscribe(Image, "image", self._pipeline.accept)
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

    @property
    def incompatible_qos(self) -> str:
        """Why the QoS of a camera keeps its images away; empty: it does not, as far as is known."""
        return self._misfit(camera_topic(self._node), _COMPRESSED if self._compressed else _RAW)

    def _misfit(self, topic: str, wanted: str) -> str:
        """Return why QoS keeps the messages of a topic away; empty once one came, or if its publisher is gone."""
        misfit = self._misfits.get(topic, "")
        asked = [each.qos_profile for each in self._subscriptions if misfit and each.topic_name == topic]
        if not asked:
            return ""
        offered = [
            info.qos_profile for info in self._node.get_publishers_info_by_topic(topic) if info.topic_type == wanted
        ]
        is_there = any(qos_check_compatible(each, asked[0])[0] == QoSCompatibility.ERROR for each in offered)
        return misfit if is_there else ""

    def _why_no_detections(self) -> str:
        cause = self._misfit(self._node.resolve_topic_name("regions"), _DETECTIONS)
        unheard = why_unheard(self._node, {"regions": _DETECTIONS})
        return cause or f"{unheard}: see to the detector, or remap regions to its topic"

    def _why_no_image(self) -> str:
        transport, others = ("raw", _RAW) if self._compressed else ("compressed", _COMPRESSED)  # that it does not take
        topic, other = camera_topic(self._node), camera_topic(self._node, transport)
        wanted = _COMPRESSED if self._compressed else _RAW
        types, base = types_on(self._node, topic), self._node.resolve_topic_name("image")
        if wanted not in types and base.endswith(_SUFFIX) and _COMPRESSED in types_on(self._node, base):
            return (
                f"{base} carries compressed images, and image is the base name, to which the node adds {_SUFFIX}: "
                f"remap image to {base.removesuffix(_SUFFIX)}, and set image_transport to compressed"
            )
        if not types and others in types_on(self._node, other):
            return f"nobody publishes {topic}, but {other} is published: set image_transport to {transport}"
        if not types:
            return f"nobody publishes {topic}: start the camera, or remap image to its topic"
        if wanted not in types:
            return f"{another_type(topic, types, wanted)}: remap image to another topic"
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

        def on_message(message: Any) -> None:
            self._misfits.pop(resolved, None)
            callback(message)

        def on_incompatible(event: Any) -> None:
            policy = qos_policy_name_from_kind(event.last_policy_kind).lower()
            self._misfits[resolved] = (
                f"a publisher of {resolved} offers another {policy} than this node asks for, so none of its messages "
                f"arrive: set image_reliability to best_effort, or qos_overrides.{resolved}.subscription.{policy}"
            )
            self._node.get_logger().warning(self._misfits[resolved])

        self._subscriptions.append(
            self._node.create_subscription(
                kind,
                topic,
                on_message,
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
