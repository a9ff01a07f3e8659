"""Reads recordings without ROS: decisions and images of a rosbag2 (needs `rosbags`, extra `ros`), image files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from oat_runtime.errors import DataError

_DECISION = "oat_msgs/msg/DecisionRecord"
_IMAGES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
_CHANNELS = {"rgb8": 3, "bgr8": 3, "mono8": 1}
_DEFINITIONS = Path(__file__).resolve().parents[1] / "ros2_ws" / "src" / "oat_msgs" / "msg"


def is_bag(path: Path) -> bool:
    """Whether `path` looks like a rosbag2: its folder, or its .mcap file."""
    return path.suffix == ".mcap" or (path / "metadata.yaml").is_file()


def decision_lines(path: Path, *, definitions: Path = _DEFINITIONS) -> list[str]:
    """Lines of a decision log from the node's DecisionRecord messages, in their order.

    Args:
        path: a rosbag2 folder or .mcap file.
        definitions: folder of the .msg files, for a bag that does not carry its own definitions.

    Raises:
        DataError: not a bag, no decisions in it, or a definition is missing.
    """
    lines: list[str] = []
    with _reader(path, definitions) as reader:
        connections = [c for c in reader.connections if c.msgtype == _DECISION]
        if not connections:
            topics = sorted({c.topic for c in reader.connections})
            raise DataError(f"{path} holds no {_DECISION}: expected the node's ~/decision topic among {topics}")
        for connection, _, raw in reader.messages(connections):
            lines += str(reader.deserialize(raw, connection.msgtype).record_json).splitlines()
    return lines


def read_image(path: Path) -> NDArray[np.uint8]:
    """An image file as uint8 RGB.

    Raises:
        DataError: it cannot be decoded.
    """
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise DataError(f"{path} cannot be decoded: expected an image file such as PNG, JPEG or WebP")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def camera_images(path: Path, *, topic: str = "") -> Iterator[NDArray[np.uint8]]:
    """Images (H, W, 3), uint8 RGB, of a bag's only image topic, or of `topic`, in their order.

    Raises:
        DataError: not a bag, no such topic, or an image of an encoding that is not read here.
    """
    with _reader(path, None) as reader:
        topics = sorted({c.topic for c in reader.connections if c.msgtype in _IMAGES})
        wanted = [topic] if topic else topics
        if len(wanted) != 1 or wanted[0] not in topics:
            raise DataError(f"{path}: expected one image topic, got {topic or topics}: pass --topic, one of {topics}")
        for connection, _, raw in reader.messages([c for c in reader.connections if c.topic == wanted[0]]):
            message = reader.deserialize(raw, connection.msgtype)
            yield _compressed(message) if connection.msgtype.endswith("CompressedImage") else _raw(message)


@contextmanager
def _reader(path: Path, definitions: Path | None) -> Iterator[Any]:
    try:
        from rosbags.highlevel import AnyReader, AnyReaderError
        from rosbags.typesys import Stores, get_types_from_msg, get_typestore
    except ImportError as error:
        raise DataError("reading a bag needs rosbags: pip install 'oat-robot[ros]', or pip install rosbags") from error
    types = get_typestore(Stores.ROS2_JAZZY)
    for file in sorted(definitions.glob("*.msg")) if definitions is not None else ():
        types.register(get_types_from_msg(file.read_text(encoding="utf-8"), f"oat_msgs/msg/{file.stem}"))
    try:
        reader = AnyReader([path], default_typestore=types)
        reader.open()
    except (AnyReaderError, OSError) as error:
        raise DataError(f"{path} cannot be read as a rosbag2: {error}") from error
    try:
        yield reader
    finally:
        reader.close()


def _compressed(message: Any) -> NDArray[np.uint8]:
    bgr = cv2.imdecode(np.asarray(message.data, np.uint8), cv2.IMREAD_COLOR)
    if bgr is None:
        raise DataError(f"a compressed image of format {message.format!r} cannot be decoded: expected JPEG or PNG")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def _raw(message: Any) -> NDArray[np.uint8]:
    channels = _CHANNELS.get(message.encoding)
    if channels is None:
        raise DataError(f"an image of encoding {message.encoding!r} is not read: expected one of {list(_CHANNELS)}")
    rows = np.asarray(message.data, np.uint8).reshape(message.height, message.step)
    pixels = rows[:, : message.width * channels].reshape(message.height, message.width, channels)
    if message.encoding == "mono8":
        return np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels[:, :, ::-1] if message.encoding == "bgr8" else pixels)
