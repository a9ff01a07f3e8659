"""Read recordings of ROS 2 (rosbag2 as SQLite or MCAP) without ROS. This needs `rosbags`, from the extra `bags`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from oat_runtime.data.bag_limits import bound_rosbags, check_files
from oat_runtime.data.camera_messages import check_compressed, check_image, rgb_compressed, rgb_image
from oat_runtime.errors import DataError, InputError, one_line, quoted
from oat_runtime.extras import require

_COMPRESSED = "sensor_msgs/msg/CompressedImage"
_IMAGES = ("sensor_msgs/msg/Image", _COMPRESSED)


def is_bag(path: Path) -> bool:
    """Tell whether `path` looks like a rosbag2: its folder, or its .mcap file."""
    return path.suffix == ".mcap" or (path / "metadata.yaml").is_file()


@contextmanager
def open_bag(path: Path, *, definitions: dict[str, str] | None = None) -> Iterator[Any]:
    """Open a bag as a `rosbags.highlevel.AnyReader`.

    Args:
        path: a rosbag2 folder or .mcap file.
        definitions: text of message definitions by type name, for a bag that does not carry its own.

    Raises:
        DataError: not a bag.
        ConfigError: rosbags or PyYAML is not installed.
    """
    for module in ("rosbags", "yaml"):
        require(module, extra="bags", by="reading a bag")
    from rosbags.highlevel import AnyReader
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    types = get_typestore(Stores.ROS2_JAZZY)
    for name, text in (definitions or {}).items():
        types.register(get_types_from_msg(text, name))
    bound_rosbags()
    try:
        check_files(path)
        reader = AnyReader([path], default_typestore=types)
        reader.open()
    except Exception as error:  # the bag's containers, metadata and definitions raise two dozen kinds on damaged bytes
        raise DataError(f"{one_line(path)} cannot be read as a rosbag2: {one_line(error)}") from error
    try:
        for connection in reader.connections:
            names, count = (connection.topic, connection.msgtype), connection.msgcount
            if not all(isinstance(name, str) for name in names) or type(count) is not int or count < 0:
                raise DataError(f"{one_line(path)} cannot be read as a rosbag2: got {quoted(names)}, {quoted(count)}")
        yield reader
    finally:
        reader.close()


def bag_messages(path: Path, reader: Any, connections: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """Read messages of an open bag in their order: (type, message).

    Raises:
        DataError: a message cannot be read, or there are fewer than the bag says.
    """
    messages, count = iter(reader.messages(connections)), 0
    while True:
        try:
            connection, _, raw = next(messages)
            message = reader.deserialize(raw, connection.msgtype)
        except StopIteration:
            break
        except Exception as error:  # the bag's containers and messages raise two dozen kinds on damaged bytes
            raise DataError(
                f"{one_line(path)}, message {count} cannot be read ({quoted(error)}): the bag is damaged"
            ) from error
        yield connection.msgtype, message
        count += 1
    expected = sum(connection.msgcount for connection in connections)
    if count < expected:
        raise DataError(f"{path}: expected {expected} messages, got {count}: the bag is damaged or cut off")


def camera_images(path: Path, *, topic: str = "", option: str = "topic") -> Iterator[npt.NDArray[np.uint8]]:
    """Read the images of a bag in their order, in every encoding that the node understands.

    Args:
        path: a rosbag2 folder or .mcap file.
        topic: of sensor_msgs/Image or CompressedImage; empty: the bag's only one.
        option: what a user sets to name the topic, for the error.

    Returns:
        Images (H, W, 3), uint8 RGB, decoded one by one.

    Raises:
        DataError: not a bag, or no such topic, before the first image is taken; later, an image that the node would
            refuse, with the node's reason.
    """
    with open_bag(path) as reader:
        topics = sorted({c.topic for c in reader.connections if c.msgtype in _IMAGES})
    if not topics:
        raise DataError(f"{path} holds no images: expected a topic of {' or '.join(_IMAGES)}")
    wanted = [topic] if topic else topics
    if len(wanted) != 1 or wanted[0] not in topics:
        raise DataError(
            f"{path}: expected one image topic, got {one_line(topic or topics)}: "
            f"set {option} to one of {one_line(topics)}"
        )
    return _images(path, wanted[0])


def _images(path: Path, topic: str) -> Iterator[npt.NDArray[np.uint8]]:
    with open_bag(path) as reader:
        connections = [c for c in reader.connections if c.topic == topic and c.msgtype in _IMAGES]
        for index, (msgtype, message) in enumerate(bag_messages(path, reader, connections)):
            try:
                image_HWC = _rgb(message, compressed=msgtype == _COMPRESSED)
            except InputError as error:
                raise DataError(f"{path}, image {index} of {one_line(topic)} cannot be used: {error}") from error
            yield image_HWC


def _rgb(message: Any, *, compressed: bool) -> npt.NDArray[np.uint8]:
    if compressed:
        check_compressed(message)
        return rgb_compressed(message)
    check_image(message)
    return np.array(rgb_image(message))
