"""The node's result topics: what is published for each image, and when the operating point is worth repeating."""

from __future__ import annotations

import threading
from typing import Any

from oat_msgs.msg import DecisionRecord, LabelInfo, OperatingPoint, Perception
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Header

from oat_perception import messages
from oat_perception.core import FrameResult
from oat_runtime.bundle import Bundle
from oat_runtime.operating_point import OperatingPoint as Point

_LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
_RESULT_DEPTH = 5


class ResultPublishers:
    """Publishers from configure to cleanup. `publish` is the inference thread's, `announce` the executor's."""

    def __init__(self, node: Node, bundle: Bundle) -> None:
        """Create them, and say what the labels mean."""
        self._class_names = bundle.class_names
        self._perception = node.create_publisher(Perception, "~/perception", _RESULT_DEPTH)
        self._decision = node.create_publisher(DecisionRecord, "~/decision", _RESULT_DEPTH)
        self._point = node.create_publisher(OperatingPoint, "~/operating_point", _LATCHED)
        self._label_info = node.create_publisher(LabelInfo, "~/label_info", _LATCHED)
        self._classification: Publisher | None = None
        if messages.Classification is not None:
            self._classification = node.create_publisher(messages.Classification, "~/classification", _RESULT_DEPTH)
        self._label_info.publish(messages.label_info(bundle, node.get_clock().now().to_msg()))
        self._lock = threading.Lock()
        self._last_point: OperatingPoint | None = None
        self._repeat = True

    @property
    def all(self) -> list[Publisher]:
        """All of them, to be destroyed."""
        every = [self._perception, self._decision, self._point, self._label_info, self._classification]
        return [publisher for publisher in every if publisher is not None]

    @property
    def last_point(self) -> OperatingPoint | None:
        """The operating point as last published; None before the first activation."""
        return self._last_point

    @property
    def wanted(self) -> bool:
        """Whether anybody subscribes to results."""
        results = (self._perception, self._decision, self._classification)
        return any(publisher is not None and publisher.get_subscription_count() for publisher in results)

    def begin(self, point: Point, stamp: Any) -> None:
        """Publish the point that the first image will find; `stamp` is a builtin_interfaces/Time."""
        with self._lock:
            self._last_point = OperatingPoint(
                header=Header(stamp=stamp),
                lambda_value=point.lam,
                width=point.width,
                reason="activated: the policy decides at the first image",
            )
            self._point.publish(self._last_point)
            self._repeat = True

    def publish(
        self,
        result: FrameResult,
        header: Header,
        *,
        image_age_ms: float,
        total_ms: float,
        num_dropped: int,
        sequence: int,
    ) -> None:
        """Publish one image's results, the prediction first."""
        self._perception.publish(
            messages.perception(result, header, image_age_ms=image_age_ms, total_ms=total_ms, num_dropped=num_dropped)
        )
        if self._classification is not None and self._classification.get_subscription_count():
            self._classification.publish(messages.classification(result, header, self._class_names))
        if self._decision.get_subscription_count():
            self._decision.publish(messages.decision_record(result, header, sequence=sequence))
        point = messages.operating_point(result, header)
        with self._lock:
            if self._repeat or self._last_point is None or _key(point) != _key(self._last_point):
                self._point.publish(point)
                self._last_point, self._repeat = point, False

    def announce(self, reason: str) -> None:
        """Publish the operating point again with another reason; the next image publishes its own in any case."""
        with self._lock:
            if self._last_point is not None:
                self._last_point.reason = reason
                self._point.publish(self._last_point)
                self._repeat = True


def _key(point: OperatingPoint) -> Any:
    return point.lambda_value, point.width, point.lambda_source, point.width_source
