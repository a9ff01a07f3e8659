"""Messages to arrays: every encoding gives the same picture; what does not fit together is refused with a reason."""

from __future__ import annotations

import math
from array import array
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oat_perception.conversions import battery_charge, check_compressed, check_image, rgb_compressed, rgb_image

from oat_runtime.errors import InputError

RGB_HWC = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
ALPHA = np.full((7, 5, 1), 200, np.uint8)
ENCODED = {
    "rgb8": RGB_HWC,
    "bgr8": RGB_HWC[..., ::-1],
    "rgba8": np.concatenate([RGB_HWC, ALPHA], -1),
    "bgra8": np.concatenate([RGB_HWC[..., ::-1], ALPHA], -1),
}


def _image(pixels: np.ndarray, encoding: str, *, padding: int = 0, last_row_padded: bool = True) -> Any:
    height, width, channels = pixels.shape
    step = width * channels + padding
    rows = np.full((height, step), 77, np.uint8)
    rows[:, : width * channels] = pixels.reshape(height, -1)
    data = rows.tobytes()
    data = data if last_row_padded or not padding else data[:-padding]
    return SimpleNamespace(height=height, width=width, encoding=encoding, step=step, data=array("B", data))


@pytest.mark.parametrize("encoding", ENCODED)
@pytest.mark.parametrize(("padding", "last_row_padded"), [(0, True), (9, True), (9, False)])
def test_every_encoding_gives_the_same_picture(encoding: str, padding: int, last_row_padded: bool) -> None:
    message = _image(ENCODED[encoding], encoding, padding=padding, last_row_padded=last_row_padded)
    check_image(message)
    image_HWC = rgb_image(message)
    assert image_HWC.dtype == np.uint8
    np.testing.assert_array_equal(image_HWC, RGB_HWC)


def test_grey_becomes_three_equal_channels() -> None:
    message = _image(RGB_HWC[..., :1], "mono8", padding=3)
    check_image(message)
    np.testing.assert_array_equal(rgb_image(message), np.repeat(RGB_HWC[..., :1], 3, -1))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"encoding": "yuv9"}, "unknown encoding: .* got 'yuv9'"),
        ({"height": 0}, "bad size: .* got 5x0"),
        ({"width": 0}, "bad size"),
        ({"width": 10**9}, "bad size"),
        ({"step": 14}, "bad step: .* got step 14"),
        ({"data": b""}, "truncated: .* needs 105 bytes, got 0"),
        ({"data": bytes(104)}, "truncated"),
        ({"data": bytes(106)}, "oversize: .* 105 bytes, got 106"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes: dict[str, Any], reason: str) -> None:
    message = _image(RGB_HWC, "rgb8")
    vars(message).update(changes)
    with pytest.raises(InputError, match=reason):
        check_image(message)


@given(
    height=st.integers(0, 2**32 - 1) | st.integers(0, 9),
    width=st.integers(0, 2**32 - 1) | st.integers(0, 9),
    step=st.integers(0, 2**32 - 1) | st.integers(0, 40),
    encoding=st.sampled_from([*ENCODED, "mono8", "bayer_rggb8", ""]),
    data=st.binary(max_size=400),
)
def test_whatever_passes_the_check_converts_within_its_data(**fields: Any) -> None:
    message = SimpleNamespace(**fields)
    try:
        check_image(message)
    except InputError:
        return
    assert rgb_image(message).shape == (message.height, message.width, 3)


@pytest.mark.parametrize("extension", [".png", ".jpg"])
def test_compressed_images_decode_to_rgb(extension: str) -> None:
    smooth = np.full((32, 32, 3), (200, 40, 90), np.uint8)
    data = cv2.imencode(extension, smooth[..., ::-1])[1].tobytes()
    message = SimpleNamespace(format=extension, data=data)
    check_compressed(message)
    np.testing.assert_allclose(rgb_compressed(message), smooth, atol=3)


def test_damaged_compressed_images_are_refused() -> None:
    data = cv2.imencode(".png", RGB_HWC)[1].tobytes()
    for bad, reason in ((b"", "empty"), (b"GIF89a", "unknown format")):
        with pytest.raises(InputError, match=reason):
            check_compressed(SimpleNamespace(format="png", data=bad))
    damaged = SimpleNamespace(format="png", data=data[:20])
    check_compressed(damaged)
    with pytest.raises(InputError, match="undecodable"):
        rgb_compressed(damaged)


@pytest.mark.parametrize(
    ("percentage", "full", "charge"),
    [(1.0, 1.0, 1.0), (0.25, 1.0, 0.25), (87.0, 100.0, 0.87), (100.0, 100.0, 1.0), (0.0, 1.0, 0.0)],
)
def test_charge_on_the_stated_scale(percentage: float, full: float, charge: float) -> None:
    assert battery_charge(SimpleNamespace(percentage=percentage, present=True), percentage_full=full) == (charge, "")


@pytest.mark.parametrize(("percentage", "present"), [(87.0, True), (-0.01, True), (math.nan, True), (0.5, False)])
def test_an_unusable_battery_is_unknown_and_never_rescaled(percentage: float, present: bool) -> None:
    charge, complaint = battery_charge(SimpleNamespace(percentage=percentage, present=present), percentage_full=1.0)
    assert math.isnan(charge)
    assert complaint
