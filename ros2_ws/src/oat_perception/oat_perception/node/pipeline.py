"""Lead an image through the active node: check, newest-wins mailbox, inference, results."""

from __future__ import annotations

import functools
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from rclpy.serialization import deserialize_message

from oat_perception.core.answers import TrackMeans
from oat_perception.core.decision_log import DecisionLog
from oat_perception.core.mailbox import Mailbox
from oat_perception.core.matching import Matched, MatchingState, StampMatcher
from oat_perception.core.perception import CameraFrame, ExternalSignals, FrameResult, PerceptionCore
from oat_perception.core.regions import Box, RegionSettings, box_of
from oat_perception.core.tally import Tally
from oat_perception.middleware import STEADY
from oat_perception.node.lifecycle import GuardedLifecycleNode
from oat_perception.node.messages import stamp_ns, vision
from oat_perception.node.publishers import ResultPublishers
from oat_runtime.data import camera_messages, image_headers
from oat_runtime.data.decoding import FULL_BITS
from oat_runtime.errors import InputError, OATError, one_line, quoted

_THROTTLE_S = 5.0
_PATIENCE_S = 5.0
"""For the image in work at the end; whoever waits for the end blocks the executor, and has a time limit as well."""
_MAX_FRAME_ID = 1000
_MOST_SHOWN = 500
_SAMPLED_ROWS = 60
"""Rows and columns, about, of which the brightest value is taken."""
_DETECTIONS_BYTES, _REGION_BYTES = 2**18, 4096
"""Largest message of detections, and what it may be more for each region that is classified: a box takes 100 bytes."""


@dataclass(frozen=True, slots=True)
class _Mail:
    """An image message that passed the structural check, and the detections that name its regions, if any."""

    message: Any
    received_s: float
    asked: Any = None


class Pipeline:
    """Join two threads: the executor's thread calls `accept...`, and the inference thread does the rest."""

    def __init__(
        self,
        node: GuardedLifecycleNode,
        core: PerceptionCore,
        publishers: ResultPublishers,
        *,
        compressed: bool,
        external: Callable[[float], ExternalSignals],
        log: DecisionLog | None,
        class_names: tuple[str, ...],
        regions: RegionSettings,
        max_pixels: int = image_headers.MAX_PIXELS,
        image_bits: int = FULL_BITS,
    ) -> None:
        """Start the inference thread.

        Args:
            node: whose clock, logger and context are used.
            core: what runs an image.
            publishers: where results go.
            compressed: whether images come as sensor_msgs/CompressedImage.
            external: the external signals at a steady time; called in the inference thread.
            log: where decisions are kept.
            class_names: by label.
            regions: how detections are met with their images.
            max_pixels: most pixels of one image.
            image_bits: bits that a value of a 16-bit image uses.
        """
        self.tally = Tally()
        self._node, self._core, self._publishers = node, core, publishers
        self._external, self._log, self._max_regions = external, log, regions.most
        self._check: Callable[[Any], None] = functools.partial(camera_messages.check_image, max_pixels=max_pixels)
        self._to_rgb: Callable[[Any], Any] = functools.partial(camera_messages.rgb_image, bits=image_bits)
        if compressed:
            self._check = functools.partial(camera_messages.check_compressed, max_pixels=max_pixels)
            # Boxes of regions are in the pixels that the camera sent.
            self._to_rgb = functools.partial(
                camera_messages.rgb_compressed, max_pixels=max_pixels, reduced=not regions.most, bits=image_bits
            )
        self._matcher: StampMatcher[_Mail] = StampMatcher(
            queue_s=regions.queue_s, max_bytes=regions.queue_bytes, wait_s=regions.wait_s
        )
        self._means = TrackMeans(regions.smoothing_s, class_names)
        self._mailbox: Mailbox[_Mail] = Mailbox()
        self._period_s, self._rate_cause, self._sequence = 0.0, "", 0
        self._thread = threading.Thread(target=self._run, name="oat-inference", daemon=True)
        self._thread.start()

    @property
    def num_dropped(self) -> int:
        """Images that were replaced by a newer one because the inference thread was busy."""
        return self._mailbox.num_dropped

    @property
    def num_skipped(self) -> int:
        """Images that were replaced by a newer one because the policy's rate left them out."""
        return self._mailbox.num_skipped

    @property
    def matching(self) -> MatchingState | None:
        """How images meet their detections; None where no regions are asked for. For the executor's thread."""
        return self._matcher.state() if self._max_regions else None

    def accept(self, message: Any) -> None:
        """Take in an image message. It is checked before the mailbox, so that a bad one never replaces a good one."""
        now_s = time.monotonic()
        self.tally.received(now_s, stamp_ns(message))
        try:
            if len(message.header.frame_id) > _MAX_FRAME_ID:
                raise InputError(
                    f"bad frame_id: expected at most {_MAX_FRAME_ID} characters, got {len(message.header.frame_id)}"
                )
            self._check(message)
        except InputError as error:
            self._refuse(error)
            return
        mail = _Mail(message, now_s)
        if not self._max_regions:
            self._mailbox.put(mail)
            return
        self._go_on(
            self._matcher.put_image(
                stamp_ns(message), mail, now_s=now_s, num_bytes=len(message.data), frame_id=message.header.frame_id
            )
        )

    def answer_overdue(self) -> None:
        """Let an image go without detections that it has waited for too long."""
        self._go_on(self._matcher.overdue(time.monotonic()))

    def pause(self) -> None:
        """Let no image wait for detections while the camera is not listened to."""
        self._matcher.pause()

    def accept_detections(self, serialized: bytes) -> None:
        """Take in a serialized vision_msgs/Detection2DArray: its boxes are classified in the image of its header.

        It is not made into objects where it is too large: 100,000 boxes would keep all else waiting for seconds.
        """
        most = _DETECTIONS_BYTES + self._max_regions * _REGION_BYTES
        try:
            if len(serialized) > most:
                raise InputError(
                    f"too many detections: expected at most {most} bytes with max_regions {self._max_regions}, got "
                    f"{len(serialized)}: send fewer boxes, or raise max_regions"
                )
            message = deserialize_message(serialized, vision.Detection2DArray)
            matched = self._matcher.put_detections(
                stamp_ns(message), message, now_s=time.monotonic(), frame_id=message.header.frame_id
            )
        except InputError as error:
            self._refuse(error)
            return
        self._go_on(matched)

    def close(self) -> None:
        """Take no more images, and wait until the present one is done. If it takes too long, all goes on as before.

        Raises:
            OATError: the image is still in work.
        """
        self._mailbox.close()
        self._thread.join(_PATIENCE_S)
        if self._thread.is_alive() and self._mailbox.reopen():
            raise OATError(
                f"an image is still in work after {_PATIENCE_S:g} s: try again once it is done, and where it never is, "
                "end the process and start it again"
            )

    def _go_on(self, matched: Matched[_Mail] | None) -> None:
        if matched is None:
            return
        if matched.problem is not None:
            self._refuse(matched.problem)
        self._mailbox.put(replace(matched.image, asked=matched.detections))

    def _refuse(self, error: InputError, *, num: int = 1) -> None:
        reason = one_line(error, most=_MOST_SHOWN)
        self.tally.refuse(reason, time.monotonic(), num=num)
        self._node.get_logger().warning(
            f"dropped: {reason}", throttle_duration_sec=_THROTTLE_S, throttle_time_source_type=STEADY
        )

    def _run(self) -> None:
        """Process images until the mailbox closes, no faster than the policy allows. A bad image never ends this."""
        while (mail := self._mailbox.take()) is not None:
            try:
                self.tally.begin(time.monotonic())
                self._answer(mail)
            except Exception as error:
                if not self._node.context.ok():
                    return
                self._node.failures.tell("an image", error)
                self.tally.failed(quoted(error), time.monotonic())
            finally:
                self.tally.begin(None)

    def _answer(self, mail: _Mail) -> None:
        granted_s = self._mailbox.not_before_s
        # What comes while this image is in work is left out by the rate as well, unless the work takes longer.
        self._mailbox.not_before_s = time.monotonic() + self._period_s
        try:
            frame = CameraFrame(self._to_rgb(mail.message), mail.received_s)
            frame = replace(frame, boxes=self._boxes(mail.asked, *frame.image_HWC.shape[:2]))
            self._look_for_light(mail.message, frame.image_HWC)
            now_s = time.monotonic()
            result = self._core.process(frame, external=self._external(now_s), now_s=now_s)
        except InputError as error:
            self._mailbox.not_before_s = granted_s
            self._refuse(error)
            return
        rate_hz = result.decision.max_rate_hz
        self._period_s = 1 / rate_hz if rate_hz else 0.0
        self._mailbox.not_before_s = now_s + self._period_s
        self._say_rate(result)
        if mail.asked is not None:
            ids = [detection.id for detection in mail.asked.detections]
            result = replace(result, regions=self._means.smoothed(ids, result.regions, now_s=now_s))
        try:
            self._publish(mail, frame, result)
        finally:  # results first, and a result that cannot be published was decided on all the same
            self._keep(result)

    def _say_rate(self, result: FrameResult) -> None:
        """Log once that the rate is limited, and by what, when that changes."""
        if result.rate_cause == self._rate_cause:
            return
        self._rate_cause = result.rate_cause
        limit = "no limit any more: images are classified as fast as they come"
        if result.rate_cause:
            limit = f"at most {result.decision.max_rate_hz:.3g} images a second: {result.rate_cause}"
        self._node.get_logger().info(f"rate: {limit}")

    def _look_for_light(self, message: Any, image_HWC: Any) -> None:
        """Count images that are nearly black: of a camera's bits, the upper ones may be empty."""
        every = max(1, min(image_HWC.shape[:2]) // _SAMPLED_ROWS)
        brightest = int(image_HWC[::every, ::every].max())
        encoding = getattr(message, "encoding", None) or message.format.partition(";")[0].strip()
        self.tally.shone(brightest, is_dark=brightest < camera_messages.nearly_black(encoding))

    def _boxes(self, asked: Any, height: int, width: int) -> tuple[Box | None, ...] | None:
        """Return each detection's box in pixels, or None, counted and logged, if it cannot be cut out; None unasked."""
        if asked is None:
            return None
        boxes: list[Box | None] = []
        detections = asked.detections
        for detection in detections[: self._max_regions]:
            try:
                boxes.append(box_of(detection.bbox, height=height, width=width))
            except InputError as error:
                self._refuse(error)
                boxes.append(None)
        if more := len(detections) - len(boxes):
            reason = f"too many regions: expected at most {self._max_regions}, got {len(detections)}, see max_regions"
            self._refuse(InputError(reason), num=more)
        return (*boxes, *[None] * more)

    def _publish(self, mail: _Mail, frame: CameraFrame, result: FrameResult) -> None:
        header = mail.message.header
        total_ms = 1e3 * (time.monotonic() - mail.received_s)
        self._publishers.publish(
            frame,
            result,
            header,
            asked=mail.asked,
            image_age_ms=self._image_age_ms(mail.message),
            total_ms=total_ms,
            num_dropped=self.num_dropped,
            num_skipped=self.num_skipped,
            sequence=self._sequence,
        )
        self._sequence += 1
        self.tally.processed(result, now_s=time.monotonic(), total_ms=total_ms)

    def _keep(self, result: FrameResult) -> None:
        if self._log is None or result.policy_failed:
            return
        self._log.write(result)
        if self._log.problem:
            self._node.get_logger().warning(
                f"the decision log lost {self._log.num_lost} decisions so far ({self._log.problem}): "
                f"{self._log.remedy}, and it goes on by itself",
                throttle_duration_sec=_THROTTLE_S,
                throttle_time_source_type=STEADY,
            )

    def _image_age_ms(self, message: Any) -> float:
        """Return the image's age; NaN if its stamp is unset or impossible, or the camera's clock is ahead of ours."""
        stamp = message.header.stamp
        is_time = stamp.sec >= 0 and stamp.nanosec < 10**9 and stamp_ns(message) > 0
        age_ns = self._node.get_clock().now().nanoseconds - stamp_ns(message)
        return age_ns / 1e6 if is_time and age_ns >= 0 else math.nan
