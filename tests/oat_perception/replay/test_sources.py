"""Image sources give the pixels and labels that were stored, and say what is wrong with a path."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
from oat_perception.replay import sources
from oat_perception.replay.treatment import disturb, fit_square

from oat_runtime.data import SOURCES, check_image, rgb_image, roots
from oat_runtime.errors import DataError
from oat_runtime.image import InputSpec
from policy.calibrate import read_frames

GRID = 50
# Only its images are read, so what it imports is not needed.
needs_foolbox = pytest.mark.skipif(find_spec("foolbox") is None, reason="foolbox is not installed")


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


def test_one_pass_shows_each_image_once_with_its_own_label_in_the_seeds_order(tmp_path, monkeypatch):
    whole = tuple(replace(at, num_images={"test": GRID}) for at in SOURCES["cifar10"].locations)
    monkeypatch.setitem(SOURCES, "cifar10", replace(SOURCES["cifar10"], locations=whole))
    rng = np.random.default_rng(1)
    images, labels = _rgb(rng, GRID, 32, 32), rng.integers(0, 10, GRID)
    _pack(tmp_path, images, labels)
    frames = list(sources.open_source("cifar10", data_root=str(tmp_path), seed=5))
    again = list(sources.open_source("cifar10", data_root=str(tmp_path), seed=5))
    other = list(sources.open_source("cifar10", data_root=str(tmp_path), seed=6))
    assert sorted(frame.index for frame in frames) == list(range(GRID))
    assert all(np.array_equal(f.image_HWC, images[f.index]) and f.label == labels[f.index] for f in frames)
    assert [f.index for f in frames] == [f.index for f in again] != [f.index for f in other]


@needs_foolbox
def test_foolbox_carries_twenty_labelled_images():
    labelled = sources.load_foolbox_cifar10()
    assert labelled.images_NHWC.shape == (20, 32, 32, 3)
    assert labelled.labels_N[:6].tolist() == [3, 8, 8, 0, 6, 6]  # the official test labels


@needs_foolbox
def test_without_data_and_network_the_last_resort_is_foolbox(tmp_path, monkeypatch):
    monkeypatch.delenv("OAT_DATA", raising=False)
    monkeypatch.setattr(sources, "find_cifar10", lambda data_root: None)
    assert sources.load_cifar10_test().name == "20 images from foolbox"


def test_what_an_earlier_download_left_in_the_cache_is_played(tmp_path, monkeypatch):
    monkeypatch.delenv("OAT_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(roots, "BESIDE_PROJECT", tmp_path / "nowhere")
    cache = tmp_path / ".cache" / "oat" / "data"
    cache.mkdir(parents=True)
    _pack(cache, np.zeros((GRID, 32, 32, 3), np.uint8), np.zeros(GRID))
    assert sources.find_cifar10() == cache


def test_without_a_network_there_is_no_folder_and_no_error(tmp_path, monkeypatch, caplog):
    pooch = pytest.importorskip("pooch")

    def no_network(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(pooch, "retrieve", no_network)
    monkeypatch.delenv("OAT_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(roots, "BESIDE_PROJECT", tmp_path / "nowhere")
    assert sources.find_cifar10() is None
    assert "could not be downloaded (no network)" in caplog.text
    assert "The 20 test images that foolbox carries are shown again and again" in caplog.text


def test_a_named_folder_without_data_is_an_error_not_a_fallback(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no CIFAR-10"):
        sources.load_cifar10_test(str(tmp_path))
    monkeypatch.setenv("OAT_DATA", str(tmp_path))
    with pytest.raises(DataError, match="OAT_DATA"):
        sources.load_cifar10_test()


def test_a_folder_is_read_in_order_and_in_rgb(tmp_path):
    images = [_rgb(np.random.default_rng(i), 5, 7) for i in range(3)]
    for name, image in zip("cab", images, strict=True):
        _write_rgb(tmp_path / f"{name}.png", image)
    frames = list(sources.open_source(str(tmp_path)))
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert all(
        np.array_equal(f.image_HWC, images[i]) and f.label is None for f, i in zip(frames, (1, 2, 0), strict=True)
    )


def test_a_folder_plays_frame_2_before_frame_10(tmp_path):
    for number in (10, 2, 1):
        _write_rgb(tmp_path / f"frame{number}.png", np.full((4, 4, 3), number, np.uint8))
    assert [int(frame.image_HWC[0, 0, 0]) for frame in sources.open_source(str(tmp_path))] == [1, 2, 10]


def test_a_pass_that_is_closed_early_lets_go_of_its_bag(tmp_path, monkeypatch):
    highlevel = pytest.importorskip("rosbags.highlevel")
    bag, _, _ = _bag(tmp_path)
    frames = sources.open_source(str(bag), topic="/bgr8")
    next(frames)
    closed, close = [], highlevel.AnyReader.close
    monkeypatch.setattr(highlevel.AnyReader, "close", lambda reader: (closed.append(reader), close(reader)))
    frames.close()
    assert len(closed) == 1


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


def _bag(folder):
    """A bag of images as cameras send them, a topic each: raw with padding, compressed, Bayer, 16 bits, YUV."""
    rosbag2 = pytest.importorskip("rosbags.rosbag2")
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    header = store.types["std_msgs/msg/Header"](stamp=store.types["builtin_interfaces/msg/Time"](0, 0), frame_id="c")
    rgb = _rgb(np.random.default_rng(3), 6, 4)
    padded = np.zeros((6, 16), np.uint8)  # four bytes of padding a row: `step` must be honoured
    padded[:, :12] = rgb[..., ::-1].reshape(6, 12)
    pixels = {
        "bgr8": padded,
        "bayer_rggb8": rgb[..., 0],
        "bayer_gbrg16": rgb[..., :2].reshape(6, 8),
        "mono16": rgb[..., :2].reshape(6, 8),
        "yuv422_yuy2": rgb[..., :2].reshape(6, 8),
        "bgra8": np.tile(rgb[..., :2], (1, 1, 2)).reshape(6, 16),
        "8UC4": np.tile(rgb[..., 1:], (1, 1, 2)).reshape(6, 16),
        "bgr16": np.tile(rgb, (1, 1, 2)).reshape(6, 24),
        "nv12": np.concatenate([rgb[..., 0], rgb[:3, :, 1]]),
        "nv21": np.concatenate([rgb[..., 0], rgb[:3, :, 1]]),
        "nv24": np.concatenate([rgb[..., 0], rgb[..., 1], rgb[..., 2]]),
    }
    image = store.types["sensor_msgs/msg/Image"]
    messages = {
        f"/{encoding}": image(
            header=header, height=6, width=4, encoding=encoding, is_bigendian=0, step=rows.shape[1],
            data=np.ascontiguousarray(rows).ravel(),
        )
        for encoding, rows in pixels.items()
    }  # fmt: skip
    png = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1].ravel()
    messages["/packed"] = store.types["sensor_msgs/msg/CompressedImage"](header=header, format="png", data=png)
    bag = folder / "bag"
    with rosbag2.Writer(bag, version=9, storage_plugin=rosbag2.StoragePlugin.MCAP) as writer:
        for topic, message in messages.items():
            connection = writer.add_connection(topic, message.__msgtype__, typestore=store)
            writer.write(connection, 1, store.serialize_cdr(message, message.__msgtype__))
    return bag, messages, rgb


def test_one_bag_is_read_alike_by_the_camera_replay_by_oat_calibrate_and_by_the_node(tmp_path):
    """Whatever drives the node can be calibrated on and replayed."""
    bag, messages, rgb = _bag(tmp_path)
    for topic, message in messages.items():
        (replayed,) = sources.open_source(str(bag), topic=topic)
        (calibrated,) = read_frames(bag, InputSpec(height=6, width=4), topic=topic, limit=9)
        if topic != "/packed":
            check_image(message)
            assert np.array_equal(replayed.image_HWC, rgb_image(message)), topic
        assert np.array_equal(replayed.image_HWC, calibrated), topic
        if topic in ("/bgr8", "/packed"):
            assert np.array_equal(calibrated, rgb)
    with pytest.raises(DataError, match=r"set bag_topic to one of \['/8UC4', .*'/yuv422_yuy2'\]"):
        sources.open_source(str(bag))
    with pytest.raises(DataError, match=r"set --topic to one of \['/8UC4', .*'/yuv422_yuy2'\]"):
        read_frames(bag, InputSpec(), topic="", limit=9)


def test_a_bag_of_a_camera_of_few_bits_is_read_alike(tmp_path):
    bag, messages, _ = _bag(tmp_path)
    for topic in ("/mono16", "/bayer_gbrg16", "/bgr16"):
        with pytest.raises(DataError, match=r"none of 1 images .* more than 12 bits: .* set image_bits to 16"):
            next(sources.open_source(str(bag), topic=topic, bits=12))
        with pytest.raises(DataError, match="more than 12 bits"):
            read_frames(bag, InputSpec(height=6, width=4), topic=topic, limit=9, bits=12)
    (replayed,) = sources.open_source(str(bag), topic="/bgr8", bits=12)
    assert np.array_equal(replayed.image_HWC, rgb_image(messages["/bgr8"])), "8 bits stay 8 bits"


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


def test_the_home_folder_is_meant_where_no_shell_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: behind `:=` a path that begins with ~ was looked for, and written, below the working folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "frames").mkdir()
    image_HWC = _rgb(np.random.default_rng(0), 4, 4)
    _write_rgb(tmp_path / "frames" / "a.png", image_HWC)
    (shown,) = sources.open_source("~/frames")
    np.testing.assert_array_equal(shown.image_HWC, image_HWC)
