"""Read the images to replay: CIFAR-10 with labels, a robot's frames with boxes, a folder, a video, a webcam, a bag."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np

from oat_perception.replay.frames import Boxes, Bytes, Labels, is_session, open_session
from oat_runtime.data import (
    CIFAR10,
    CIFAR10_CLASSES,
    ImageSet,
    Skipped,
    fetch_source,
    find_source,
    is_bag,
    load_dataset,
    read_image,
    recorded_images,
)
from oat_runtime.data.decoding import FULL_BITS
from oat_runtime.data.image_headers import check_size
from oat_runtime.errors import ConfigError, DataError, InputError
from oat_runtime.files import expanded

_CONNECT_TIMEOUT_S = 5.0
_NUM_REPLAYED = 2500

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One image of a source.

    Attributes:
        image_HWC: uint8 RGB.
        label: true class, if the source knows it.
        index: its number within the source.
        boxes_N4: its regions, if the source has frames with boxes; see `LabelledFrame`.
        labels_N: their true classes.
    """

    image_HWC: Bytes
    label: int | None
    index: int
    boxes_N4: Boxes | None = None
    labels_N: Labels | None = None


SourceImages = Generator[SourceImage, None, None]
"""One pass over a source; `close` releases its files and devices."""


def find_cifar10(data_root: str = "") -> Path | None:
    """Return the folder that holds CIFAR-10, or download it (170 MB) to the user's cache; None where that fails too.

    Args:
        data_root: a folder that must hold it; empty: see `oat_runtime.data.roots`.

    Raises:
        DataError: `data_root` or `$OAT_DATA` names a folder without CIFAR-10.
    """
    found = find_source(CIFAR10, expanded(data_root) if data_root else None)
    if found is None:
        try:
            _log.info("downloading CIFAR-10 (170 MB)")
            found = fetch_source(CIFAR10, timeout_s=_CONNECT_TIMEOUT_S)
        except (ConfigError, DataError) as error:
            _log.warning(
                "%s. The 20 test images that foolbox carries are shown again and again, so shares of them mean little",
                error,
            )
            return None
    return found.root


def load_cifar10_test(data_root: str = "") -> ImageSet:
    """Read the first 2,500 test images; if there are none, the 20 in foolbox.

    Raises:
        DataError: nothing was found, or what was found is damaged.
    """
    root = find_cifar10(data_root)
    if root is None:
        return load_foolbox_cifar10()
    return load_dataset("cifar10", "test", root=root, limit=_NUM_REPLAYED)


def load_foolbox_cifar10() -> ImageSet:
    """Read the 20 labelled CIFAR-10 test images in the PyPI package foolbox. They are the first 20 of the test set.

    Raises:
        DataError: foolbox is not installed.
    """
    spec = find_spec("foolbox")  # only its data folder is wanted: importing it would load the whole package
    folder = Path(spec.origin).parent / "data" if spec and spec.origin else Path()
    paths = sorted(folder.glob("cifar10_*_*.png")) if spec else []
    if not paths:
        raise DataError("no CIFAR-10 here, no network, and no foolbox: pip install foolbox, or set OAT_DATA")
    labels_N = np.array([int(path.stem.rpartition("_")[2]) for path in paths], np.int64)
    images_NHWC = np.stack([read_image(path) for path in paths])
    return ImageSet(images_NHWC, labels_N, CIFAR10_CLASSES, "20 images from foolbox")


def open_source(
    source: str,
    *,
    data_root: str = "",
    topic: str = "",
    bits: int = FULL_BITS,
    seed: int = 0,
    skipped: Skipped | None = None,
) -> SourceImages:
    """Return one pass over a source.

    Args:
        source: `cifar10`; `foolbox`; the frames with boxes of a session, `robocup/20260502_r5`; a number (webcam); or
            a path: a folder of images, a rosbag2 folder or `.mcap` file, or a video file.
        data_root: folder that holds CIFAR-10, or the frames with boxes; see `find_cifar10`.
        topic: image topic of a bag; empty: its only one.
        bits: how many bits a value of 16-bit images in a folder or bag uses.
        seed: order of labelled images.
        skipped: takes the images of a folder or bag that cannot be used; None: they are logged alone.

    Raises:
        DataError: there is no such source, or it holds no image. This is raised before the first frame is taken.
    """
    if source == "cifar10":
        return _in_drawn_order(load_cifar10_test(data_root), seed)
    if source == "foolbox":
        return _in_drawn_order(load_foolbox_cifar10(), seed)
    if is_session(source):
        return _with_boxes(source, data_root)
    if source.isdigit():
        return _capture(int(source))
    path = expanded(source)
    if is_bag(path) or path.is_dir():
        skipped = skipped or Skipped()
        return _unlabelled(recorded_images(path, skipped, topic=topic, option="bag_topic", bits=bits))
    if path.is_file():
        return _capture(str(path))
    raise DataError(
        f"no image source {source!r}: expected 'cifar10', 'foolbox', a session such as 'robocup/20260502_r5', a "
        "webcam's number, or the path of a folder of images, a video file, or a rosbag2 folder or .mcap file"
    )


def _in_drawn_order(data: ImageSet, seed: int) -> SourceImages:
    for index in np.random.default_rng(seed).permutation(len(data)):
        yield SourceImage(data.images_NHWC[index], int(data.labels_N[index]), int(index))


def _with_boxes(source: str, data_root: str) -> SourceImages:
    frames = open_session(source, expanded(data_root) if data_root else None)

    def images() -> SourceImages:
        for index in range(len(frames)):
            frame = frames[index]
            yield SourceImage(frame.image_HWC, None, index, frame.boxes_N4, frame.labels_N)

    return images()


def _unlabelled(images: Iterable[Bytes]) -> SourceImages:
    for index, image_HWC in enumerate(images):
        yield SourceImage(image_HWC, None, index)


def _capture(device: int | str) -> SourceImages:
    capture = cv2.VideoCapture(device)
    if not capture.isOpened():
        what = f"webcam {device}" if isinstance(device, int) else f"video {device}"
        raise DataError(f"{what} cannot be opened: check that it is there, readable, and of a format OpenCV knows")

    def checked(height: float, width: float) -> None:
        try:
            check_size(int(height), int(width))
        except InputError as error:
            capture.release()
            raise DataError(f"video {device}: {error}") from error

    checked(capture.get(cv2.CAP_PROP_FRAME_HEIGHT), capture.get(cv2.CAP_PROP_FRAME_WIDTH))

    def images() -> Generator[Bytes, None, None]:
        try:
            while True:
                ok, bgr = capture.read()
                if not ok:
                    return
                checked(*bgr.shape[:2])
                yield np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
        finally:
            capture.release()

    return _unlabelled(images())
