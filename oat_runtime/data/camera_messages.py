"""From camera messages to uint8 RGB: the one decoder, for the node and for recordings. Messages come duck-typed.

`check_image` is the cheap structural check, for the thread that receives; `rgb_image` does the work, elsewhere.
Shape legend: C channels, H height, W width.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from oat_runtime.errors import InputError

MAX_SIDE_PX = 16384
"""Longer sides are refused: nothing that small a network needs, and arithmetic on a forged size stays harmless."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """How an encoding stores a pixel: samples (YUV 4:2:2: one luma and one of both chroma), bytes each, way to RGB."""

    samples: int
    to_rgb: int | None
    bytes_each: int = 1
    in_pairs: bool = False

    @property
    def pixel_bytes(self) -> int:
        return self.samples * self.bytes_each


_UYVY = _Layout(2, cv2.COLOR_YUV2RGB_UYVY, in_pairs=True)
_YUYV = _Layout(2, cv2.COLOR_YUV2RGB_YUY2, in_pairs=True)
# ROS names a Bayer pattern by its first two rows, OpenCV by the second and third pixels of the second row.
_BAYER = {
    "rggb": cv2.COLOR_BayerBG2RGB,
    "bggr": cv2.COLOR_BayerRG2RGB,
    "gbrg": cv2.COLOR_BayerGR2RGB,
    "grbg": cv2.COLOR_BayerGB2RGB,
}
_LAYOUTS = {
    "rgb8": _Layout(3, None),
    "bgr8": _Layout(3, cv2.COLOR_BGR2RGB),
    "rgba8": _Layout(4, cv2.COLOR_RGBA2RGB),
    "bgra8": _Layout(4, cv2.COLOR_BGRA2RGB),
    "mono8": _Layout(1, cv2.COLOR_GRAY2RGB),
    "mono16": _Layout(1, cv2.COLOR_GRAY2RGB, bytes_each=2),
    "8UC1": _Layout(1, cv2.COLOR_GRAY2RGB),
    "8UC3": _Layout(3, cv2.COLOR_BGR2RGB),  # OpenCV's own order
    "yuv422": _UYVY,
    "uyvy": _UYVY,
    "yuv422_yuy2": _YUYV,
    "yuyv": _YUYV,
    **{f"bayer_{name}8": _Layout(1, code) for name, code in _BAYER.items()},
    **{f"bayer_{name}16": _Layout(1, code, bytes_each=2) for name, code in _BAYER.items()},
}
ENCODINGS = tuple(_LAYOUTS)
"""Encodings of sensor_msgs/Image that are understood. 16UC1 is not: it means a depth image."""
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_JPEG_END, _PNG_END = b"\xff\xd9", b"IEND\xaeB`\x82"
_PADDING = 64
"""Zero bytes after the end of a compressed image that are put up with: some drivers round the length up."""
_NOT_FRAME_HEADERS = (0xC4, 0xC8, 0xCC)
"""JPEG markers between SOF0 and SOF15 that are tables (ITU-T T.81, table B.1)."""


class ImageMessage(Protocol):
    """sensor_msgs/Image."""

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: bytes | array[int]


class CompressedImageMessage(Protocol):
    """sensor_msgs/CompressedImage."""

    format: str
    data: bytes | array[int]


def check_image(message: ImageMessage) -> None:
    """Refuse an image whose description and data do not fit together, without touching the pixels.

    Raises:
        InputError: unknown encoding, zero or absurd size, a row longer than `step`, or too few or too many bytes.
    """
    layout = _LAYOUTS.get(message.encoding)
    if layout is None:
        raise InputError(
            f"unknown encoding: expected one of {', '.join(ENCODINGS)}, got {message.encoding[:40]!r}: convert it first"
        )
    height, width, step = message.height, message.width, message.step
    _check_size(height, width)
    if layout.in_pairs and width % 2:
        raise InputError(f"bad size: {message.encoding} shares its colours between two pixels, got odd width {width}")
    row_bytes = width * layout.pixel_bytes
    if step < row_bytes:
        raise InputError(
            f"bad step: {width} pixels of {message.encoding} need {row_bytes} bytes a row, got step {step}"
        )
    got = memoryview(message.data).nbytes
    # The padding of the last row may be missing: some drivers leave it out.
    least = step * (height - 1) + row_bytes
    if got < least:
        raise InputError(f"truncated: {width}x{height} {message.encoding} needs {least} bytes, got {got}")
    if got > step * height:
        raise InputError(f"oversize: {height} rows of {step} bytes are {step * height} bytes, got {got}")


def rgb_image(message: ImageMessage) -> npt.NDArray[np.uint8]:
    """Pixels of a message that passed `check_image`.

    Returns:
        image_HWC: uint8 RGB; for rgb8 a view of the message's own data. Samples of 16 bits give their upper 8.
    """
    height, width, step, layout = message.height, message.width, message.step, _LAYOUTS[message.encoding]
    flat = np.frombuffer(message.data, np.uint8)
    if layout.bytes_each == 2 and not message.is_bigendian:
        flat = flat[1:]  # the upper byte comes second
    strides = (step, layout.pixel_bytes, layout.bytes_each)
    image_HWC = np.lib.stride_tricks.as_strided(flat, (height, width, layout.samples), strides, writeable=False)
    if layout.to_rgb is None:
        return image_HWC
    return np.asarray(cv2.cvtColor(image_HWC, layout.to_rgb), np.uint8)


def check_compressed(message: CompressedImageMessage) -> None:
    """Refuse data that is not a whole JPEG or PNG image, without decoding it.

    Raises:
        InputError: empty, of another format, cut off, or of zero or absurd size.
    """
    data = memoryview(message.data).cast("B")
    head, tail = bytes(data[:24]), bytes(data[-_PADDING:]).rstrip(b"\0")
    if not head:
        raise InputError("empty: a compressed image without data")
    if head.startswith(_JPEG):
        size_hw, end = _jpeg_size_hw(data), _JPEG_END
    elif head.startswith(_PNG):
        size_hw, end = (int.from_bytes(head[20:24], "big"), int.from_bytes(head[16:20], "big")), _PNG_END
    else:
        raise InputError(
            f"unknown format: expected JPEG or PNG data, got {message.format[:40]!r} with bytes {head[:8].hex(' ')}"
        )
    if not tail.endswith(end):
        raise InputError(f"truncated: {len(data)} bytes of {message.format[:40]!r} data do not end as an image ends")
    _check_size(*size_hw)


def rgb_compressed(message: CompressedImageMessage) -> npt.NDArray[np.uint8]:
    """Decode a message that passed `check_compressed` to uint8 RGB (H, W, 3), as stored: no EXIF rotation.

    Raises:
        InputError: it cannot be decoded.
    """
    try:
        image_HWC = cv2.imdecode(
            np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        )
    except cv2.error as error:
        raise InputError(f"undecodable: {error}") from error
    if image_HWC is None:
        size = memoryview(message.data).nbytes
        raise InputError(f"undecodable: {message.format[:40]!r} data of {size} bytes is damaged")
    return np.asarray(cv2.cvtColor(image_HWC, cv2.COLOR_BGR2RGB), np.uint8)


def _check_size(height: int, width: int) -> None:
    if not (0 < height <= MAX_SIDE_PX and 0 < width <= MAX_SIDE_PX):
        raise InputError(f"bad size: expected 1 to {MAX_SIDE_PX} pixels a side, got {width}x{height}")


def _jpeg_size_hw(data: memoryview) -> tuple[int, int]:
    """Height and width from the frame header (ITU-T T.81, B.2.2)."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in _NOT_FRAME_HEADERS:
            return int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
        # A marker may be filled up with 0xFF in front.
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    raise InputError(f"truncated: {len(data)} bytes of JPEG data without a frame header")
