"""A recording of a camera gives what can be used, and says what it leaves out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from oat_runtime.data import Skipped, recorded_images
from oat_runtime.errors import DataError

LEVELS = (10, 20, 30, 40)
SPOILT = 2
Image = np.ndarray[Any, np.dtype[np.uint8]]


def _jpeg(level: int) -> bytes:
    return cv2.imencode(".jpg", np.full((24, 32), level, np.uint8))[1].tobytes()


SPOILERS = {"empty": b"", "cut off": _jpeg(30)[:-40], "of another kind": b"GIF89a" + bytes(40)}


def _folder(path: Path, images: list[bytes]) -> Path:
    path.mkdir()
    for number, data in enumerate(images):
        (path / f"frame{number}.jpg").write_bytes(data)
    return path


def _bag(path: Path, images: list[bytes], *, cut: int | None = None, encoding: str = "jpeg") -> Path:
    rosbag2 = pytest.importorskip("rosbags.rosbag2")
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    types: Any = store.types
    header = types["std_msgs/msg/Header"](stamp=types["builtin_interfaces/msg/Time"](-7, 5), frame_id="c")
    name = "sensor_msgs/msg/CompressedImage"
    with rosbag2.Writer(path, version=9, storage_plugin=rosbag2.StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/image", name, typestore=store)
        for number, data in enumerate(images):
            message = types[name](header=header, format=encoding, data=np.frombuffer(data, np.uint8))
            raw = store.serialize_cdr(message, name)
            writer.write(connection, number, raw[:cut] if number == SPOILT else raw)
    return path


def _read(path: Path) -> tuple[list[int], Skipped, list[str]]:
    told: list[str] = []
    skipped = Skipped(told.append)
    return [int(image[0, 0, 0]) for image in recorded_images(path, skipped)], skipped, told


@pytest.mark.parametrize("spoiler", SPOILERS)
def test_one_bad_image_is_left_out_counted_and_named(spoiler: str, tmp_path: Path) -> None:
    """Regression: it ended oat-calibrate and camera_replay, where the node drops and counts it."""
    images = [_jpeg(level) for level in LEVELS]
    images[SPOILT] = SPOILERS[spoiler]
    for path, name in (
        (_folder(tmp_path / "folder", images), f"frame{SPOILT}.jpg cannot be decoded"),
        (_bag(tmp_path / "bag", images), f"image {SPOILT} of /image cannot be used"),
    ):
        levels, skipped, told = _read(path)
        assert levels == [level for number, level in enumerate(LEVELS) if number != SPOILT]
        assert skipped.num == 1
        assert name in skipped.reasons[0] and told == [f"left out: {skipped.reasons[0]}"]


def test_pictures_in_a_format_that_is_not_read_are_left_out_with_a_word(tmp_path: Path) -> None:
    """A phone's folder of .heic and .jpg was calibrated on its .jpg alone."""
    path = _folder(tmp_path / "folder", [_jpeg(level) for level in LEVELS])
    (path / "frame1.jpg").rename(path / "frame1.HEIC")
    (path / ".frame9.heic").touch()
    levels, skipped, told = _read(path)
    assert levels == [10, 30, 40] and skipped.num == 1
    assert told == [
        f"left out: {path}/frame1.HEIC is a picture in a format that is not read (.HEIC): save it as PNG or JPEG"
    ]


def test_a_message_that_cannot_be_read_is_left_out_too(tmp_path: Path) -> None:
    levels, skipped, _ = _read(_bag(tmp_path / "bag", [_jpeg(level) for level in LEVELS], cut=30))
    assert levels == [10, 20, 40]
    assert f"message {SPOILT} cannot be read" in skipped.reasons[0]


def test_stamps_before_1970_change_nothing(tmp_path: Path) -> None:
    levels, skipped, _ = _read(_bag(tmp_path / "bag", [_jpeg(level) for level in LEVELS]))
    assert (levels, skipped.num) == (list(LEVELS), 0)


def test_the_bits_of_a_camera_hold_for_folders_as_for_bags(tmp_path: Path) -> None:
    """White is the largest value of the camera's bits."""
    twelve = np.full((24, 32), 4095, np.uint16)
    data = cv2.imencode(".png", twelve)[1].tobytes()
    for path in (
        _folder(tmp_path / "folder", [data]),
        _bag(tmp_path / "bag", [data], encoding="mono16; png compressed "),
    ):
        levels = {bits: int(next(recorded_images(path, Skipped(), bits=bits)).max()) for bits in (12, 16)}
        assert levels[12] == 255 and levels[16] in (15, 16)
        with pytest.raises(DataError, match="image_bits"):
            next(recorded_images(path, Skipped(), bits=10))


def test_a_recording_of_which_nothing_can_be_used_is_an_error_with_the_reason(tmp_path: Path) -> None:
    images = [_jpeg(level) for level in LEVELS]
    for path, reason in (
        (_bag(tmp_path / "depth", images, encoding="16UC1; png compressed "), "depth image: expected a picture"),
        (_folder(tmp_path / "folder", [b""] * 4), "frame0.jpg cannot be decoded: empty"),
    ):
        with pytest.raises(DataError, match=f"none of 4 images can be used, beginning with .*{reason}"):
            _read(path)


def test_many_bad_images_are_counted_and_the_first_are_named(tmp_path: Path) -> None:
    levels, skipped, told = _read(_folder(tmp_path / "folder", [b""] * 50 + [_jpeg(9)]))
    assert (levels, skipped.num) == ([9], 50)
    assert len(told) == len(skipped.reasons) < 20


def test_a_damaged_bag_is_an_error_all_the_same(tmp_path: Path) -> None:
    bag = _bag(tmp_path / "bag", [_jpeg(level) for level in LEVELS])
    shutil.copy(bag / "metadata.yaml", tmp_path / "kept")
    text = (tmp_path / "kept").read_text()
    (bag / "metadata.yaml").write_text(text.replace("message_count: 4", "message_count: 5"))
    with pytest.raises(DataError, match=r"expected 5 messages, got 4|cannot be read"):
        _read(bag)
