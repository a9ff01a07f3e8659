"""Read recordings of ROS 2 (rosbag2 as SQLite or MCAP) without ROS. This needs `rosbags`, from the extra `bags`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from oat_runtime.data.bag_limits import bound_rosbags, check_files
from oat_runtime.data.camera_messages import check_compressed, check_image, rgb_compressed, rgb_image
from oat_runtime.data.decoding import FULL_BITS
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


def bag_messages(
    path: Path, reader: Any, connections: Sequence[Any], *, skip: Callable[[DataError], object] | None = None
) -> Iterator[tuple[int, str, Any]]:
    """Read messages of an open bag in their order: (number, type, message).

    Args:
        path: of the bag, for errors.
        reader: the open bag.
        connections: those whose messages are read.
        skip: takes the error of a message that cannot be read by itself; None: it is raised.

    Raises:
        DataError: the bag or a message cannot be read, or there are fewer than the bag says.
    """
    messages, count = iter(reader.messages(connections)), 0

    def damaged(error: Exception) -> DataError:
        return DataError(f"{one_line(path)}, message {count} cannot be read ({quoted(error)}): the bag is damaged")

    while True:
        try:
            connection, _, raw = next(messages)
        except StopIteration:
            break
        except Exception as error:  # the bag's containers raise two dozen kinds on damaged bytes
            raise damaged(error) from error
        try:
            message = reader.deserialize(raw, connection.msgtype)
        except Exception as error:  # and so do messages
            if skip is None:
                raise damaged(error) from error
            skip(damaged(error))
        else:
            yield count, connection.msgtype, message
        count += 1
    expected = sum(connection.msgcount for connection in connections)
    if count < expected:
        raise DataError(f"{path}: expected {expected} messages, got {count}: the bag is damaged or cut off")


def camera_images(
    path: Path,
    *,
    topic: str = "",
    option: str = "topic",
    bits: int = FULL_BITS,
    skip: Callable[[DataError], object] | None = None,
) -> Iterator[npt.NDArray[np.uint8]]:
    """Read the images of a bag in their order, in every encoding that the node understands.

    Args:
        path: a rosbag2 folder or .mcap file.
        topic: of sensor_msgs/Image or CompressedImage; empty: the bag's only one.
        option: what a user sets to name the topic, for the error.
        bits: as in `oat_runtime.data.camera_messages.rgb_image`.
        skip: takes the error of an image that the node would refuse, with the node's reason; None: it is raised.

    Returns:
        Images (H, W, 3), uint8 RGB, decoded one by one.

    Raises:
        DataError: not a bag, or no such topic, before the first image is taken; later, the bag is damaged.
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
    return _images(path, wanted[0], bits, skip)


def _images(
    path: Path, topic: str, bits: int, skip: Callable[[DataError], object] | None
) -> Iterator[npt.NDArray[np.uint8]]:
    with open_bag(path) as reader:
        connections = [c for c in reader.connections if c.topic == topic and c.msgtype in _IMAGES]
        for number, msgtype, message in bag_messages(path, reader, connections, skip=skip):
            try:
                image_HWC = _rgb(message, compressed=msgtype == _COMPRESSED, bits=bits)
            except InputError as error:
                refused = DataError(f"{path}, image {number} of {one_line(topic)} cannot be used: {error}")
                if skip is None:
                    raise refused from error
                skip(refused)
                continue
            yield image_HWC


def _rgb(message: Any, *, compressed: bool, bits: int) -> npt.NDArray[np.uint8]:
    if compressed:
        check_compressed(message)
        return rgb_compressed(message, bits=bits)
    check_image(message)
    return np.array(rgb_image(message, bits=bits))
