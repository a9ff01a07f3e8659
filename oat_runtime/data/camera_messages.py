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

from oat_runtime.data.decoding import FULL_BITS, decode_rgb, upper_eight
from oat_runtime.data.image_headers import MAX_PIXELS, check_size, image_format, read_header
from oat_runtime.errors import InputError


@dataclass(frozen=True, slots=True)
class _Packed:
    """An encoding that stores pixel by pixel.

    Attributes:
        samples: values of a pixel (YUV 4:2:2: one luma and one of both chroma).
        code: OpenCV's way to RGB; None: it is RGB.
        bytes_each: bytes of a value.
        in_pairs: whether two neighbours share their colours.
    """

    samples: int
    code: int | None
    bytes_each: int = 1
    in_pairs: bool = False

    @property
    def pixel_bytes(self) -> int:
        return self.samples * self.bytes_each

    def check_sides(self, message: ImageMessage) -> None:
        if self.in_pairs and message.width % 2:
            raise InputError(
                f"bad size: {message.encoding} shares its colours between two pixels, got odd width {message.width}"
            )

    def row_bytes(self, message: ImageMessage) -> int:
        return message.width * self.pixel_bytes

    def bytes_of(self, message: ImageMessage) -> tuple[int, int]:
        """Return the least and the most bytes: the padding of the last row may be missing, as some drivers do it."""
        most = message.step * message.height
        return most - message.step + self.row_bytes(message), most

    def rgb(self, message: ImageMessage, bits: int) -> _Bytes:
        shape = (message.height, message.width, self.samples)
        strides = (message.step, self.pixel_bytes, self.bytes_each)
        if self.bytes_each == 2 and bits < FULL_BITS:
            order = ">u2" if message.is_bigendian else "<u2"
            image_HWC = upper_eight(np.ndarray(shape, order, message.data, strides=strides), bits)
        else:
            offset = int(self.bytes_each == 2 and not message.is_bigendian)  # the upper byte comes second
            image_HWC = np.ndarray(shape, np.uint8, message.data, offset, strides)
            image_HWC.flags.writeable = False
        return image_HWC if self.code is None else np.asarray(cv2.cvtColor(image_HWC, self.code), np.uint8)


@dataclass(frozen=True, slots=True)
class _TwoPlanes:
    """An encoding that stores the luma of all pixels, and behind it both chroma by turns.

    Some drivers give the bytes of a luma row as `step`, others a row's share of all bytes.

    Attributes:
        half_bytes: a pixel's share of all bytes, doubled: 3 where four pixels share their chroma (4:2:0), else 6.
        code: OpenCV's way to RGB, for 4:2:0.
    """

    half_bytes: int
    code: int = 0

    @property
    def chroma_step(self) -> int:
        """Bytes of a row of chroma, in luma rows."""
        return self.half_bytes // 3

    def check_sides(self, message: ImageMessage) -> None:
        if self.chroma_step == 1 and (message.width % 2 or message.height % 2):
            raise InputError(
                f"bad size: {message.encoding} shares its colours between two by two pixels, got the odd size "
                f"{message.width}x{message.height}"
            )

    def row_bytes(self, message: ImageMessage) -> int:
        return message.width

    def bytes_of(self, message: ImageMessage) -> tuple[int, int]:
        step = self._luma_step(message)
        most = step * message.height * self.half_bytes // 2
        return most - self.chroma_step * (step - message.width), most

    def _luma_step(self, message: ImageMessage) -> int:
        of_all = 2 * message.step == self.half_bytes * message.width
        return message.width if of_all and _num_bytes(message) == message.step * message.height else message.step

    def rgb(self, message: ImageMessage, bits: int) -> _Bytes:
        height, width, step = message.height, message.width, self._luma_step(message)
        luma = np.ndarray((height, width), np.uint8, message.data, strides=(step, 1))
        shape = (height // 2, width // 2, 2) if self.chroma_step == 1 else (height, width, 2)
        chroma = np.ndarray(shape, np.uint8, message.data, step * height, (self.chroma_step * step, 2, 1))
        if self.code:
            return np.asarray(cv2.cvtColorTwoPlane(luma, chroma, self.code), np.uint8)
        rgb = np.empty((height, width, 3), np.uint8)
        for top in range(0, height, _ROWS):  # as UYVY whose pairs are one pixel twice, OpenCV takes it by the same rule
            rows = slice(top, top + _ROWS)
            pairs = np.stack([chroma[rows, :, 0], luma[rows], chroma[rows, :, 1], luma[rows]], -1)
            rgb[rows] = cv2.cvtColor(pairs.reshape(len(pairs), 2 * width, 2), cv2.COLOR_YUV2RGB_UYVY)[:, ::2]
        return rgb


_ROWS = 256
_Bytes = npt.NDArray[np.uint8]
_UYVY = _Packed(2, cv2.COLOR_YUV2RGB_UYVY, in_pairs=True)
_YUYV = _Packed(2, cv2.COLOR_YUV2RGB_YUY2, in_pairs=True)
# ROS names a Bayer pattern by its first two rows, OpenCV by the second and third pixels of the second row.
_BAYER = {
    "rggb": cv2.COLOR_BayerBG2RGB,
    "bggr": cv2.COLOR_BayerRG2RGB,
    "gbrg": cv2.COLOR_BayerGR2RGB,
    "grbg": cv2.COLOR_BayerGB2RGB,
}
_ORDERS = {"rgb": None, "bgr": cv2.COLOR_BGR2RGB, "rgba": cv2.COLOR_RGBA2RGB, "bgra": cv2.COLOR_BGRA2RGB}
_LAYOUTS: dict[str, _Packed | _TwoPlanes] = {
    **{f"{order}8": _Packed(len(order), code) for order, code in _ORDERS.items()},
    **{f"{order}16": _Packed(len(order), code, bytes_each=2) for order, code in _ORDERS.items()},
    "mono8": _Packed(1, cv2.COLOR_GRAY2RGB),
    "mono16": _Packed(1, cv2.COLOR_GRAY2RGB, bytes_each=2),
    "8UC1": _Packed(1, cv2.COLOR_GRAY2RGB),
    "8UC3": _Packed(3, cv2.COLOR_BGR2RGB),  # OpenCV's own order
    "8UC4": _Packed(4, cv2.COLOR_BGRA2RGB),
    "yuv422": _UYVY,
    "uyvy": _UYVY,
    "yuv422_yuy2": _YUYV,
    "yuyv": _YUYV,
    "nv12": _TwoPlanes(3, cv2.COLOR_YUV2RGB_NV12),
    "nv21": _TwoPlanes(3, cv2.COLOR_YUV2RGB_NV21),
    "nv24": _TwoPlanes(6),
    **{f"bayer_{name}8": _Packed(1, code) for name, code in _BAYER.items()},
    **{f"bayer_{name}16": _Packed(1, code, bytes_each=2) for name, code in _BAYER.items()},
}
ENCODINGS = tuple(_LAYOUTS)
"""Encodings of sensor_msgs/Image that are understood. 16UC1 is not: it means a depth image."""
NEARLY_BLACK = 16
"""Level, of 0 to 255, below which nothing shows. 12 bits in the lower bits of 16 stay below it."""
_NEARLY_BLACK_OF_16_BITS = 64
"""14 bits in the lower bits of 16 stay below this one."""
_COMPRESSED_FORMATS = ("JPEG", "PNG")
_DEPTH = re.compile(r"(16[US]|32F)C1\b|.*compressedDepth", re.DOTALL)
_MOSAIC = re.compile(r"bayer_\w+\b(?!.*compressed\s+(bgr|rgb|mono)(8|16)\b)", re.DOTALL)
"""By a CompressedImage's `format`: encoding of the raw image, and behind `compressed` that of what was compressed."""


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
        InputError: unknown encoding, no pixels or too many, an odd side where colours are shared, a row longer than
            `step`, or too few or too many bytes.
    """
    layout = _LAYOUTS.get(message.encoding)
    if layout is None:
        raise InputError(
            f"unknown encoding: expected one of {', '.join(ENCODINGS)}, got {message.encoding[:40]!r}: convert it first"
        )
    height, width, step = message.height, message.width, message.step
    check_size(height, width, max_pixels=max_pixels)
    layout.check_sides(message)
    row_bytes = layout.row_bytes(message)
    if step < row_bytes:
        raise InputError(
            f"bad step: {width} pixels of {message.encoding} need {row_bytes} bytes a row, got step {step}"
        )
    (least, most), got = layout.bytes_of(message), _num_bytes(message)
    if got < least:
        raise InputError(f"truncated: {width}x{height} {message.encoding} needs {least} bytes, got {got}")
    if got > most:
        raise InputError(f"oversize: {height} rows of {step} bytes of {message.encoding} are {most} bytes, got {got}")


def rgb_image(message: ImageMessage, *, bits: int = FULL_BITS) -> _Bytes:
    """Pixels of a message that passed `check_image`.

    Args:
        message: sensor_msgs/Image.
        bits: how many bits a value of 16 bits uses, 8 to 16: those of a camera that fills the lower ones only.

    Returns:
        image_HWC: uint8 RGB; for rgb8 a view of the message's own data. Values of 16 bits give the upper 8 of their
        `bits`.

    Raises:
        InputError: a value of 16 bits is larger than `bits` allow.
    """
    return _LAYOUTS[message.encoding].rgb(message, bits)


def nearly_black(encoding: str) -> int:
    """Return the level, of 0 to 255, that some pixel of a camera that sends this encoding reaches in the light."""
    layout = _LAYOUTS.get(encoding)
    return _NEARLY_BLACK_OF_16_BITS if isinstance(layout, _Packed) and layout.bytes_each == 2 else NEARLY_BLACK


def check_compressed(message: CompressedImageMessage, *, max_pixels: int = MAX_PIXELS) -> None:
    """Refuse data that is not a whole JPEG or PNG picture, without decoding it. Bytes after its end are put up with.

    Args:
        message: sensor_msgs/CompressedImage.
        max_pixels: pixels that it may have.

    Raises:
        InputError: empty, of another format, cut off, without pixels or with too many; or, by the message's `format`,
            a depth image or a Bayer mosaic.
    """
    form = message.format[:80].strip()
    if _DEPTH.match(form):
        raise InputError(f"depth image: expected a picture, got the format {form[:40]!r}: subscribe to a colour camera")
    if _MOSAIC.match(form):
        raise InputError(
            f"Bayer mosaic: expected a picture, got the format {form[:40]!r}: take the raw topic, or compress what "
            "image_proc makes of it"
        )
    data = _bytes(message)
    if (name := image_format(data)) not in _COMPRESSED_FORMATS:
        raise InputError(f"unknown format: expected JPEG or PNG data, got {name}: set the camera's driver")
    read_header(data, max_pixels=max_pixels)


def rgb_compressed(
    message: CompressedImageMessage, *, max_pixels: int = MAX_PIXELS, reduced: bool = False, bits: int = FULL_BITS
) -> _Bytes:
    """Decode a message that passed `check_compressed`, as stored: no EXIF rotation.

    Args:
        message: sensor_msgs/CompressedImage.
        max_pixels: as the check had it.
        reduced: see `oat_runtime.data.decoding.decode_rgb`.
        bits: as in `rgb_image`, for a PNG of 16 bits.

    Returns:
        image_HWC: uint8 RGB.

    Raises:
        InputError: it cannot be decoded, libjpeg would fill a hole in it, or a value is larger than `bits` allow.
    """
    return decode_rgb(_bytes(message), max_pixels=max_pixels, oriented=False, reduced=reduced, bits=bits)


def _bytes(message: CompressedImageMessage) -> memoryview:
    return memoryview(message.data).cast("B")


def _num_bytes(message: ImageMessage) -> int:
    return memoryview(message.data).nbytes
