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
    with pytest.raises(InputError, match="out of order"):
        matcher.put_detections(1, "an image before one that was answered waits no longer", now_s=0.2)
    assert matcher.put_detections(4, "boxes", now_s=0.2) is None
    with pytest.raises(InputError, match=r"without an image.*stamped 4 ns"):
        matcher.put_detections(5, "boxes", now_s=0.2)


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
    with pytest.raises(InputError, match=r"too late.*none had met one for 1 s: raise regions_wait_s"):
        matcher.put_detections(1, "boxes", now_s=1.2)
    assert matcher.put_image(2, 2, now_s=1.3, num_bytes=1) is None, "but the detector lives, so the next image waits"


def test_boxes_of_an_image_that_did_not_wait_are_not_called_slow() -> None:
    """Regression: those that came first after a silence, at once, were said to have taken longer than the wait."""
    matcher = matcher_of()
    matcher.put_image(1, 1, now_s=0.0, num_bytes=1)
    matcher.overdue(1.0)
    assert matcher.put_image(2, 2, now_s=5.0, num_bytes=1) is not None, "none met an image, so it goes at once"
    with pytest.raises(InputError) as refused:
        matcher.put_detections(2, "boxes", now_s=5.01)
    assert "none had met one for 1 s" in str(refused.value) and "within" not in str(refused.value)
    assert "the time between its messages" in str(refused.value)


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


def test_images_that_share_a_stamp_or_have_none_make_no_pair_and_say_why() -> None:
    """Regression: the second image took the place of the first, and got its boxes."""
    matcher = matcher_of()
    assert matcher.put_image(5, 1, now_s=0.0, num_bytes=1) is None
    for number in (2, 3):
        alone = matcher.put_image(5, number, now_s=0.1 * number, num_bytes=1)
        assert alone is not None and (alone.image, alone.detections) == (number, None)
        assert "share a stamp" in str(alone.problem) and "let the camera's driver stamp" in str(alone.problem)
        with pytest.raises(InputError, match="share a stamp"):
            matcher.put_detections(5, "of one of them", now_s=0.1 * number)
    unset = matcher.put_image(0, 4, now_s=0.4, num_bytes=1)
    assert unset is not None and unset.detections is None and "without a stamp" in str(unset.problem)
    with pytest.raises(InputError, match="without a stamp"):
        matcher.put_detections(0, "boxes", now_s=0.4)
    assert matcher.state().counts["images answered without detections"] == 3
    assert matcher.state().counts["images left out, detections never came"] == 1


def test_a_stamp_makes_one_pair_and_no_second_one() -> None:
    matcher = matcher_of()
    assert matcher.put_image(5, 1, now_s=0.0, num_bytes=1) is None
    assert matcher.put_detections(5, "boxes", now_s=0.1) is not None
    with pytest.raises(InputError, match="answered image"):
        matcher.put_detections(5, "of a second detector", now_s=0.1)
    alone = matcher.put_image(5, 2, now_s=0.2, num_bytes=1)
    assert alone is not None and alone.detections is None
    with pytest.raises(InputError, match="share a stamp"):
        matcher.put_detections(5, "of either", now_s=0.3)


def test_images_that_share_stamps_do_not_hide_a_dead_detector() -> None:
    matcher, answered = matcher_of(), 0
    for frame in range(90):
        matched = matcher.put_image(1 + (frame + 1) // 2, frame, now_s=frame / 30, num_bytes=1)
        answered += matched is not None
        answered += matcher.overdue(frame / 30 + 0.01) is not None
    assert matcher.state().without_detections
    assert answered == 15 + 59, "every second image for a second, then each"


def test_detections_that_came_long_before_their_image_are_of_another_one() -> None:
    """Regression: boxes from before a simulator's reset met the image of the same stamp after it."""
    matcher = matcher_of(queue_s=2.0)
    assert matcher.put_detections(7, "before the reset", now_s=0.0) is None
    assert matcher.put_image(7, 1, now_s=2.1, num_bytes=1) is None
    own = matcher.put_detections(7, "after it", now_s=2.2)
    assert own is not None and own.detections == "after it"
    with pytest.raises(InputError, match=r"without an image.*stamped 7 ns"):
        matcher.put_detections(8, "boxes", now_s=2.3)


def test_detections_of_another_frame_are_refused_and_the_image_waits_for_its_own() -> None:
    """Regression: cameras that are triggered together share stamps, and each node took the boxes of both."""
    matcher = matcher_of()
    assert matcher.put_detections(1, "rear, early", now_s=0.0, frame_id="rear") is None
    assert matcher.put_image(1, 1, now_s=0.0, num_bytes=1, frame_id="front") is None
    for stamp in (1, 2):
        with pytest.raises(InputError, match=r"another camera: expected frame_id 'front'.*got 'rear'"):
            matcher.put_detections(stamp, "rear", now_s=0.1, frame_id="rear")
    own = matcher.put_detections(1, "front", now_s=0.2, frame_id="front")
    assert own is not None and own.detections == "front"
    for stamp, frame_id, other in ((3, "", "front"), (4, "front", "")):
        assert matcher.put_image(stamp, stamp, now_s=0.3, num_bytes=1, frame_id=frame_id) is None
        assert matcher.put_detections(stamp, "boxes", now_s=0.3, frame_id=other) is not None, "unnamed is no other one"


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["image", "detections", "look"]),
        st.integers(0, 12),
        st.sampled_from(["", "front", "rear"]),
        st.floats(0, 1.5) | st.just(0.0),
    ),
    max_size=60,
)


@given(events=EVENTS, max_bytes=st.sampled_from([100_000, 10**9]))
def test_whatever_comes_each_image_is_counted_once_pairs_are_right_and_memory_is_bounded(events, max_bytes) -> None:
    matcher = matcher_of(max_bytes=max_bytes)
    now_s, gone, paired = 0.0, [], []
    images: list[tuple[int, str, float]] = []
    found: list[tuple[int, str, float]] = []
    for kind, stamp, frame_id, later_s in events:
        now_s += later_s
        matched = None
        if kind == "image":
            images.append((stamp, frame_id, now_s))
            matched = matcher.put_image(stamp, len(images) - 1, now_s=now_s, num_bytes=10_000, frame_id=frame_id)
        elif kind == "look":
            matched = matcher.overdue(now_s)
        else:
            found.append((stamp, frame_id, now_s))
            with contextlib.suppress(InputError):
                matched = matcher.put_detections(stamp, len(found) - 1, now_s=now_s, frame_id=frame_id)
        gone += [] if matched is None else [matched.image]
        if matched is not None and matched.detections is not None:
            paired.append(matched.detections)
            (stamp, frame_id, came_s), (other, other_frame, made_s) = images[matched.image], found[matched.detections]
            assert stamp == other != 0
            assert frame_id == other_frame or not (frame_id and other_frame)
            assert now_s - min(came_s, made_s) <= 2.0 + 1e-9
            alike = [s for n, (its, _, s) in enumerate(images) if its == stamp and n != matched.image]
            assert max_bytes == 100_000 or not any(s >= came_s - 2.0 for s in alike), "it tells images apart"
        counts = matcher.state().counts
        assert len(gone) == counts["images with detections"] + counts["images answered without detections"]
        assert sum(number for name, number in counts.items() if name.startswith("images")) == len(images)
        assert counts["bytes waiting"] <= max_bytes
    assert len(set(gone)) == len(gone)
    assert len(set(paired)) == len(paired)
