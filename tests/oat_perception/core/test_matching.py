"""Images meet detections by stamp, whichever comes first, within time and memory. Without detections images go on."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oat_perception.core.matching import StampMatcher

from oat_runtime.errors import InputError

VGA_BYTES = 640 * 480 * 3


def matcher_of(*, queue_s: float = 2.0, max_bytes: int = 10**9, wait_s: float = 1.0) -> StampMatcher[int]:
    return StampMatcher(queue_s=queue_s, max_bytes=max_bytes, wait_s=wait_s)


class Camera:
    """A camera of 30 images a second, and a detector that answers after `delay_s`. An image is its number."""

    def __init__(self, matcher: StampMatcher[int], *, delay_s: float | None, num_bytes: int = VGA_BYTES) -> None:
        self.matcher, self.delay_s, self.num_bytes = matcher, delay_s, num_bytes
        self.gone: list[tuple[float, int, bool]] = []
        self.refused: list[str] = []
        self.number = 0
        self._due: list[tuple[float, int]] = []

    def run(self, seconds: float) -> None:
        for _ in range(round(30 * seconds)):
            now_s, self.number = self.number / 30, self.number + 1
            self._due += [] if self.delay_s is None else [(now_s + self.delay_s, self.number)]
            self._note(now_s, self.matcher.put_image(self.number, self.number, now_s=now_s, num_bytes=self.num_bytes))
            while self._due and self._due[0][0] <= now_s:
                number = self._due.pop(0)[1]
                try:
                    self._note(now_s, self.matcher.put_detections(number, f"boxes {number}", now_s=now_s))
                except InputError as error:
                    self.refused.append(str(error))

    def _note(self, now_s: float, matched) -> None:
        if matched is not None:
            assert matched.detections in (None, f"boxes {matched.image}"), "never those of another image"
            self.gone.append((now_s, matched.image, matched.detections is not None))


def test_detections_find_their_image_whichever_comes_first() -> None:
    matcher: StampMatcher[str] = StampMatcher(queue_s=2.0, max_bytes=10**6, wait_s=1.0)
    assert matcher.put_image(1, "one", now_s=0.0, num_bytes=1) is None
    assert matcher.put_image(2, "two", now_s=0.0, num_bytes=1) is None
    matched = matcher.put_detections(2, "boxes", now_s=0.1)
    assert matched is not None
    assert (matched.image, matched.detections) == ("two", "boxes")
    assert matcher.put_detections(3, "early", now_s=0.1) is None
    late = matcher.put_image(3, "three", now_s=0.2, num_bytes=1)
    assert late is not None
    assert (late.image, late.detections) == ("three", "early")
    assert matcher.put_detections(1, "an image before one that was answered waits no longer", now_s=0.2) is None
    with pytest.raises(InputError, match="without an image"):
        matcher.put_detections(4, "boxes", now_s=0.2)


@pytest.mark.parametrize("delay_s", [0.01, 0.3, 0.9, 1.2, 1.9])
def test_a_detector_that_is_late_is_matched_within_the_queues_seconds(delay_s: float) -> None:
    """Regression: ten images waited, 333 ms at 30 Hz, so a detector 0.4 s late never met an image."""
    camera = Camera(matcher_of(wait_s=2.0), delay_s=delay_s)
    camera.run(6.0)
    assert [with_boxes for _, _, with_boxes in camera.gone] == [True] * len(camera.gone)
    assert [number for _, number, _ in camera.gone] == list(range(1, len(camera.gone) + 1))
    assert len(camera.gone) >= 30 * (6.0 - delay_s) - 2
    assert not camera.refused


def test_a_detector_that_is_later_than_the_wait_is_matched_once_it_has_begun() -> None:
    camera = Camera(matcher_of(wait_s=1.0), delay_s=1.2)
    camera.run(8.0)
    without = [now_s for now_s, _, with_boxes in camera.gone if not with_boxes]
    assert 1.0 <= min(without) < 1.1
    assert max(without) < 1.25, "whole images go on only until the first detections"
    assert all("too late" in words for words in camera.refused)
    assert len(camera.refused) == len(without), "those of each image that had gone"
    assert sum(with_boxes for _, _, with_boxes in camera.gone) >= 30 * (8 - 1.2) - len(without) - 2


def test_whole_images_go_on_when_the_detector_dies_and_wait_again_when_it_comes_back() -> None:
    """Regression: without detections there were no results at all."""
    camera = Camera(matcher_of(), delay_s=0.1)
    camera.run(2.0)
    camera.delay_s = None
    camera.run(3.0)
    whole = [now_s for now_s, _, with_boxes in camera.gone if not with_boxes]
    assert 3.0 <= min(whole) <= 3.2, "after the wait"
    assert len(whole) >= 30 * 1.8, "each image, at once"
    camera.delay_s = 0.1
    camera.run(2.0)
    assert all(with_boxes for now_s, _, with_boxes in camera.gone if now_s > 5.2)


def test_no_image_goes_twice() -> None:
    matcher = matcher_of()
    matcher.put_image(1, 1, now_s=0.0, num_bytes=1)
    assert matcher.overdue(0.99) is None
    gone = matcher.overdue(1.0)
    assert gone is not None and (gone.image, gone.detections) == (1, None)
    assert matcher.overdue(1.1) is None
    with pytest.raises(InputError, match=r"too late.*raise regions_wait_s"):
        matcher.put_detections(1, "boxes", now_s=1.2)
    assert matcher.put_image(2, 2, now_s=1.3, num_bytes=1) is None, "but the detector lives, so the next image waits"


def test_a_pause_is_no_silence() -> None:
    """While nobody wants results, no image comes; the first one afterwards waits for its detections as any other."""
    matcher = matcher_of()
    matcher.put_image(1, 1, now_s=0.0, num_bytes=1)
    matcher.pause()
    assert (matcher.state().due_s, matcher.state().counts["bytes waiting"]) == (None, 0)
    assert matcher.overdue(60.0) is None
    assert matcher.put_image(2, 2, now_s=60.0, num_bytes=1) is None
    assert matcher.state().due_s == 61.0


def test_an_image_now_and_then_has_its_own_wait() -> None:
    """A camera that is triggered each ten seconds, and a detector that needs 0.3 s."""
    matcher = matcher_of()
    for number in range(1, 5):
        assert matcher.put_image(number, number, now_s=10.0 * number, num_bytes=1) is None
        assert matcher.overdue(10.0 * number + 0.2) is None
        assert matcher.put_detections(number, "boxes", now_s=10.0 * number + 0.3) is not None


def test_the_queue_is_bounded_in_bytes_and_each_image_is_counted() -> None:
    camera = Camera(matcher_of(max_bytes=10 * (VGA_BYTES + 4096), wait_s=60.0), delay_s=None)
    camera.run(3.0)
    counts = camera.matcher.state().counts
    assert counts["images waiting"] == 10
    assert counts["bytes waiting"] <= 10 * (VGA_BYTES + 4096)
    assert counts["images left out, the queue was full"] == 80
    big = matcher_of(max_bytes=1000)
    big.put_image(1, 1, now_s=0.0, num_bytes=10**6)
    assert big.put_detections(1, "boxes", now_s=0.1) is not None, "the newest always stays"


EVENTS = st.lists(
    st.tuples(st.sampled_from(["image", "detections", "look"]), st.integers(0, 12), st.floats(0, 1.5)), max_size=60
)


@given(events=EVENTS)
def test_whatever_comes_each_image_is_counted_once_and_memory_is_bounded(events) -> None:
    matcher = matcher_of(max_bytes=100_000)
    now_s, came, gone = 0.0, 0, []
    for kind, stamp, later_s in events:
        now_s += later_s
        matched = None
        if kind == "image":
            came += 1
            matched = matcher.put_image(stamp, came, now_s=now_s, num_bytes=10_000)
        elif kind == "look":
            matched = matcher.overdue(now_s)
        else:
            with contextlib.suppress(InputError):
                matched = matcher.put_detections(stamp, "boxes", now_s=now_s)
        gone += [] if matched is None else [matched.image]
        counts = matcher.state().counts
        assert len(gone) == counts["images with detections"] + counts["images answered without detections"]
        assert sum(number for name, number in counts.items() if name.startswith("images")) == came
        assert counts["bytes waiting"] <= 100_000
    assert len(set(gone)) == len(gone)
