"""From messages to plain values: images to RGB arrays, batteries to a charge. Needs no ROS; messages come duck-typed.

`check_image` is the cheap structural check, for the thread that receives; `rgb_image` does the work, elsewhere.
Shape legend: C channels, H height, W width.
"""

from __future__ import annotations

import math
from array import array
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from oat_runtime.errors import InputError

MAX_SIDE_PX = 16384
"""Longer sides are refused: nothing that small a network needs, and arithmetic on a forged size stays harmless."""

_CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}
_TO_RGB = {
    "bgr8": cv2.COLOR_BGR2RGB,
    "rgba8": cv2.COLOR_RGBA2RGB,
    "bgra8": cv2.COLOR_BGRA2RGB,
    "mono8": cv2.COLOR_GRAY2RGB,
}
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"


class ImageMessage(Protocol):
    """sensor_msgs/Image."""

    height: int
    width: int
    encoding: str
    step: int
    data: bytes | array[int]


class CompressedImageMessage(Protocol):
    """sensor_msgs/CompressedImage."""

    format: str
    data: bytes | array[int]


class BatteryMessage(Protocol):
    """sensor_msgs/BatteryState."""

    percentage: float
    present: bool


def check_image(message: ImageMessage) -> None:
    """Refuse an image whose description and data do not fit together, without touching the pixels.

    Raises:
        InputError: unknown encoding, zero or absurd size, a row longer than `step`, or too few or too many bytes.
    """
    channels = _CHANNELS.get(message.encoding)
    if channels is None:
        raise InputError(
            f"unknown encoding: expected one of {', '.join(_CHANNELS)}, got {message.encoding!r}: convert it first"
        )
    height, width, step = message.height, message.width, message.step
    if not (0 < height <= MAX_SIDE_PX and 0 < width <= MAX_SIDE_PX):
        raise InputError(f"bad size: expected 1 to {MAX_SIDE_PX} pixels a side, got {width}x{height}")
    if step < width * channels:
        raise InputError(
            f"bad step: {width} pixels of {message.encoding} need {width * channels} bytes a row, got step {step}"
        )
    got = memoryview(message.data).nbytes
    # The padding of the last row may be missing: some drivers leave it out.
    least = step * (height - 1) + width * channels
    if got < least:
        raise InputError(f"truncated: {width}x{height} {message.encoding} needs {least} bytes, got {got}")
    if got > step * height:
        raise InputError(f"oversize: {height} rows of {step} bytes are {step * height} bytes, got {got}")


def rgb_image(message: ImageMessage) -> npt.NDArray[np.uint8]:
    """Pixels of a message that passed `check_image`.

    Returns:
        image_HWC: uint8 RGB; for rgb8 a view of the message's own data.
    """
    height, width, step, channels = message.height, message.width, message.step, _CHANNELS[message.encoding]
    flat = np.frombuffer(message.data, np.uint8)
    strides = (step, channels, 1)
    image_HWC = np.lib.stride_tricks.as_strided(flat, (height, width, channels), strides, writeable=False)
    if message.encoding == "rgb8":
        return image_HWC
    return np.asarray(cv2.cvtColor(image_HWC, _TO_RGB[message.encoding]), np.uint8)


def check_compressed(message: CompressedImageMessage) -> None:
    """Refuse data that is neither JPEG nor PNG, without decoding it.

    Raises:
        InputError: empty, or of another format.
    """
    head = bytes(memoryview(message.data)[:8])
    if not head:
        raise InputError("empty: a compressed image without data")
    if not head.startswith((_JPEG, _PNG)):
        raise InputError(
            f"unknown format: expected JPEG or PNG data, got {message.format!r} with bytes {head.hex(' ')}"
        )


def rgb_compressed(message: CompressedImageMessage) -> npt.NDArray[np.uint8]:
    """Decode a message that passed `check_compressed` to uint8 RGB (H, W, 3).

    Raises:
        InputError: it cannot be decoded.
    """
    try:
        image_HWC = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise InputError(f"undecodable: {error}") from error
    if image_HWC is None:
        raise InputError(f"undecodable: {message.format!r} data of {memoryview(message.data).nbytes} bytes is damaged")
    return np.asarray(cv2.cvtColor(image_HWC, cv2.COLOR_BGR2RGB), np.uint8)


def battery_charge(message: BatteryMessage, *, percentage_full: float) -> tuple[float, str]:
    """State of charge in [0, 1], NaN where the message has none; and what is wrong with it, empty where nothing is.

    Args:
        message: as the driver sends it: `percentage` is meant to be 0 to 1, and many drivers send 0 to 100.
        percentage_full: the value that this robot's driver sends for a full battery. The scale is never guessed.
    """
    if not message.present:
        return math.nan, "battery_state says present=false"
    charge = message.percentage / percentage_full
    if not 0.0 <= charge <= 1.0:
        return math.nan, (
            f"battery percentage {message.percentage:g} is not in [0, {percentage_full:g}]: "
            "if this driver's full battery is another number, set battery_percentage_full"
        )
    return charge, ""
