"""From camera messages to uint8 RGB: the one decoder, for the node and for recordings. Messages come duck-typed.

`check_image` is the cheap structural check, for the thread that receives; `rgb_image` does the work, elsewhere.
Shape legend: C channels, H height, W width.
"""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from oat_runtime.data.decoding import decode_rgb
from oat_runtime.data.image_headers import MAX_PIXELS, check_size, image_format, read_header
from oat_runtime.errors import InputError


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
_COMPRESSED_FORMATS = ("JPEG", "PNG")
_NO_PICTURES = re.compile(r"\s*(bayer_\w+|16UC1|32FC1)\s*;|.*compressedDepth", re.DOTALL)


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


def check_image(message: ImageMessage, *, max_pixels: int = MAX_PIXELS) -> None:
    """Refuse an image whose description and data do not fit together, without touching the pixels.

    Args:
        message: sensor_msgs/Image.
        max_pixels: pixels that it may have.

    Raises:
        InputError: unknown encoding, no pixels or too many, a row longer than `step`, or too few or too many bytes.
    """
    layout = _LAYOUTS.get(message.encoding)
    if layout is None:
        raise InputError(
            f"unknown encoding: expected one of {', '.join(ENCODINGS)}, got {message.encoding[:40]!r}: convert it first"
        )
    height, width, step = message.height, message.width, message.step
    check_size(height, width, max_pixels=max_pixels)
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


def check_compressed(message: CompressedImageMessage, *, max_pixels: int = MAX_PIXELS) -> None:
    """Refuse data that is not a whole JPEG or PNG picture, without decoding it. Bytes after its end are put up with.

    Args:
        message: sensor_msgs/CompressedImage.
        max_pixels: pixels that it may have.

    Raises:
        InputError: empty, of another format, cut off, without pixels or with too many; or, by the message's `format`,
            a depth image or a Bayer mosaic.
    """
    if found := _NO_PICTURES.match(message.format[:80]):
        raise InputError(
            f"unknown format: expected a picture, got {found[0].strip()[:40]!r}, a depth image or a mosaic: compress "
            "what image_proc makes of it"
        )
    data = _bytes(message)
    if (name := image_format(data)) not in _COMPRESSED_FORMATS:
        raise InputError(f"unknown format: expected JPEG or PNG data, got {name}: set the camera's driver")
    read_header(data, max_pixels=max_pixels)


def rgb_compressed(
    message: CompressedImageMessage, *, max_pixels: int = MAX_PIXELS, reduced: bool = False
) -> npt.NDArray[np.uint8]:
    """Decode a message that passed `check_compressed`, as stored: no EXIF rotation.

    Args:
        message: sensor_msgs/CompressedImage.
        max_pixels: as the check had it.
        reduced: see `oat_runtime.data.decoding.decode_rgb`.

    Returns:
        image_HWC: uint8 RGB.

    Raises:
        InputError: it cannot be decoded, or libjpeg would fill a hole in it.
    """
    return decode_rgb(_bytes(message), max_pixels=max_pixels, oriented=False, reduced=reduced)


def _bytes(message: CompressedImageMessage) -> memoryview:
    return memoryview(message.data).cast("B")
