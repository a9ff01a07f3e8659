"""Join an image with the detections made on it, or let it go without them where none come."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from oat_runtime.errors import InputError, quoted

_OVERHEAD_BYTES = 4096
"""Counted for each image beside its pixels, so that a flood of tiny ones is bounded as well."""

_MATCHED, _WITHOUT = "images with detections", "images answered without detections"
_UNMATCHED, _PUSHED_OUT = "images left out, detections never came", "images left out, the queue was full"
_OUT_OF_ORDER = (
    "detections out of order: expected them in the order of their images, got them after those of a later image: let "
    "the detector answer one image after the other"
)
_TWICE = (
    "detections of an answered image: expected one message for each image, got another one: let one detector publish "
    "on this topic, or join the boxes of several"
)
_STAMP_IT = "so whole images are answered: let the camera's driver stamp each image with its own time"

_Image = TypeVar("_Image")


@dataclass(frozen=True, slots=True)
class Matched(Generic[_Image]):
    """An image to be answered now.

    Attributes:
        image: as it was put in.
        detections: those that carry its stamp (vision_msgs/Detection2DArray); None: it goes without them.
        problem: why none can be found for it, whatever comes; None where that is not so.
    """

    image: _Image
    detections: Any = None
    problem: InputError | None = None


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
    """An image in the queue. Once it has gone, `image` is None and `refusal` says so to detections of its stamp."""

    image: _Image | None
    frame_id: str
    received_s: float
    num_bytes: int
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class _Early:
    """Detections that came before their image."""

    stamp_ns: int
    frame_id: str
    received_s: float
    detections: Any


class StampMatcher(Generic[_Image]):
    """Pairs images with detections by their stamp, whichever comes first. Used from one thread.

    Each image goes at most once. If no detections match for `wait_s`, images go without them, the newest first, until
    detections match again. Detections of an image that has gone are refused, but they end that state, too.

    A stamp makes a pair only where it tells images apart: it is set, and no other image of the last `queue_s` has it.
    Where image and detections both name their frame, it is the same one: cameras that are triggered together share
    their stamps.
    """

    def __init__(self, *, queue_s: float, max_bytes: int, wait_s: float) -> None:
        """Start with nothing kept.

        Args:
            queue_s: time for which image or detections can be matched; a detector that is later finds none.
            max_bytes: most bytes of all images in the queue. Beyond, the oldest leaves it. The newest always stays.
            wait_s: time for which images wait for detections in vain before they go without them.
        """
        self._queue_s, self._max_bytes, self._wait_s = queue_s, max_bytes, wait_s
        self._queue: OrderedDict[int, _Waiting[_Image]] = OrderedDict()
        self._num_bytes = 0
        self._frame_id = ""
        self._early: _Early | None = None
        self._without = False
        self._since_s: float | None = None
        self._heard_s: float | None = None
        self._counts = dict.fromkeys((_MATCHED, _WITHOUT, _UNMATCHED, _PUSHED_OUT), 0)

    def put_image(
        self, stamp_ns: int, image: _Image, *, now_s: float, num_bytes: int, frame_id: str = ""
    ) -> Matched[_Image] | None:
        """Store an image for its detections. Return what goes now: the pair, if they came before it, or it alone."""
        self._forget(now_s)
        self._frame_id = frame_id
        if stamp_ns == 0:
            return self._alone(image, f"regions of an image without a stamp: expected one, got 0, {_STAMP_IT}")
        if stamp_ns in self._queue:
            problem = (
                f"regions of images that share a stamp: expected one image stamped {stamp_ns} ns within "
                f"{self._queue_s:g} s, got another one, {_STAMP_IT}"
            )
            self._let_go(stamp_ns, problem, became=_UNMATCHED)
            self._queue[stamp_ns].received_s = now_s
            self._queue.move_to_end(stamp_ns)
            return self._alone(image, problem)
        self._queue[stamp_ns] = _Waiting(image, frame_id, now_s, num_bytes + _OVERHEAD_BYTES)
        self._num_bytes += num_bytes + _OVERHEAD_BYTES
        if (early := self._early_for(stamp_ns, frame_id, now_s)) is not None:
            self._early = None
            pair = self._pair(stamp_ns, early.detections, now_s)
            self._forget(now_s)
            return pair
        self._since_s = now_s if self._since_s is None else self._since_s
        self._forget(now_s)
        return self._without_detections() if self._without else self.overdue(now_s)

    def put_detections(
        self, stamp_ns: int, detections: Any, *, now_s: float, frame_id: str = ""
    ) -> Matched[_Image] | None:
        """Return the pair if the image is here, and drop the images before it. Otherwise the detections wait for it.

        Raises:
            InputError: they have no stamp, or belong to another camera; or their image has gone, or shares its stamp
                with another one; or earlier detections were still without an image, and are given up.
        """
        self._heard_s = now_s
        self._forget(now_s)
        if stamp_ns == 0:
            raise InputError(
                "detections without a stamp: expected the stamp of the image that they were made on, got 0: let the "
                "detector copy the image's header"
            )
        waiting = self._queue.get(stamp_ns)
        expected = self._frame_id if waiting is None else waiting.frame_id
        if _are_two(expected, frame_id):
            raise InputError(
                f"detections of another camera: expected frame_id {quoted(expected)}, which the image has, got "
                f"{quoted(frame_id)}: let the detector copy the image's header, or remap regions to a topic of this "
                "camera alone"
            )
        if waiting is not None:
            return self._claim(stamp_ns, waiting, detections, now_s)
        lost, self._early = self._early, _Early(stamp_ns, frame_id, now_s, detections)
        if lost is not None:
            raise InputError(
                f"detections without an image: expected an image stamped {lost.stamp_ns} ns among those of the last "
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

    def _early_for(self, stamp_ns: int, frame_id: str, now_s: float) -> _Early | None:
        """Return the detections that wait, if they are of this image. Otherwise they stay until others replace them."""
        early = self._early
        if early is None or early.stamp_ns != stamp_ns or _are_two(frame_id, early.frame_id):
            return None
        return early if now_s - early.received_s <= self._queue_s else None

    def _claim(self, stamp_ns: int, waiting: _Waiting[_Image], detections: Any, now_s: float) -> Matched[_Image]:
        """Return the pair. The images before it will not be answered any more."""
        for before_ns, before in self._queue.items():
            if before_ns == stamp_ns:
                break
            if before.image is not None:
                self._let_go(before_ns, _OUT_OF_ORDER, became=_UNMATCHED)
        if waiting.image is not None:
            return self._pair(stamp_ns, detections, now_s)
        self._wait_again(now_s)
        raise InputError(waiting.refusal)

    def _pair(self, stamp_ns: int, detections: Any, now_s: float) -> Matched[_Image]:
        image = self._let_go(stamp_ns, _TWICE, became=_MATCHED)
        assert image is not None, "whoever pairs an image has looked that it waits"
        self._wait_again(now_s)
        return Matched(image, detections)

    def _alone(self, image: _Image, problem: str) -> Matched[_Image]:
        self._counts[_WITHOUT] += 1
        return Matched(image, problem=InputError(problem))

    def _wait_again(self, now_s: float) -> None:
        """Let images wait for their detections, from now on."""
        self._without = False
        self._since_s = now_s if self._newest() is not None else None

    def _without_detections(self) -> Matched[_Image] | None:
        """Let images go without their detections, the newest at once."""
        self._without = True
        if self._newest() is None:
            return None
        image = self._let_go(
            next(reversed(self._queue)),
            "detections too late: their image was answered without them, since none had met one for "
            f"{self._wait_s:g} s: raise regions_wait_s above the detector's delay and the time between its messages",
            became=_WITHOUT,
        )
        return None if image is None else Matched(image)

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

    def _let_go(self, stamp_ns: int, refusal: str, *, became: str) -> _Image | None:
        """Take an image, counted by what became of it. Its stamp stays, so that what comes of it later is refused."""
        waiting = self._queue[stamp_ns]
        image, waiting.image, waiting.refusal = waiting.image, None, refusal
        self._num_bytes -= waiting.num_bytes - _OVERHEAD_BYTES
        waiting.num_bytes = _OVERHEAD_BYTES
        self._counts[became] += image is not None
        return image

    def _remove(self, stamp_ns: int, became: str) -> None:
        """Take an image and its stamp out of the queue, counted by what became of it, unless it has gone already."""
        waiting = self._queue.pop(stamp_ns)
        self._num_bytes -= waiting.num_bytes
        self._counts[became] += waiting.image is not None


def _are_two(frame_id: str, other: str) -> bool:
    """Return whether two frames are named, and differ."""
    return bool(frame_id and other and frame_id != other)
