"""Publish the results of each image, and the operating point when it changes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from oat_msgs.msg import DecisionRecord, LabelInfo, OperatingPoint, Perception
from rclpy.node import Node
from rclpy.publisher import Publisher
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from oat_perception.compat import counted_publisher
from oat_perception.core.annotate import annotate
from oat_perception.core.perception import CameraFrame, FrameResult
from oat_perception.core.regions import RegionSettings
from oat_perception.middleware import LATCHED
from oat_perception.node import messages
from oat_runtime.bundle import Bundle
from oat_runtime.operating_point import OperatingPoint as Point

_RESULT_DEPTH = 5


class ResultPublishers:
    """Publishers from configure to cleanup. The inference thread calls `publish`, the executor's thread `announce`."""

    def __init__(self, node: Node, bundle: Bundle, *, regions: RegionSettings, on_demand: Callable[[], None]) -> None:
        """Create the publishers, and publish the class names.

        Args:
            node: the node.
            bundle: whose class names are published.
            regions: whether regions are answered, too, and how; that needs vision_msgs.
            on_demand: called on the executor's thread when a result gains its first reader or loses the last.
        """
        self._class_names, self._regions = bundle.class_names, regions
        self._on_demand = on_demand
        self._readers: dict[str, int] = {}
        self._node = node
        stamp = node.get_clock().now().to_msg()
        self._perception = self._result(Perception, "~/perception")
        self._decision = self._result(DecisionRecord, "~/decision")
        self._annotated = self._result(Image, "~/image_annotated")
        self._point = node.create_publisher(OperatingPoint, "~/operating_point", LATCHED)
        self._label_info = node.create_publisher(LabelInfo, "~/label_info", LATCHED)
        self._label_info.publish(messages.label_info(bundle, stamp))
        self._others = [self._point, self._label_info]
        self._classification = self._detections = None
        if messages.vision is not None:
            self._classification = self._result(messages.vision.Classification, "~/classification")
            vision_labels = node.create_publisher(messages.vision.LabelInfo, "~/vision_label_info", LATCHED)
            vision_labels.publish(messages.vision_label_info(bundle, stamp, threshold=regions.min_score))
            self._others.append(vision_labels)
            if regions.most:
                self._detections = self._result(messages.vision.Detection2DArray, "~/detections")
        self._lock = threading.Lock()
        self._last_point: OperatingPoint | None = None
        self._repeat = True

    @property
    def all(self) -> list[Publisher]:
        """All publishers, to be destroyed."""
        every = [*self._others, self._perception, self._decision, self._annotated, self._classification]
        return [publisher for publisher in [*every, self._detections] if publisher is not None]

    @property
    def last_point(self) -> OperatingPoint | None:
        """The operating point as last published; None before the first activation."""
        return self._last_point

    @property
    def wanted(self) -> bool:
        """Whether anybody subscribes to results."""
        return any(self._readers.values())

    def _result(self, kind: Any, topic: str) -> Publisher:
        """Create a publisher of results that counts its subscribers as they come and go."""

        def on_count(num: int) -> None:
            before = self.wanted
            self._readers[topic] = num
            if self.wanted != before:
                self._on_demand()

        return counted_publisher(self._node, kind, topic, _RESULT_DEPTH, on_count=on_count)

    def begin(self, point: Point, stamp: Any) -> None:
        """Publish the operating point before the first image; `stamp` is a builtin_interfaces/Time."""
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
        frame: CameraFrame,
        result: FrameResult,
        header: Header,
        *,
        asked: Any,
        image_age_ms: float,
        total_ms: float,
        num_dropped: int,
        num_skipped: int,
        sequence: int,
    ) -> None:
        """Publish one image's results, the prediction first.

        Args:
            frame: the image.
            result: its result.
            header: the image's own.
            asked: the vision_msgs/Detection2DArray that named the regions; None without.
            image_age_ms: from the image's stamp; NaN where that is zero or in the future.
            total_ms: from receipt.
            num_dropped: images replaced by newer ones, because the node was busy.
            num_skipped: images left out by the policy's rate.
            sequence: number of the decision.
        """
        readers = self._readers
        least = float(self._node.get_parameter("min_confidence").value)
        message = messages.perception(result, header, min_confidence=least)
        message.image_age_ms, message.total_ms = image_age_ms, total_ms
        message.num_dropped, message.num_skipped = num_dropped, num_skipped
        self._perception.publish(message)
        if self._detections is not None and asked is not None:
            self._detections.publish(
                messages.detections(asked, result, header, regions=self._regions, min_confidence=least)
            )
        if self._classification is not None and readers.get("~/classification"):
            self._classification.publish(messages.classification(result.prediction, header, min_confidence=least))
        # A failed policy's fallback is no decision of its own: it would not replay.
        if readers.get("~/decision") and not result.policy_failed:
            self._decision.publish(messages.decision_record(result, header, sequence=sequence))
        point = messages.operating_point(result, header)
        with self._lock:
            if self._repeat or self._last_point is None or _key(point) != _key(self._last_point):
                self._point.publish(point)
                self._last_point, self._repeat = point, False
        if readers.get("~/image_annotated"):
            self._annotated.publish(_annotated(frame, result, header, min_confidence=least))

    def announce(self, reason: str) -> None:
        """Publish the operating point again with another reason. The next image publishes its own anyway."""
        with self._lock:
            if self._last_point is not None:
                self._last_point.reason = reason
                self._point.publish(self._last_point)
                self._repeat = True


def _key(point: OperatingPoint) -> Any:
    return point.lambda_value, point.width, point.lambda_source, point.width_source


def _annotated(frame: CameraFrame, result: FrameResult, header: Header, *, min_confidence: float) -> Image:
    pairs = zip(frame.boxes or (), result.regions, strict=True)
    canvas_HWC = annotate(
        frame.image_HWC,
        result.prediction,
        source=result.decision.lam_source.value.replace("_", " "),
        regions=[(box, seen) for box, seen in pairs if box is not None and seen is not None],
        min_confidence=min_confidence,
    )
    return messages.image_message(canvas_HWC, header)
