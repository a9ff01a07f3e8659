"""Read images by class, from `FOLDER/train/CLASS/*.png` and `FOLDER/test/CLASS/*.png`, or `FOLDER/CLASS/*.png`."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt

from oat_runtime.data.image_files import IMAGE_SUFFIXES, in_frame_order, is_image, read_image
from oat_runtime.data.image_set import ImageSet, Split, resized
from oat_runtime.errors import DataError

_LOG = logging.getLogger(__name__)
_TEST_SHARE = 0.2


def load_folder(folder: Path, split: Split, *, side: int | None) -> ImageSet:
    """Read one split of a folder of images, class by class, classes in alphabetical and files in frame order.

    Without `train/` and `test/`, a fifth of the images is the test set. The hash of its name decides for each image. So
    no image changes its side when others are added.

    Args:
        folder: the folder.
        split: `train` or `test`.
        side: pixels that every image is fitted to (largest centred square); None: all images must have one size.

    Raises:
        DataError: no such folder, no classes, a class without images, a damaged image, or sizes that differ.
    """
    if not folder.is_dir():
        raise DataError(
            f"no folder {folder}: expected FOLDER/train/CLASS/... and FOLDER/test/CLASS/..., or FOLDER/CLASS/..."
        )
    has_splits = (folder / "train").is_dir() and (folder / "test").is_dir()
    class_names = _class_names(folder / "train" if has_splits else folder)
    if has_splits and _class_names(folder / "test") != class_names:
        raise DataError(
            f"{folder}: expected the same classes in train/ and test/, got other names: add or rename folders"
        )
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(class_names):
        files = _image_files(folder / split / name if has_splits else folder / name)
        if not has_splits:
            files = [path for path in files if _is_test(path.relative_to(folder)) == (split == "test")]
        paths += files
        labels += [label] * len(files)
    if not paths:
        raise DataError(f"{folder}: no {split} images: expected files like CLASS/photo.png in it")
    images_NHWC = _read(paths, side)
    title = f"{folder.name} {split}" if side is None else f"{folder.name}@{side} {split}"
    names = tuple(path.relative_to(folder).as_posix() for path in paths)
    return ImageSet(images_NHWC, np.array(labels, dtype=np.int64), class_names, title, names=names)


def _class_names(folder: Path) -> tuple[str, ...]:
    names = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")))
    if len(names) < 2:
        raise DataError(f"{folder}: expected a folder for each of at least 2 classes, got {list(names)}")
    return names


def _image_files(folder: Path) -> list[Path]:
    files = in_frame_order(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    images = [path for path in files if is_image(path)]
    if len(images) < len(files):
        _LOG.warning("%s: left out %d files that are not images", folder, len(files) - len(images))
    if not images:
        raise DataError(f"{folder}: expected images ({', '.join(IMAGE_SUFFIXES)}), found none")
    return images


def _is_test(name: Path) -> bool:
    return hashlib.sha256(name.as_posix().encode()).digest()[0] < 256 * _TEST_SHARE


def _read(paths: list[Path], side: int | None) -> npt.NDArray[np.uint8]:
    images: npt.NDArray[np.uint8] | None = None
    for index, path in enumerate(paths):
        pixels = read_image(path)
        if side is not None:
            pixels = resized(pixels, side)
        if images is None:
            images = np.empty((len(paths), *pixels.shape), np.uint8)
        if pixels.shape != images.shape[1:] or pixels.shape[0] != pixels.shape[1]:
            raise DataError(
                f"{path}: expected square images of one size, got {pixels.shape[1]}x{pixels.shape[0]}: "
                "put the side to fit them to behind the folder's name, as in photos@64"
            )
        images[index] = pixels
    assert images is not None
    return images
