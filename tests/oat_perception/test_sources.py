"""Image sources give the pixels and labels that were stored, and say what is wrong with a path."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from oat_perception import sources
from oat_perception.treatment import disturb, fit_square

from oat_runtime.errors import DataError

GRID = 50


def _rgb(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(0, 256, (*shape, 3), np.uint8)


def _write_rgb(path: Path, image: np.ndarray) -> None:
    settings = [cv2.IMWRITE_WEBP_QUALITY, 101] if path.suffix == ".webp" else []  # above 100: lossless
    assert cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR), settings)


def _pack(root: Path, images: np.ndarray, labels: np.ndarray) -> None:
    folder = root / "cifar10"
    folder.mkdir()
    np.savez(folder / "labels.npz", y_test=labels.astype(np.uint8))
    rows = images.reshape(-1, GRID, 32, 32, 3).transpose(0, 2, 1, 3, 4).reshape(-1, GRID * 32, 3)
    _write_rgb(folder / "test_00000.webp", rows)


def _binary(root: Path, images: np.ndarray, labels: np.ndarray) -> None:
    folder = root / "cifar-10-batches-bin"
    folder.mkdir()
    records = np.zeros((10_000, 3073), np.uint8)
    records[: len(labels), 0] = labels
    records[: len(labels), 1:] = images.transpose(0, 3, 1, 2).reshape(len(labels), -1)
    records.tofile(folder / "test_batch.bin")


@pytest.mark.parametrize("write", [_pack, _binary])
def test_labelled_images_come_back_bit_for_bit(tmp_path, write):
    rng = np.random.default_rng(0)
    images, labels = _rgb(rng, 2 * GRID, 32, 32), rng.integers(0, 10, 2 * GRID)
    write(tmp_path, images, labels)
    read = sources.load_cifar10_test(str(tmp_path), num_images=2 * GRID)
    assert np.array_equal(read.images_NHWC, images)
    assert read.labels_N.tolist() == labels.tolist()


def test_one_pass_shows_each_image_once_with_its_own_label_in_the_seeds_order(tmp_path):
    rng = np.random.default_rng(1)
    images, labels = _rgb(rng, GRID, 32, 32), rng.integers(0, 10, GRID)
    _pack(tmp_path, images, labels)
    frames = list(sources.open_source("cifar10", data_root=str(tmp_path), seed=5))
    again = list(sources.open_source("cifar10", data_root=str(tmp_path), seed=5))
    other = list(sources.open_source("cifar10", data_root=str(tmp_path), seed=6))
    assert sorted(frame.index for frame in frames) == list(range(GRID))
    assert all(np.array_equal(f.image_HWC, images[f.index]) and f.label == labels[f.index] for f in frames)
    assert [f.index for f in frames] == [f.index for f in again] != [f.index for f in other]


def test_foolbox_carries_twenty_labelled_images():
    labelled = sources.load_foolbox_cifar10()
    assert labelled.images_NHWC.shape == (20, 32, 32, 3)
    assert labelled.labels_N[:6].tolist() == [3, 8, 8, 0, 6, 6]  # the official test labels


def test_without_data_and_network_the_last_resort_is_foolbox(tmp_path, monkeypatch):
    monkeypatch.delenv("OAT_DATA", raising=False)
    monkeypatch.setattr(sources, "find_cifar10", lambda data_root: None)
    assert sources.load_cifar10_test().origin == "foolbox"


def test_a_named_folder_without_data_is_an_error_not_a_fallback(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no CIFAR-10"):
        sources.load_cifar10_test(str(tmp_path))
    monkeypatch.setenv("OAT_DATA", str(tmp_path))
    with pytest.raises(DataError, match="OAT_DATA"):
        sources.load_cifar10_test()


def test_truncated_files_are_refused(tmp_path):
    rng = np.random.default_rng(2)
    _binary(tmp_path, _rgb(rng, GRID, 32, 32), rng.integers(0, 10, GRID))
    path = tmp_path / "cifar-10-batches-bin" / "test_batch.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="expected 30730000 bytes"):
        sources.load_cifar10_test(str(tmp_path))


def test_a_folder_is_read_in_order_and_in_rgb(tmp_path):
    images = [_rgb(np.random.default_rng(i), 5, 7) for i in range(3)]
    for name, image in zip("cab", images, strict=True):
        _write_rgb(tmp_path / f"{name}.png", image)
    frames = list(sources.open_source(str(tmp_path)))
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert all(
        np.array_equal(f.image_HWC, images[i]) and f.label is None for f, i in zip(frames, (1, 2, 0), strict=True)
    )


def test_a_video_gives_its_frames(tmp_path):
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (32, 24))
    for level in (40, 120, 200):
        writer.write(np.full((24, 32, 3), (level, level // 2, 0), np.uint8))
    writer.release()
    frames = list(sources.open_source(str(path)))
    assert [frame.image_HWC.shape for frame in frames] == [(24, 32, 3)] * 3
    blue = [float(frame.image_HWC[..., 2].mean()) for frame in frames]
    assert np.allclose(blue, (40, 120, 200), atol=8)


def test_a_bag_gives_raw_and_compressed_images(tmp_path):
    rosbag2 = pytest.importorskip("rosbags.rosbag2")
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    header = store.types["std_msgs/msg/Header"](stamp=store.types["builtin_interfaces/msg/Time"](0, 0), frame_id="c")
    rgb = _rgb(np.random.default_rng(3), 6, 4)
    padded = np.zeros((6, 16), np.uint8)  # four bytes of padding a row: `step` must be honoured
    padded[:, :12] = rgb[..., ::-1].reshape(6, 12)
    raw = store.types["sensor_msgs/msg/Image"](
        header=header, height=6, width=4, encoding="bgr8", is_bigendian=0, step=16, data=padded.ravel()
    )
    png = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1]
    packed = store.types["sensor_msgs/msg/CompressedImage"](header=header, format="png", data=png)
    bag = tmp_path / "bag"
    with rosbag2.Writer(bag, version=9, storage_plugin=rosbag2.StoragePlugin.MCAP) as writer:
        for topic, message in (("/raw", raw), ("/packed", packed)):
            connection = writer.add_connection(topic, message.__msgtype__, typestore=store)
            writer.write(connection, 1, store.serialize_cdr(message, message.__msgtype__))
    for topic in ("/raw", "/packed"):
        (frame,) = sources.open_source(str(bag), topic=topic)
        assert np.array_equal(frame.image_HWC, rgb)
    with pytest.raises(DataError, match=r"set bag_topic to one of \['/packed', '/raw'\]"):
        sources.open_source(str(bag))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere/at/all", "no image source"),
        ("empty", "holds no image"),
        ("broken.avi", "cannot be opened"),
        ("broken.mcap", "cannot be read"),
    ],
)
def test_a_wrong_path_is_refused_before_the_first_frame(tmp_path, source, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.avi").write_bytes(b"not a video")
    (tmp_path / "broken.mcap").write_bytes(b"not a bag")
    with pytest.raises(DataError, match=message):
        sources.open_source(str(tmp_path / source))


def test_a_corruption_can_be_made_again_from_seed_and_number():
    image = _rgb(np.random.default_rng(4), 32, 32)
    first = disturb(image, "gaussian_noise", 3, seed=7, sequence=11)
    assert np.array_equal(first, disturb(image, "gaussian_noise", 3, seed=7, sequence=11))
    assert not np.array_equal(first, disturb(image, "gaussian_noise", 3, seed=7, sequence=12))
    assert disturb(image, "none", 0, seed=7, sequence=11) is image


def test_pixels_of_the_wanted_size_are_never_resampled():
    image = _rgb(np.random.default_rng(5), 32, 32)
    assert np.array_equal(fit_square(image, 32), image)
    assert fit_square(_rgb(np.random.default_rng(6), 48, 64), 32).shape == (32, 32, 3)
