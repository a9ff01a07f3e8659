"""Bags give their images in order, or say what is wrong before the first one is taken."""

import os
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from oat_runtime.data import camera_images, is_bag, open_bag
from oat_runtime.data.bag_limits import MAX_UNPACKED, check_chunks, unpack
from oat_runtime.errors import DataError
from tests.little_work import little_work

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
    none = r"none\.mcap cannot be read as a rosbag2: there is no such file$"
    with pytest.raises(DataError, match=none), open_bag(tmp_path / "none.mcap"):
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


def _metadata(bag: Path, change: Callable[[str], str]) -> Path:
    file = bag / "metadata.yaml"
    file.write_text(change(file.read_text()))
    return bag


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("message_count: 1", "message_count: many"), "cannot be read as a rosbag2"),
        (lambda text: "a: &a [x, x]\nb: [*a, *a]\n" + text, "uses references or tags, which no recorder writes"),
        (lambda text: text + "#" * 2**21, "larger than 524288 bytes"),
        (lambda text: text.replace("version: 9", "version: [[[[[[[[["), "cannot be read as a rosbag2"),
        (lambda text: "\0", "cannot be read as a rosbag2"),
    ],
)
def test_hostile_metadata_is_refused_in_one_line(write: Write, change: Callable[[str], str], message: str) -> None:
    with pytest.raises(DataError, match=message) as refused:
        camera_images(_metadata(write([1]), change))
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("plugin", ["MCAP", "SQLITE3"])
def test_a_message_that_unpacks_to_more_than_an_image_is_refused(tmp_path: Path, plugin: str) -> None:
    """Regression: a bag of 15 kB took 1.6 GB."""
    from rosbags.rosbag2 import CompressionFormat, CompressionMode
    from rosbags.typesys import Stores, get_typestore

    plugin, bag = rosbag2.StoragePlugin[plugin], tmp_path / "bag"
    writer = rosbag2.Writer(bag, version=9, storage_plugin=plugin)
    mode = CompressionMode.STORAGE if plugin is rosbag2.StoragePlugin.MCAP else CompressionMode.MESSAGE
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection(
            "/image", "sensor_msgs/msg/Image", typestore=get_typestore(Stores.ROS2_JAZZY)
        )
        writer.write(connection, 0, bytes(MAX_UNPACKED + 1))
    assert sum(file.stat().st_size for file in bag.iterdir()) < 100_000
    with pytest.raises(DataError, match="unpacks to"):
        list(camera_images(bag))


def test_a_database_that_computes_its_messages_is_refused(tmp_path: Path, write: Write) -> None:
    from rosbags.typesys import Stores, get_typestore

    bag = tmp_path / "sql"
    with rosbag2.Writer(bag, version=9, storage_plugin=rosbag2.StoragePlugin.SQLITE3) as writer:
        writer.add_connection("/image", "sensor_msgs/msg/Image", typestore=get_typestore(Stores.ROS2_JAZZY))
    (file,) = bag.glob("*.db3")
    with closing(sqlite3.connect(file)) as database:
        database.executescript(
            "ALTER TABLE messages RENAME TO old; CREATE VIEW messages AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL "
            "SELECT i + 1 FROM n) SELECT i AS id, 1 AS topic_id, i AS timestamp, x'00' AS data FROM n;"
        )
    for path in (bag, file):
        with pytest.raises(DataError, match="where a recorder writes plain tables"):
            list(camera_images(path))


def test_packed_bags_are_read_as_before(tmp_path: Path, write: Write) -> None:
    from backports import zstd

    packed = [zstd.compress(b"first"), zstd.compress(b" and second")]
    assert unpack(b"".join(packed), zstd.ZstdDecompressor, 16) == b"first and second"
    for wrong in (15, MAX_UNPACKED + 1):
        with pytest.raises(ValueError, match="unpacks to"):
            unpack(b"".join(packed), zstd.ZstdDecompressor, wrong)
    with pytest.raises(ValueError, match="cut off"):
        unpack(packed[0][:-2], zstd.ZstdDecompressor, 16)


def test_an_index_that_names_a_chunk_twice_is_refused(write: Write) -> None:
    """Regression: a file of 414 kB named one chunk 20 times and took 5 GB before its first message."""
    (file,) = write([7, 250, 9]).glob("*.mcap")
    data = file.read_bytes()
    (place,) = struct.unpack_from("<Q", data, len(data) - 28)
    while data[place] != 8:
        place += 9 + struct.unpack_from("<Q", data, place + 1)[0]
    end = place + 9 + struct.unpack_from("<Q", data, place + 1)[0]
    file.write_bytes(data[:end] + data[place:end] + data[end:])
    with pytest.raises(DataError, match="names a part of the file twice"):
        camera_images(file)


def _chunk(start: int, first: int, last: int, *, size: int = 4 * 2**20, packed: int = 2**20) -> SimpleNamespace:
    return SimpleNamespace(
        chunk_start_offset=start, compressed_size=packed, uncompressed_size=size, message_start_time=first,
        message_end_time=last,
    )  # fmt: skip


def test_chunks_are_bounded_where_they_are_held_together_and_a_long_recording_is_not() -> None:
    step = 2**20 + 100
    check_chunks([_chunk(n * step, 10 * n, 10 * n + 15) for n in range(20_000)], 20_000 * step)  # 80 GB
    with pytest.raises(ValueError, match="of the same time unpack to"):
        check_chunks([_chunk(n * step, n, 100) for n in range(65)], 65 * step)
    with pytest.raises(ValueError, match="names a part of the file twice"):
        check_chunks([_chunk(0, 0, 1), _chunk(step - 100, 2, 3)], 2 * step)
    with pytest.raises(ValueError, match="a chunk unpacks to"):
        check_chunks([_chunk(0, 0, 1, size=MAX_UNPACKED + 1)], 100 * step)
    with pytest.raises(ValueError, match="more than 200 times the size"):
        check_chunks([_chunk(n * 200, n, n, packed=100) for n in range(40)], 8000)


@pytest.mark.parametrize("plugin", ["MCAP", "SQLITE3"])
def test_a_message_that_is_not_packed_is_bounded_too(
    tmp_path: Path, plugin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: a message of 300 MB in a database took 2.1 GB."""
    from rosbags.typesys import Stores, get_typestore

    monkeypatch.setattr("oat_runtime.data.bag_limits.MAX_UNPACKED", 2**16)
    bag, types = tmp_path / "bag", get_typestore(Stores.ROS2_JAZZY)
    with rosbag2.Writer(bag, version=9, storage_plugin=rosbag2.StoragePlugin[plugin]) as writer:
        connection = writer.add_connection("/image", "sensor_msgs/msg/Image", typestore=types)
        writer.write(connection, 0, bytes(2**16 + 1))
    with pytest.raises(DataError, match=r"too big|at most 65536 are read"):
        list(camera_images(bag))


def test_what_is_no_file_is_not_opened(write: Write) -> None:
    """Regression: a pipe in the folder was waited for without end."""
    bag = write([1])
    (file,) = bag.glob("*.mcap")
    for hostile in (file, bag / "metadata.yaml"):
        hostile.unlink()
        os.mkfifo(hostile)
        for path in {bag, hostile} - {bag / "metadata.yaml"}:
            with pytest.raises(DataError, match="is no file"), open_bag(path):
                pass


_TOPIC = """
  - message_count: 0
    topic_metadata:
      name: /robot/sensors/camera_front_{0}/image_raw
      type: sensor_msgs/msg/Image
      serialization_format: cdr
      type_description_hash: RIHS01_5f0fcd4f81d5d06ad9b4c4c63e3ea51b82d6ae4d0558f1d475229b1121db6f64
      offered_qos_profiles:
      - {{history: keep_last, depth: 10, reliability: reliable, durability: volatile, deadline: {{sec: 9223372036,
          nsec: 854775807}}, lifespan: {{sec: 9223372036, nsec: 854775807}}, liveliness: automatic,
          liveliness_lease_duration: {{sec: 9223372036, nsec: 854775807}}, avoid_ros_namespace_conventions: false}}"""


def test_the_metadata_of_three_hundred_topics_is_read(write: Write) -> None:
    topics = "topics_with_message_count:" + "".join(map(_TOPIC.format, range(300)))
    bag = _metadata(write([1]), lambda text: text.replace("topics_with_message_count:", topics))
    assert (bag / "metadata.yaml").stat().st_size > 180_000
    with open_bag(bag) as reader:
        assert len({connection.topic for connection in reader.connections}) == 301


_PARTS = "more than 60000 parts, or they lie more than 16 deep"
_UNUSABLE = "cannot be read as a rosbag2"
HOSTILE_METADATA = {
    "list": ("x: [" + "a," * 250_000 + "]", _PARTS),
    "deep": ("[" * 500_000, _PARTS),
    "dashes": ("- " * 250_000, _PARTS),
    "keys": ("? " * 250_000, _PARTS),
    "names": ("".join(f"k{number}: 1\n" for number in range(45_000)), _PARTS),
    "tag": ("x: !!int 1" + ":1" * 250_000, "references or tags"),
    "base 60": ("x: 1" + ":1" * 250_000, _UNUSABLE),
    "text": ('x: "' + "\\n" * 250_000 + '"', _UNUSABLE),
    "comment": ("#" * 500_000, _UNUSABLE),
}


@pytest.mark.parametrize("case", HOSTILE_METADATA)
def test_hostile_metadata_is_refused_with_little_work(write: Write, case: str) -> None:
    """Regression: a megabyte took 18 s."""
    hostile, says = HOSTILE_METADATA[case]
    bag = _metadata(write([1]), lambda text: hostile)
    with little_work(), pytest.raises(DataError, match=says):
        camera_images(bag)


def test_a_topics_quality_of_service_is_bounded_like_the_metadata(write: Write) -> None:
    from rosbags.rosbag2 import metadata

    with open_bag(write([1])):
        assert metadata.parse_qos("[]") == []
    with pytest.raises(ValueError, match="they lie more than 16 deep"):
        metadata.parse_qos("[" * 17 + "]" * 17)
