"""Join an image with the detections made on it, or let it go without them where none come."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from oat_runtime.errors import InputError

_OVERHEAD_BYTES = 4096
"""Counted for each image beside its pixels, so that a flood of tiny ones is bounded as well."""

_MATCHED, _WITHOUT = "images with detections", "images answered without detections"
_UNMATCHED, _PUSHED_OUT = "images left out, detections never came", "images left out, the queue was full"

_Image = TypeVar("_Image")


@dataclass(frozen=True, slots=True)
class Matched(Generic[_Image]):
    """An image, and the detections (vision_msgs/Detection2DArray) that carry its stamp; None: it goes without them."""

    image: _Image
    detections: Any = None


@dataclass(frozen=True, slots=True)
class MatchingState:
    """The matcher at one moment; times in seconds on the caller's clock.

    Attributes:
        without_detections: whether images go without detections, because none came for `wait_s`.
        due_s: when they would, if nothing comes until then; None: they do already, or no image waits.
        silent_since_s: since when images wait for detections in vain; None: none does.
        heard_s: when detections last came, for whatever image; None: never.
        counts: images and detections, by what became of them.
    """

    without_detections: bool
    due_s: float | None
    silent_since_s: float | None
    heard_s: float | None
    counts: dict[str, int]


@dataclass(slots=True)
class _Waiting(Generic[_Image]):
    """An image in the queue; `image` is None once it went without its detections."""

    image: _Image | None
    received_s: float
    num_bytes: int


class StampMatcher(Generic[_Image]):
    """Pairs images with detections by their stamp, whichever comes first. Used from one thread.

    Each image goes at most once. If no detections match for `wait_s`, images go without them, the newest first, until
    detections match again. Detections of an image that has gone are refused, but they end that state, too.
    """

    def __init__(self, *, queue_s: float, max_bytes: int, wait_s: float) -> None:
        """Start with nothing kept.

        Args:
            queue_s: time for which an image can be matched; a detector that is later finds none.
            max_bytes: most bytes of all images in the queue. Beyond, the oldest leaves it. The newest always stays.
            wait_s: time for which images wait for detections in vain before they go without them.
        """
        self._queue_s, self._max_bytes, self._wait_s = queue_s, max_bytes, wait_s
        self._queue: OrderedDict[int, _Waiting[_Image]] = OrderedDict()
        self._num_bytes = 0
        self._early: tuple[int, Any] | None = None
        self._without = False
        self._since_s: float | None = None
        self._heard_s: float | None = None
        self._counts = dict.fromkeys((_MATCHED, _WITHOUT, _UNMATCHED, _PUSHED_OUT), 0)

    def put_image(self, stamp_ns: int, image: _Image, *, now_s: float, num_bytes: int) -> Matched[_Image] | None:
        """Store an image for its detections. Return what goes now: the pair, if they came before it, or it alone."""
        if self._early is not None and self._early[0] == stamp_ns:
            (_, detections), self._early = self._early, None
            return self._pair(image, detections, now_s)
        if stamp_ns in self._queue:
            self._remove(stamp_ns, _UNMATCHED)
        self._queue[stamp_ns] = _Waiting(image, now_s, num_bytes + _OVERHEAD_BYTES)
        self._num_bytes += num_bytes + _OVERHEAD_BYTES
        self._since_s = now_s if self._since_s is None else self._since_s
        self._forget(now_s)
        return self._without_detections() if self._without else self.overdue(now_s)

    def put_detections(self, stamp_ns: int, detections: Any, *, now_s: float) -> Matched[_Image] | None:
        """Return the pair if the image is here, and drop the images before it. Otherwise the detections wait for it.

        Raises:
            InputError: their image has gone without them; or earlier detections were still without an image, and are
                given up.
        """
        self._heard_s = now_s
        self._forget(now_s)
        if stamp_ns in self._queue:
            while (oldest := next(iter(self._queue))) != stamp_ns:
                self._remove(oldest, _UNMATCHED)
            image = self._remove(stamp_ns, "")
            if image is not None:
                return self._pair(image, detections, now_s)
            self._wait_again(now_s)
            raise InputError(
                f"detections too late: expected them within {self._wait_s:g} s, got them after their image was "
                "answered without them: raise regions_wait_s above the detector's delay"
            )
        lost, self._early = self._early, (stamp_ns, detections)
        if lost is not None:
            raise InputError(
                f"detections without an image: expected an image stamped {lost[0]} ns among those of the last "
                f"{self._queue_s:g} s, got none: stamp detections with the stamp of the image they were made on, or "
                "raise regions_queue_s above the detector's delay"
            )
        return None

    def overdue(self, now_s: float) -> Matched[_Image] | None:
        """Return the newest image if none was matched for `wait_s`; images go without detections from then on."""
        self._forget(now_s)
        if self._without or self._since_s is None or now_s - self._since_s < self._wait_s:
            return None
        return self._without_detections()

    def pause(self) -> None:
        """Let no image wait, as long as none is wanted; the next one begins its wait anew."""
        while self._queue:
            self._remove(next(iter(self._queue)), _UNMATCHED)
        self._early, self._since_s, self._without = None, None, False

    def state(self) -> MatchingState:
        """Return the state and the counts."""
        return MatchingState(
            without_detections=self._without,
            due_s=None if self._without or self._since_s is None else self._since_s + self._wait_s,
            silent_since_s=self._since_s,
            heard_s=self._heard_s,
            counts={
                **self._counts,
                "images waiting": sum(waiting.image is not None for waiting in self._queue.values()),
                "bytes waiting": self._num_bytes,
            },
        )

    def _pair(self, image: _Image, detections: Any, now_s: float) -> Matched[_Image]:
        self._counts[_MATCHED] += 1
        self._wait_again(now_s)
        return Matched(image, detections)

    def _wait_again(self, now_s: float) -> None:
        """Let images wait for their detections, from now on."""
        self._without = False
        self._since_s = now_s if self._newest() is not None else None

    def _without_detections(self) -> Matched[_Image] | None:
        """Let the newest image go without its detections; its stamp stays, so that they are known when they come."""
        image = self._newest()
        if image is None:
            self._since_s = None
            return None
        self._without = True
        waiting = next(reversed(self._queue.values()))
        self._num_bytes -= waiting.num_bytes - _OVERHEAD_BYTES
        waiting.image, waiting.num_bytes = None, _OVERHEAD_BYTES
        self._counts[_WITHOUT] += 1
        return Matched(image)

    def _newest(self) -> _Image | None:
        """Return the newest image if it waits. Older ones that wait would be of no use once it is answered."""
        newest = next(reversed(self._queue.values()), None)
        return None if newest is None else newest.image

    def _forget(self, now_s: float) -> None:
        """Drop images that are too old, or too many for the memory."""
        while self._queue:
            stamp_ns, oldest = next(iter(self._queue.items()))
            if oldest.received_s < now_s - self._queue_s:
                self._remove(stamp_ns, _UNMATCHED)
            elif self._num_bytes > self._max_bytes and len(self._queue) > 1:
                self._remove(stamp_ns, _PUSHED_OUT)
            else:
                return

    def _remove(self, stamp_ns: int, became: str) -> _Image | None:
        """Take an image out of the queue, counted by what became of it, unless it has gone already."""
        waiting = self._queue.pop(stamp_ns)
        self._num_bytes -= waiting.num_bytes
        if waiting.image is not None and became:
            self._counts[became] += 1
        return waiting.image
