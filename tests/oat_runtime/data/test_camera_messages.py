"""Messages to arrays: every encoding gives the same picture; what does not fit together is refused with a reason."""

from __future__ import annotations

import contextlib
from array import array
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oat_runtime.data.camera_messages import (
    ENCODINGS,
    NEARLY_BLACK,
    check_compressed,
    check_image,
    nearly_black,
    rgb_compressed,
    rgb_image,
)
from oat_runtime.errors import InputError

RGB_HWC = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
ALPHA = np.full((7, 5, 1), 200, np.uint8)
ENCODED = {
    "rgb8": RGB_HWC,
    "bgr8": RGB_HWC[..., ::-1],
    "rgba8": np.concatenate([RGB_HWC, ALPHA], -1),
    "bgra8": np.concatenate([RGB_HWC[..., ::-1], ALPHA], -1),
    "8UC3": RGB_HWC[..., ::-1],
    "8UC4": np.concatenate([RGB_HWC[..., ::-1], ALPHA], -1),
}
BAYER = {"rggb": "RG/GB", "bggr": "BG/GR", "gbrg": "GB/RG", "grbg": "GR/BG"}


def _image(pixels: np.ndarray, encoding: str, *, padding: int = 0, last_row_padded: bool = True) -> Any:
    height, width, channels = pixels.shape
    step = width * channels + padding
    rows = np.full((height, step), 77, np.uint8)
    rows[:, : width * channels] = pixels.reshape(height, -1)
    data = rows.tobytes()
    data = data if last_row_padded or not padding else data[:-padding]
    return SimpleNamespace(
        height=height, width=width, encoding=encoding, is_bigendian=0, step=step, data=array("B", data)
    )


@pytest.mark.parametrize("encoding", ENCODED)
@pytest.mark.parametrize(("padding", "last_row_padded"), [(0, True), (9, True), (9, False)])
def test_every_encoding_gives_the_same_picture(encoding: str, padding: int, last_row_padded: bool) -> None:
    message = _image(ENCODED[encoding], encoding, padding=padding, last_row_padded=last_row_padded)
    check_image(message)
    image_HWC = rgb_image(message)
    assert image_HWC.dtype == np.uint8
    np.testing.assert_array_equal(image_HWC, RGB_HWC)


@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_grey_becomes_three_equal_channels(encoding: str) -> None:
    message = _image(RGB_HWC[..., :1], encoding, padding=3)
    check_image(message)
    np.testing.assert_array_equal(rgb_image(message), np.repeat(RGB_HWC[..., :1], 3, -1))


@pytest.mark.parametrize("big_endian", [0, 1])
def test_sixteen_bits_give_their_upper_eight_in_either_byte_order(big_endian: int) -> None:
    grey_HW = np.random.default_rng(1).integers(0, 2**16, (7, 5), dtype=np.uint16)
    stored = grey_HW.astype(">u2" if big_endian else "<u2").view(np.uint8).reshape(7, 5, 2)
    message = _image(stored, "mono16", padding=3, last_row_padded=False)
    message.is_bigendian = big_endian
    check_image(message)
    np.testing.assert_array_equal(rgb_image(message), np.repeat((grey_HW >> 8)[..., None], 3, -1))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pattern", BAYER)
def test_bayer_patterns_give_each_colour_its_place(pattern: str, bits: int) -> None:
    colour = {"R": 200, "G": 120, "B": 40}
    cell = np.array([[colour[name] for name in row] for row in BAYER[pattern].split("/")], np.uint8)
    mosaic_HW1 = np.tile(cell, (8, 8))[..., None]
    stored = mosaic_HW1 if bits == 8 else np.concatenate([0 * mosaic_HW1, mosaic_HW1], -1)
    message = _image(stored, f"bayer_{pattern}{bits}", padding=2)
    check_image(message)
    np.testing.assert_array_equal(rgb_image(message), np.broadcast_to(np.uint8([200, 120, 40]), (16, 16, 3)))


@pytest.mark.parametrize(
    ("encoding", "order"), [("yuv422", "UYVY"), ("uyvy", "UYVY"), ("yuv422_yuy2", "YUYV"), ("yuyv", "YUYV")]
)
def test_yuv_gives_the_colour_it_stands_for(encoding: str, order: str) -> None:
    # Red in BT.601's video range: Y = 16 + 0.257 R, U = 128 - 0.148 R, V = 128 + 0.439 R at R = 255.
    samples = {"Y": [82, 82], "U": [90], "V": [240]}
    pair = np.uint8([samples[name][0] for name in order]).reshape(1, 2, 2)
    message = _image(np.tile(pair, (4, 3, 1)), encoding, padding=5)
    check_image(message)
    np.testing.assert_allclose(rgb_image(message), np.broadcast_to([255, 0, 0], (4, 6, 3)), atol=3)
    message.width -= 1
    with pytest.raises(InputError, match="odd width 5"):
        check_image(message)


def _planes(picture: np.ndarray, encoding: str, *, padding: int) -> Any:
    """A message whose luma and chroma are two planes; chroma is a mean of its pixels, as the formats say."""
    luma, *chroma = np.moveaxis(picture, -1, 0)
    if encoding != "nv24":
        height, width = luma.shape
        chroma = [plane.reshape(height // 2, 2, width // 2, 2).mean((1, 3)) for plane in chroma]
    pairs = np.stack(chroma[::-1] if encoding == "nv21" else chroma, -1).astype(np.uint8)
    step = luma.shape[1] + padding
    wide = step * (2 if encoding == "nv24" else 1)
    rows = [np.full((len(luma), step), 7, np.uint8), np.full((len(pairs), wide), 7, np.uint8)]
    rows[0][:, : luma.shape[1]] = luma
    rows[1][:, : 2 * pairs.shape[1]] = pairs.reshape(len(pairs), -1)
    data = b"".join(plane.tobytes() for plane in rows)
    height, width = luma.shape
    return SimpleNamespace(height=height, width=width, encoding=encoding, is_bigendian=0, step=step, data=data)


def _rgb_of_yuv(yuv: np.ndarray) -> np.ndarray:
    """BT.601 in video range."""
    luma, blue, red = np.moveaxis(yuv.astype(float) - (16, 128, 128), -1, 0)
    luma = 255 / 219 * luma
    rgb = [luma + 1.596 * red, luma - 0.392 * blue - 0.813 * red, luma + 2.017 * blue]
    return np.clip(np.stack(rgb, -1), 0, 255)


def _yuv_picture(height: int, width: int) -> np.ndarray:
    """Every pixel has its own luma; two by two of them share their colours."""
    rng = np.random.default_rng(5)
    luma = rng.integers(60, 180, (height, width, 1))
    chroma = rng.integers(110, 146, ((height + 1) // 2, (width + 1) // 2, 2)).repeat(2, 0).repeat(2, 1)
    return np.concatenate([luma, chroma[:height, :width]], -1)


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("encoding", ["nv12", "nv21", "nv24"])
def test_two_planes_give_the_colours_they_stand_for(encoding: str, padding: int) -> None:
    yuv = _yuv_picture(6, 10)
    message = _planes(yuv, encoding, padding=padding)
    check_image(message)
    np.testing.assert_allclose(rgb_image(message), _rgb_of_yuv(yuv), atol=2)
    last = padding * (2 if encoding == "nv24" else 1)
    message.data = message.data[: len(message.data) - last]  # the last row's padding may be missing
    check_image(message)
    np.testing.assert_allclose(rgb_image(message), _rgb_of_yuv(yuv), atol=2)
    for data, reason in ((message.data[:-1], "truncated"), (message.data + bytes(last + 1), "oversize")):
        message.data = data
        with pytest.raises(InputError, match=reason):
            check_image(message)


@pytest.mark.parametrize(("encoding", "share"), [("nv12", 1.5), ("nv21", 1.5), ("nv24", 3)])
def test_a_step_that_counts_all_planes_is_understood(encoding: str, share: float) -> None:
    """Drivers that hold to `size is step * rows` give a row's share of all bytes as its step."""
    yuv = _yuv_picture(6, 10)
    message = _planes(yuv, encoding, padding=0)
    message.step = int(share * 10)
    assert message.step * message.height == len(message.data)
    check_image(message)
    np.testing.assert_allclose(rgb_image(message), _rgb_of_yuv(yuv), atol=2)


def test_planes_of_odd_sides_are_refused_where_pixels_share_their_colours() -> None:
    odd = _planes(_yuv_picture(5, 7), "nv24", padding=3)
    check_image(odd)
    np.testing.assert_allclose(rgb_image(odd), _rgb_of_yuv(_yuv_picture(5, 7)), atol=2)
    for encoding in ("nv12", "nv21"):
        for width, height in ((9, 6), (10, 5)):
            message = _planes(_yuv_picture(6, 10), encoding, padding=0)
            message.width, message.height = width, height
            with pytest.raises(InputError, match=f"shares its colours between two by two pixels.*{width}x{height}"):
                check_image(message)


@pytest.mark.parametrize("big_endian", [0, 1])
@pytest.mark.parametrize("order", ["rgb", "bgr", "rgba", "bgra"])
def test_colours_of_sixteen_bits_give_their_upper_eight(order: str, big_endian: int) -> None:
    values = np.random.default_rng(2).integers(0, 2**16, (7, 5, len(order)), dtype=np.uint16)
    stored = np.ascontiguousarray(values.astype(">u2" if big_endian else "<u2")).view(np.uint8).reshape(7, 5, -1)
    message = _image(stored, f"{order}16", padding=3, last_row_padded=False)
    message.is_bigendian = big_endian
    check_image(message)
    np.testing.assert_array_equal(rgb_image(message), (values >> 8)[..., [order.index(name) for name in "rgb"]])


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("big_endian", [0, 1])
@pytest.mark.parametrize("encoding", ["mono16", "bgr16", "bayer_rggb16"])
def test_the_upper_eight_of_the_bits_in_use_are_taken(encoding: str, big_endian: int, bits: int) -> None:
    """A camera of 10 to 14 bits gives the picture that the same camera gives with 8."""
    channels = 3 if encoding == "bgr16" else 1
    eight = np.random.default_rng(3).integers(0, 256, (8, 6, channels), dtype=np.uint8)
    values = (eight.astype(np.uint16) << (bits - 8)) + 1
    stored = np.ascontiguousarray(values.astype(">u2" if big_endian else "<u2")).view(np.uint8).reshape(8, 6, -1)
    message = _image(stored, encoding, padding=3, last_row_padded=False)
    message.is_bigendian = big_endian
    expected = _image(eight, encoding.replace("16", "8"))
    np.testing.assert_array_equal(rgb_image(message, bits=bits), rgb_image(expected))
    if bits > 10 and eight.max() > 63:
        with pytest.raises(InputError, match=rf"more than 10 bits: .* set image_bits to {bits}"):
            rgb_image(message, bits=10)


def test_a_png_of_sixteen_bits_gives_the_upper_eight_of_the_bits_in_use() -> None:
    eight = np.random.default_rng(4).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    for pixels in (eight, eight[..., 0]):
        twelve = pixels.astype(np.uint16) << 4
        message = SimpleNamespace(format="mono16; png compressed ", data=cv2.imencode(".png", twelve)[1].tobytes())
        rgb = np.broadcast_to(np.atleast_3d(pixels)[..., ::-1], (8, 6, 3))
        np.testing.assert_array_equal(rgb_compressed(message, bits=12), rgb)
        with pytest.raises(InputError, match="more than 10 bits"):
            rgb_compressed(message, bits=10)
        message.data = cv2.imencode(".png", pixels)[1].tobytes()
        np.testing.assert_array_equal(rgb_compressed(message, bits=12), rgb)  # 8 bits stay 8 bits


def test_unused_upper_bits_look_nearly_black() -> None:
    for bits in (10, 12, 14):
        assert (2**bits - 1) >> 8 < nearly_black("mono16") == nearly_black("bgr16")
    assert nearly_black("mono8") == nearly_black("nv12") == nearly_black("") == NEARLY_BLACK < nearly_black("mono16")


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
    encoding=st.sampled_from([*ENCODINGS, "16UC1", ""]),
    is_bigendian=st.integers(0, 1),
    data=st.binary(max_size=400),
)
def test_whatever_passes_the_check_converts_within_its_data(**fields: Any) -> None:
    message = SimpleNamespace(**fields)
    try:
        check_image(message)
    except InputError:
        return
    assert rgb_image(message).shape == (message.height, message.width, 3)
    with contextlib.suppress(InputError):
        assert rgb_image(message, bits=12).shape == (message.height, message.width, 3)


@pytest.mark.parametrize("extension", [".png", ".jpg"])
def test_compressed_images_decode_to_rgb(extension: str) -> None:
    smooth = np.full((32, 32, 3), (200, 40, 90), np.uint8)
    data = cv2.imencode(extension, smooth[..., ::-1])[1].tobytes()
    message = SimpleNamespace(format=extension, data=data)
    check_compressed(message)
    np.testing.assert_allclose(rgb_compressed(message), smooth, atol=3)


@pytest.mark.parametrize("extension", [".png", ".jpg"])
def test_damaged_compressed_images_are_refused(extension: str) -> None:
    data = cv2.imencode(extension, RGB_HWC)[1].tobytes()

    def message(data: bytes) -> Any:
        return SimpleNamespace(format=extension, data=data)

    check_compressed(message(data + bytes(7)))  # rounded up by the driver
    for bad, reason in (
        (b"", "empty"), (b"GIF89a", "unknown format"), (data[:3], r"unknown format|truncated"),
        (data[:20], "truncated"), (data[:-1], "truncated"), (data[: len(data) // 2], "truncated"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=reason):
            check_compressed(message(bad))
    middle = len(data) // 2
    damaged = message(data[:30] + bytes(middle - 30) + data[middle:])
    with pytest.raises(InputError, match=r"undecodable|truncated"):
        check_compressed(damaged)
        rgb_compressed(damaged)


@pytest.mark.parametrize(("extension", "at"), [(".png", 16), (".jpg", None)])
def test_a_forged_size_is_refused_before_anything_is_decoded(extension: str, at: int | None) -> None:
    data = bytearray(cv2.imencode(extension, RGB_HWC)[1].tobytes())
    if at is None:
        at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = b"\xff\xff\xff\xff"
    with pytest.raises(InputError, match="bad size"):
        check_compressed(SimpleNamespace(format=extension, data=bytes(data)))


@given(data=st.binary(max_size=200), start=st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"]))
def test_any_bytes_are_either_refused_or_decoded(data: bytes, start: bytes) -> None:
    message = SimpleNamespace(format="", data=start + data + b"\xff\xd9")
    try:
        check_compressed(message)
        assert rgb_compressed(message).ndim == 3
    except InputError:
        pass
