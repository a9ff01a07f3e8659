"""Boxes become pixels inside the image or are refused; images and detections meet by stamp, whichever comes first."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oat_perception.core.regions import StampMatcher, box_xyxy

from oat_runtime.errors import InputError

ANY = st.floats(allow_nan=True, allow_infinity=True)


def box(x: float, y: float, size_x: float, size_y: float, theta: float = 0.0) -> SimpleNamespace:
    center = SimpleNamespace(position=SimpleNamespace(x=x, y=y), theta=theta)
    return SimpleNamespace(center=center, size_x=size_x, size_y=size_y)


def test_a_box_covers_every_pixel_that_it_touches_and_ends_at_the_border() -> None:
    assert box_xyxy(box(16, 8, 32, 16), height=100, width=100) == (0, 0, 32, 16)
    assert box_xyxy(box(10.5, 10.5, 0.5, 0.5), height=100, width=100) == (10, 10, 11, 11)
    assert box_xyxy(box(98, 99, 20, 20), height=100, width=100) == (88, 89, 100, 100)


@given(x=ANY, y=ANY, size_x=ANY, size_y=ANY, theta=ANY, height=st.integers(1, 2000), width=st.integers(1, 2000))
def test_any_box_has_pixels_or_is_refused(x, y, size_x, size_y, theta, height, width) -> None:
    try:
        left, top, right, bottom = box_xyxy(box(x, y, size_x, size_y, theta), height=height, width=width)
    except InputError as error:
        assert str(error).startswith("bad region: expected")
        return
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


@pytest.mark.parametrize(
    "bad",
    [
        box(5, 5, 0, 5),
        box(5, 5, -4, 5),
        box(50, 5, 4, 4),
        box(5, 5, 4, 4, math.pi / 2),
        box(0, 1.5e308, 0, -1.5e308),  # its borders are infinite, which no integer is
    ],
)
def test_a_box_without_upright_pixels_is_refused(bad: SimpleNamespace) -> None:
    with pytest.raises(InputError, match="bad region"):
        box_xyxy(bad, height=10, width=10)


def test_detections_find_their_image_whichever_comes_first() -> None:
    matcher: StampMatcher[str] = StampMatcher()
    assert matcher.put_image(1, "one") is None
    assert matcher.put_image(2, "two") is None
    matched = matcher.put_detections(2, "boxes")
    assert matched is not None
    assert (matched.image, matched.detections) == ("two", "boxes")
    assert matcher.put_detections(3, "early") is None
    late = matcher.put_image(3, "three")
    assert late is not None
    assert (late.image, late.detections) == ("three", "early")
    assert matcher.put_detections(1, "an image before one that was answered waits no longer") is None
    with pytest.raises(InputError, match="without an image"):
        matcher.put_detections(4, "boxes")


def test_only_so_many_images_wait() -> None:
    matcher: StampMatcher[int] = StampMatcher()
    for stamp_ns in range(100):
        matcher.put_image(stamp_ns, stamp_ns)
    assert matcher.put_detections(0, "long gone") is None
    assert len(matcher._images) == 10
