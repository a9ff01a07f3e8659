"""Where replayed images come from: CIFAR-10 with labels, a folder, a video, a webcam, or a rosbag2. Knows no rclpy."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

import oat_runtime
from oat_perception.conversions import check_compressed, check_image, rgb_compressed, rgb_image
from oat_runtime.errors import DataError, InputError
from policy.bags import is_bag, read_image

Bytes = npt.NDArray[np.uint8]

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
_CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
_BINARY_TEST_FILE = Path("cifar-10-batches-bin", "test_batch.bin")
_RECORD_BYTES = 1 + 3 * 32 * 32
_TILE, _COLUMNS = 32, 50
_CONNECT_TIMEOUT_S = 5.0
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".tif", ".tiff")
_IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SourceFrame:
    """One image of a source.

    Attributes:
        image_HWC: uint8 RGB.
        label: true class, where the source knows it.
        index: its number within the source.
    """

    image_HWC: Bytes
    label: int | None
    index: int


Frames = Generator[SourceFrame, None, None]
"""One pass over a source; `close` lets go of its files and devices."""


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """CIFAR-10 test images in memory, in the official order from the first one on.

    Attributes:
        images_NHWC: uint8 RGB.
        labels_N: int64.
        origin: where they were read from: `pack`, `binary` or `foolbox`.
    """

    images_NHWC: Bytes
    labels_N: npt.NDArray[np.int64]
    origin: str

    def __getitem__(self, index: int) -> SourceFrame:
        """One image with its label."""
        return SourceFrame(self.images_NHWC[index], int(self.labels_N[index]), index)

    def frames(self, *, seed: int) -> Frames:
        """All images once, in an order drawn by `seed`."""
        for index in np.random.default_rng(seed).permutation(len(self.labels_N)):
            yield self[int(index)]


def find_cifar10(data_root: str = "") -> Path | None:
    """The folder that holds CIFAR-10, downloading it where there is none; None where that fails too.

    Args:
        data_root: a folder that must hold it. Empty: `$OAT_DATA`, which then must hold it; else `../shared/data`
            beside the project; else the user's cache, where the official archive is downloaded to (170 MB).

    Raises:
        DataError: `data_root` or `$OAT_DATA` names a folder without CIFAR-10.
    """
    named = data_root or os.environ.get("OAT_DATA", "")
    if named:
        if not _holds_cifar10(Path(named)):
            raise DataError(
                f"no CIFAR-10 test images under {named}: expected cifar10/labels.npz or {_BINARY_TEST_FILE}; "
                "correct data_root or OAT_DATA, or unset both to have it downloaded"
            )
        return Path(named)
    beside = Path(oat_runtime.__file__).resolve().parents[2] / "shared" / "data"
    cache = Path.home() / ".cache" / "oat" / "data"
    for root in (beside, cache):
        if _holds_cifar10(root):
            return root
    return cache if _download_cifar10(cache) else None


def load_cifar10_test(data_root: str = "", *, num_images: int = 2500) -> LabelledImages:
    """The first `num_images` test images: from a pack or the official binary file, else the 20 that foolbox carries.

    Raises:
        DataError: nothing was found, or what was found is damaged.
    """
    root = find_cifar10(data_root)
    if root is None:
        _log.warning("no CIFAR-10 found: using the 20 test images that foolbox carries")
        return load_foolbox_cifar10()
    if (root / "cifar10" / "labels.npz").is_file():
        return _read_pack(root / "cifar10", num_images)
    return _read_binary(root / _BINARY_TEST_FILE, num_images)


def load_foolbox_cifar10() -> LabelledImages:
    """The 20 labelled CIFAR-10 test images in the PyPI package foolbox. They are the first 20 of the test set.

    Raises:
        DataError: foolbox is not installed.
    """
    spec = find_spec("foolbox")  # only its data folder is wanted: importing it would load the whole package
    folder = Path(spec.origin).parent / "data" if spec and spec.origin else Path()
    paths = sorted(folder.glob("cifar10_*_*.png")) if spec else []
    if not paths:
        raise DataError("no CIFAR-10 here, no network, and no foolbox: pip install foolbox, or set OAT_DATA")
    labels_N = np.array([int(path.stem.rpartition("_")[2]) for path in paths], np.int64)
    return LabelledImages(np.stack([read_image(path) for path in paths]), labels_N, "foolbox")


def open_source(source: str, *, data_root: str = "", topic: str = "", seed: int = 0) -> Frames:
    """One pass over a source.

    Args:
        source: `cifar10`; `foolbox`; a number (webcam); or a path: a folder of images, a rosbag2 folder or `.mcap`
            file, or a video file.
        data_root: folder that holds CIFAR-10; see `find_cifar10`.
        topic: image topic of a bag; empty: its only one.
        seed: order of labelled images.

    Raises:
        DataError: there is no such source, or it holds no image. Raised here, before the first frame is taken.
    """
    if source == "cifar10":
        return load_cifar10_test(data_root).frames(seed=seed)
    if source == "foolbox":
        return load_foolbox_cifar10().frames(seed=seed)
    if source.isdigit():
        return _capture(int(source))
    path = Path(source)
    if is_bag(path):
        return _bag(path, topic)
    if path.is_dir():
        return _folder(path)
    if path.is_file():
        return _capture(str(path))
    raise DataError(
        f"no image source {source!r}: expected 'cifar10', 'foolbox', a webcam's number, or the path of a folder of "
        "images, a video file, or a rosbag2 folder or .mcap file"
    )


def _folder(folder: Path) -> Frames:
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _IMAGE_SUFFIXES)
    if not paths:
        raise DataError(f"{folder} holds no image: expected files ending in {', '.join(_IMAGE_SUFFIXES)}")
    return (SourceFrame(read_image(path), None, index) for index, path in enumerate(paths))


def _capture(device: int | str) -> Frames:
    capture = cv2.VideoCapture(device)
    if not capture.isOpened():
        what = f"webcam {device}" if isinstance(device, int) else f"video {device}"
        raise DataError(f"{what} cannot be opened: check that it is there, readable, and of a format OpenCV knows")

    def frames() -> Frames:
        index = 0
        try:
            while True:
                ok, bgr = capture.read()
                if not ok:
                    return
                yield SourceFrame(np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8), None, index)
                index += 1
        finally:
            capture.release()

    return frames()


def _bag(path: Path, topic: str) -> Frames:
    # Imported here: only bags need it.
    from rosbags.highlevel import AnyReader, AnyReaderError
    from rosbags.typesys import Stores, get_typestore

    try:
        reader = AnyReader([path], default_typestore=get_typestore(Stores.ROS2_JAZZY))
        reader.open()
    except (AnyReaderError, OSError) as error:
        raise DataError(f"{path} cannot be read as a rosbag2: {error}") from error
    topics = sorted({c.topic for c in reader.connections if c.msgtype in _IMAGE_TYPES})
    wanted = [topic] if topic else topics
    if len(wanted) != 1 or wanted[0] not in topics:
        reader.close()
        raise DataError(f"{path}: expected one image topic, got {topic or topics}: set bag_topic to one of {topics}")

    def frames() -> Frames:
        try:
            connections = [c for c in reader.connections if c.topic == wanted[0]]
            for index, (connection, _, raw) in enumerate(reader.messages(connections)):
                message = reader.deserialize(raw, connection.msgtype)
                compressed = connection.msgtype.endswith("CompressedImage")
                yield SourceFrame(_bag_image(message, compressed=compressed), None, index)
        finally:
            reader.close()

    return frames()


def _bag_image(message: Any, *, compressed: bool) -> Bytes:
    try:
        if compressed:
            check_compressed(message)
            return rgb_compressed(message)
        check_image(message)
        return np.array(rgb_image(message))
    except InputError as error:
        raise DataError(f"an image of the bag cannot be replayed: {error}") from error


def _holds_cifar10(root: Path) -> bool:
    return (root / "cifar10" / "labels.npz").is_file() or (root / _BINARY_TEST_FILE).is_file()


def _read_pack(folder: Path, num_images: int) -> LabelledImages:
    """Read only as many lossless WebP mosaics (50 tiles a row) as are needed."""
    with np.load(folder / "labels.npz", allow_pickle=False) as archive:
        labels_N = archive["y_test"].astype(np.int64)
    num_images = min(num_images, len(labels_N))
    tiles: list[Bytes] = []
    for path in sorted(folder.glob("test_*.webp")):
        mosaic = read_image(path)
        grid = mosaic.reshape(mosaic.shape[0] // _TILE, _TILE, _COLUMNS, _TILE, 3).transpose(0, 2, 1, 3, 4)
        tiles.append(grid.reshape(-1, _TILE, _TILE, 3))
        if sum(map(len, tiles)) >= num_images:
            return LabelledImages(np.concatenate(tiles)[:num_images], labels_N[:num_images], "pack")
    raise DataError(f"{folder}: expected {num_images} test images, found {sum(map(len, tiles))}: a mosaic is missing")


def _read_binary(path: Path, num_images: int) -> LabelledImages:
    """Read records of one label byte and 3072 pixel bytes (channel, row, column)."""
    data = np.fromfile(path, np.uint8)
    if data.size != 10_000 * _RECORD_BYTES:
        raise DataError(f"{path}: expected {10_000 * _RECORD_BYTES} bytes, got {data.size}: unpack the archive again")
    table = data.reshape(10_000, _RECORD_BYTES)[:num_images]
    images_NHWC = np.ascontiguousarray(table[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return LabelledImages(images_NHWC, table[:, 0].astype(np.int64), "binary")


def _download_cifar10(root: Path) -> bool:
    """Fetch and unpack the official archive, checked by its MD5; False, with a warning, where that is impossible."""
    try:
        import pooch  # an extra: only downloads need it

        _log.info("downloading CIFAR-10 (170 MB) to %s", root)
        pooch.retrieve(
            _CIFAR10_URL,
            known_hash=f"md5:{_CIFAR10_MD5}",
            path=root,
            fname="cifar-10-binary.tar.gz",
            downloader=pooch.HTTPDownloader(timeout=_CONNECT_TIMEOUT_S),
            processor=pooch.Untar(extract_dir="."),
        )
    except (ImportError, OSError, ValueError) as error:
        _log.warning("CIFAR-10 could not be downloaded: %s", error)
        return False
    return _holds_cifar10(root)
