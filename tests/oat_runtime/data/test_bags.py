"""Bags give their images in order, or say what is wrong before the first one is taken."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oat_runtime.data import camera_images, is_bag, open_bag
from oat_runtime.errors import DataError

rosbag2 = pytest.importorskip("rosbags.rosbag2")

BAG = Path(__file__).parents[4] / "shared" / "data" / "bags" / "donkeycar"
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write grey mono8 images of these levels, or none where a level is negative: an image without data."""
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    types: Any = store.types
    header = types["std_msgs/msg/Header"](stamp=types["builtin_interfaces/msg/Time"](0, 0), frame_id="c")

    def call(levels: list[int], *, topic: str = "/image", cut: int | None = None) -> Path:
        bag = tmp_path / "bag"
        name = "sensor_msgs/msg/Image"
        with rosbag2.Writer(bag, version=9, storage_plugin=rosbag2.StoragePlugin.MCAP) as writer:
            connection = writer.add_connection(topic, name, typestore=store)
            for number, level in enumerate(levels):
                data = np.full(12 if level >= 0 else 0, max(level, 0), np.uint8)
                message = types[name](
                    header=header, height=3, width=4, encoding="mono8", is_bigendian=0, step=4, data=data
                )
                raw = store.serialize_cdr(message, name)
                writer.write(connection, number, raw[:cut] if number == 1 else raw)
        return bag

    return call


def test_images_come_in_their_order_from_the_folder_and_from_its_file(write: Write) -> None:
    bag = write([7, 250, 9])
    (file,) = bag.glob("*.mcap")
    for path in (bag, file):
        assert is_bag(path)
        images = list(camera_images(path))
        assert [image.shape for image in images] == [(3, 4, 3)] * 3
        assert [int(image[0, 0, 0]) for image in images] == [7, 250, 9]


def test_what_is_wrong_with_a_bag_is_said_before_the_first_image(write: Write, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"got /none: set --topic to one of \['/image'\]"):
        camera_images(write([1]), topic="/none", option="--topic")
    (tmp_path / "broken.mcap").write_bytes(b"not a bag")
    with pytest.raises(DataError, match="cannot be read as a rosbag2"):
        camera_images(tmp_path / "broken.mcap")
    with pytest.raises(DataError, match="cannot be read as a rosbag2"), open_bag(tmp_path / "none.mcap"):
        pass
    assert not is_bag(tmp_path)


def test_an_image_that_the_node_would_refuse_is_named_with_the_nodes_reason(write: Write) -> None:
    images = camera_images(write([1, -1]))
    assert next(images).max() == 1
    with pytest.raises(DataError, match="image 1 of /image cannot be used: truncated: 4x3 mono8 needs 12 bytes, got 0"):
        next(images)


@pytest.mark.skipif(not BAG.is_dir(), reason="the donkeycar bag is not at hand")
def test_a_real_bag_gives_its_images() -> None:
    first = next(camera_images(BAG))
    assert (first.shape, first.dtype) == ((120, 160, 3), np.uint8)
    with pytest.raises(DataError, match="expected one image topic"):
        next(camera_images(BAG, topic="/none"))


def test_a_message_that_is_cut_off_is_named(write: Write) -> None:
    """Regression: it ended in the reader's own traceback."""
    bag = write([7, 250, 9], cut=30)
    images = camera_images(bag)
    assert next(images).shape == (3, 4, 3)
    with pytest.raises(DataError, match="message 1 cannot be read"):
        next(images)


def test_a_bag_with_fewer_messages_than_it_says_is_damaged(write: Write) -> None:
    bag = write([7, 250, 9])
    metadata = bag / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace("message_count: 3", "message_count: 5"))
    with pytest.raises(DataError, match="expected 5 messages, got 3"):
        list(camera_images(bag))


def test_a_bag_without_images_says_so(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    bag = write([7])
    monkeypatch.setattr("oat_runtime.data.bags._IMAGES", ("sensor_msgs/msg/CompressedImage",))
    with pytest.raises(DataError, match="holds no images: expected a topic of sensor_msgs/msg/CompressedImage"):
        camera_images(bag)
