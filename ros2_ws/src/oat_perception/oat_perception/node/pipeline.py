"""The way of an image through the node, from activate to deactivate: check, newest-wins mailbox, inference, results."""

from __future__ import annotations

import functools
import math
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from rclpy.node import Node
from rclpy.time import Time

from oat_perception.core.decision_log import DecisionLog
from oat_perception.core.mailbox import Mailbox
from oat_perception.core.perception import CameraFrame, ExternalSignals, FrameResult, PerceptionCore
from oat_perception.core.regions import BoxXYXY, StampMatcher, box_xyxy
from oat_perception.core.tally import Tally
from oat_perception.node.messages import stamp_ns
from oat_perception.node.publishers import ResultPublishers
from oat_runtime.data import camera_messages, image_headers
from oat_runtime.errors import InputError

_THROTTLE_S = 5.0


@dataclass(frozen=True, slots=True)
class _Mail:
    """An image message that passed the structural check, and the detections that name its regions, if any."""

    message: Any
    received_s: float
    asked: Any = None


class Pipeline:
    """Two threads meet here: the executor's calls `accept...`, the inference thread does the rest."""

    def __init__(
        self,
        node: Node,
        core: PerceptionCore,
        publishers: ResultPublishers,
        *,
        compressed: bool,
        external: Callable[[float], ExternalSignals],
        log: DecisionLog | None,
        max_regions: int,
        max_pixels: int = image_headers.MAX_PIXELS,
    ) -> None:
        """Start the inference thread.

        Args:
            node: whose clock, logger and context are used.
            core: what runs an image.
            publishers: where results go.
            compressed: whether images come as sensor_msgs/CompressedImage.
            external: the external signals at a steady time; called in the inference thread.
            log: where decisions are kept.
            max_regions: most regions of one image; 0: whole images only.
            max_pixels: most pixels of one image.
        """
        self.tally = Tally()
        self._node, self._core, self._publishers = node, core, publishers
        self._external, self._log, self._max_regions = external, log, max_regions
        self._check: Callable[[Any], None] = functools.partial(camera_messages.check_image, max_pixels=max_pixels)
        self._to_rgb: Callable[[Any], Any] = camera_messages.rgb_image
        if compressed:
            self._check = functools.partial(camera_messages.check_compressed, max_pixels=max_pixels)
            # Boxes of regions are in the pixels that the camera sent.
            self._to_rgb = functools.partial(
                camera_messages.rgb_compressed, max_pixels=max_pixels, reduced=not max_regions
            )
        self._matcher: StampMatcher[_Mail] = StampMatcher()
        self._mailbox: Mailbox[_Mail] = Mailbox()
        self._thread = threading.Thread(target=self._run, name="oat-inference", daemon=True)
        self._thread.start()

    @property
    def num_dropped(self) -> int:
        """Images that were replaced by a newer one before they were processed."""
        return self._mailbox.num_dropped

    def accept(self, message: Any) -> None:
        """Take in an image message. The check comes before the mailbox, so a bad one never replaces a good one."""
        now_s = time.monotonic()
        self.tally.received(now_s, stamp_ns(message))
        try:
            self._check(message)
        except InputError as error:
            self._refuse(error)
            return
        mail = _Mail(message, now_s)
        if not self._max_regions:
            self._mailbox.put(mail)
        elif matched := self._matcher.put_image(stamp_ns(message), mail):
            self._mailbox.put(replace(mail, asked=matched.detections))

    def accept_detections(self, message: Any) -> None:
        """Take in a vision_msgs/Detection2DArray: its boxes are classified in the image of the same stamp."""
        try:
            matched = self._matcher.put_detections(stamp_ns(message), message)
        except InputError as error:
            self._refuse(error)
            return
        if matched:
            self._mailbox.put(replace(matched.image, asked=message))

    def close(self) -> None:
        """Take no more images, and wait for the one in work."""
        self._mailbox.close()
        self._thread.join()

    def _refuse(self, error: InputError) -> None:
        self.tally.refuse(str(error), time.monotonic())
        self._node.get_logger().warning(f"dropped: {error}", throttle_duration_sec=_THROTTLE_S)

    def _run(self) -> None:
        """Run images until the mailbox closes, no faster than the policy grants. One bad image never ends it."""
        not_before_s, sequence = 0.0, 0
        while (mail := self._mailbox.take(not_before_s=not_before_s)) is not None:
            try:
                self.tally.begin(time.monotonic())
                frame = CameraFrame(self._to_rgb(mail.message), mail.received_s)
                frame = replace(frame, boxes=self._boxes(mail.asked, *frame.image_HWC.shape[:2]))
                now_s = time.monotonic()
                result = self._core.process(frame, external=self._external(now_s), now_s=now_s)
                rate_hz = result.decision.max_rate_hz
                not_before_s = now_s + 1 / rate_hz if rate_hz else 0.0
                self._publish(mail, frame, result, sequence)
                sequence += 1
            except InputError as error:
                self._refuse(error)
            except Exception:
                if not self._node.context.ok():
                    return
                self.tally.failed()
                self._node.get_logger().error(
                    f"an image failed unexpectedly\n{traceback.format_exc()}", throttle_duration_sec=_THROTTLE_S
                )
            finally:
                self.tally.begin(None)

    def _boxes(self, asked: Any, height: int, width: int) -> tuple[BoxXYXY | None, ...]:
        """Each detection's box in pixels; None, counted and explained, for one that cannot be cut out."""
        boxes: list[BoxXYXY | None] = []
        for detection in () if asked is None else asked.detections:
            try:
                if len(boxes) >= self._max_regions:
                    raise InputError(f"too many regions: expected at most {self._max_regions}, see max_regions")
                boxes.append(box_xyxy(detection.bbox, height=height, width=width))
            except InputError as error:
                self._refuse(error)
                boxes.append(None)
        return tuple(boxes)

    def _publish(self, mail: _Mail, frame: CameraFrame, result: FrameResult, sequence: int) -> None:
        if self._log is not None and not result.policy_failed:
            self._log.write(result)
        header = mail.message.header
        total_ms = 1e3 * (time.monotonic() - mail.received_s)
        self._publishers.publish(
            frame,
            result,
            header,
            asked=mail.asked,
            image_age_ms=self._image_age_ms(header.stamp),
            total_ms=total_ms,
            num_dropped=self.num_dropped,
            sequence=sequence,
        )
        self.tally.processed(result, now_s=time.monotonic(), total_ms=total_ms)

    def _image_age_ms(self, stamp: Any) -> float:
        """NaN for an unset stamp, and where the camera's clock is ahead of ours."""
        if not (stamp.sec or stamp.nanosec):
            return math.nan
        age_ns = (self._node.get_clock().now() - Time.from_msg(stamp)).nanoseconds
        return age_ns / 1e6 if age_ns >= 0 else math.nan
