"""Boxes become pixels inside the image, upright ones and rotated ones alike, or are refused."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from oat_perception.core.parameters import SPECS
from oat_perception.core.regions import RegionSettings, RotatedBox, box_of, cut_out

from oat_runtime.architecture import InputSpec
from oat_runtime.errors import ConfigError, InputError

ANY = st.floats(allow_nan=True, allow_infinity=True)
AS_IT_IS = InputSpec(height=32, width=32)
PICTURE_HWC = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)


def box(x: float, y: float, size_x: float, size_y: float, theta: float = 0.0) -> SimpleNamespace:
    center = SimpleNamespace(position=SimpleNamespace(x=x, y=y), theta=theta)
    return SimpleNamespace(center=center, size_x=size_x, size_y=size_y)


def test_images_are_kept_for_at_least_as_long_as_they_wait() -> None:
    """Regression: a dead detector then meant no results, and nobody said so."""
    values = {spec.name: spec.default for spec in SPECS} | {"regions_queue_s": 0.5, "regions_wait_s": 1.0}
    assert RegionSettings.of(values).queue_s == 0.5  # no regions are asked for
    with pytest.raises(ConfigError, match=r"regions_queue_s must be at least regions_wait_s, got 0\.5 and 1"):
        RegionSettings.of(values | {"max_regions": 3})


def test_a_box_covers_every_pixel_that_it_touches_and_ends_at_the_border() -> None:
    assert box_of(box(16, 8, 32, 16), height=100, width=100) == (0, 0, 32, 16)
    assert box_of(box(10.5, 10.5, 0.5, 0.5), height=100, width=100) == (10, 10, 11, 11)
    assert box_of(box(98, 99, 20, 20), height=100, width=100) == (88, 89, 100, 100)
    assert box_of(box(16, 8, 32, 16, math.tau), height=100, width=100) == (0, 0, 32, 16), "once around is upright"


@given(x=ANY, y=ANY, size_x=ANY, size_y=ANY, theta=ANY, height=st.integers(1, 2000), width=st.integers(1, 2000))
def test_any_box_has_pixels_or_is_refused(x, y, size_x, size_y, theta, height, width) -> None:
    try:
        found = box_of(box(x, y, size_x, size_y, theta), height=height, width=width)
    except InputError as error:
        assert str(error).startswith("bad region: expected")
        return
    if isinstance(found, RotatedBox):
        assert 0 < found.width * found.height <= height * width
        return
    left, top, right, bottom = found
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


@given(x=st.floats(-9, 90), y=st.floats(-9, 70), a=st.floats(-9, 120), b=st.floats(-9, 120), theta=st.floats(-7, 7))
def test_any_box_that_is_taken_can_be_cut_out(x, y, a, b, theta) -> None:
    height, width = PICTURE_HWC.shape[:2]
    try:
        found = box_of(box(x, y, a, b, theta), height=height, width=width)
    except InputError:
        return
    pixels = cut_out(PICTURE_HWC, found, AS_IT_IS)
    assert pixels.size > 0
    assert pixels.dtype == np.uint8


SIDES = st.sampled_from([1, 2, 7, 60, 80, 300, 16384])


@given(
    height=SIDES, width=SIDES, share_x=st.floats(0, 0.99), share_y=st.floats(0, 0.99), length=st.floats(0.001, 1.4),
    thickness=st.floats(1e-4, 1.0), theta=st.floats(0.01, 6.2), margin=st.none() | st.floats(0.0, 1.0),
    resize=st.sampled_from(["stretch", "center_crop", "letterbox"]),
)  # fmt: skip
def test_what_a_turned_box_costs_is_bounded_by_its_image(
    height, width, share_x, share_y, length, thickness, theta, margin, resize
) -> None:
    """Regression: with its margin, a turned box on an image of 16384x1 became 805 MB."""
    assume(height * width <= 7 * 16384)
    size = length * math.hypot(height, width)
    try:
        found = box_of(
            box(share_x * width, share_y * height, size, thickness * height * width / size, theta),
            height=height,
            width=width,
        )
    except InputError:
        return
    spec = InputSpec(height=32, width=48, region_margin=margin, resize=resize)
    pixels = cut_out(np.zeros((height, width, 3), np.uint8), found, spec)
    assert 0 < pixels.nbytes <= 4 * 3 * height * width


def test_a_region_that_is_sampled_coarsely_shows_what_a_fine_one_shows() -> None:
    ramp_HW = np.broadcast_to(np.linspace(0, 255, 4000), (40, 4000)).astype(np.uint8)
    image_HWC = np.ascontiguousarray(np.repeat(ramp_HW[..., None], 3, axis=-1))
    spec = InputSpec(height=32, width=32, region_margin=0.0)
    turned = box_of(box(2000, 20, 3000, 30, math.pi), height=40, width=4000)
    pixels = cut_out(image_HWC, turned, spec)
    assert pixels.shape == (800, 800, 3), "four times the image's pixels"
    np.testing.assert_allclose(pixels[400, :, 0], np.linspace(255 * 3500 / 4000, 255 * 500 / 4000, 800), atol=2)


@pytest.mark.parametrize(
    "bad",
    [
        box(5, 5, 0, 5),
        box(5, 5, -4, 5),
        box(50, 5, 4, 4),
        box(5, 5, 11, 11, math.pi / 2),  # what turning a box costs is bounded by the image
        box(-1, 5, 4, 4, math.pi / 2),
        box(0, 1.5e308, 0, -1.5e308),  # its borders are infinite, which no integer is
    ],
)
def test_a_box_without_pixels_or_larger_than_the_image_is_refused(bad: SimpleNamespace) -> None:
    with pytest.raises(InputError, match="bad region"):
        box_of(bad, height=10, width=10)


@pytest.mark.parametrize(("quarters", "size"), [(1, (20, 12)), (2, (12, 20)), (3, (20, 12)), (-1, (20, 12))])
def test_a_box_turned_by_quarters_gives_the_same_pixels_turned_back(quarters: int, size: tuple[int, int]) -> None:
    found = box_of(box(40, 30, *size, theta=quarters * math.pi / 2), height=60, width=80)
    upright = PICTURE_HWC[30 - 10 : 30 + 10, 40 - 6 : 40 + 6]
    # A positive angle goes from right to down, so the box's own x axis points down after one quarter.
    np.testing.assert_array_equal(cut_out(PICTURE_HWC, found, AS_IT_IS), np.rot90(upright, k=quarters))


@pytest.mark.parametrize(
    "spec",
    [InputSpec(height=8, width=8), InputSpec(height=8, width=16), InputSpec(height=8, width=8, resize="stretch")],
)
def test_a_turned_box_gets_the_margin_and_the_aspect_of_an_upright_one(spec: InputSpec) -> None:
    spec = spec.model_copy(update={"region_margin": 0.5})
    upright, turned = (
        cut_out(PICTURE_HWC, box_of(box(40, 30, 12, 8, theta), height=60, width=80), spec) for theta in (0.0, math.pi)
    )
    np.testing.assert_array_equal(turned, np.rot90(upright, k=2))


def test_what_lies_along_a_rotated_box_stands_upright_in_it() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    angle = 0.6
    for step in range(-20, 21):  # a line along the box's x axis
        image[round(50 + step * math.sin(angle)), round(50 + step * math.cos(angle))] = 255
    found = cut_out(image, box_of(box(50, 50, 40, 20, angle), height=100, width=100), AS_IT_IS)
    rows = found[..., 0].astype(float).sum(axis=1)
    assert rows[8:12].sum() > 0.95 * rows.sum(), "the line is level, in the middle"


def test_corners_go_around_the_box() -> None:
    corners = RotatedBox(10.0, 20.0, 8.0, 4.0, math.pi / 2).corners()
    np.testing.assert_allclose(corners, [[12, 16], [12, 24], [8, 24], [8, 16]], atol=1e-9)
