"""Labelled test images for the benchmark: an .npz, or CIFAR-10 as a lossless pack or in its official binary form."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from oat_runtime.errors import DataError

_TILE, _COLUMNS = 32, 50


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """Images with their classes.

    Attributes:
        images_NHWC: uint8 RGB.
        labels_N: int64.
        name: what they are, for the report.
    """

    images_NHWC: NDArray[np.uint8]
    labels_N: NDArray[np.int64]
    name: str

    def first(self, count: int) -> LabelledImages:
        """The first `count` images."""
        return LabelledImages(self.images_NHWC[:count], self.labels_N[:count], self.name)


def read_images(path: Path | None) -> LabelledImages:
    """Test images from `path`: an .npz with `images` and `labels`, or a folder that holds CIFAR-10.

    Args:
        path: None: `$OAT_DATA`, else `../shared/data` beside the project.

    Raises:
        DataError: there is no such data set, or it is damaged.
    """
    if path is None:
        path = Path(os.environ.get("OAT_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
    if path.suffix == ".npz":
        return _read_npz(path)
    if (path / "cifar10" / "labels.npz").is_file():
        return _read_pack(path / "cifar10")
    binary = path / "cifar-10-batches-bin" / "test_batch.bin"
    if binary.is_file():
        records = np.fromfile(binary, np.uint8).reshape(-1, 1 + 3 * _TILE * _TILE)
        images = records[:, 1:].reshape(-1, 3, _TILE, _TILE).transpose(0, 2, 3, 1)
        return LabelledImages(np.ascontiguousarray(images), records[:, 0].astype(np.int64), "cifar10 test")
    raise DataError(
        f"no test images at {path}: expected an .npz, cifar10/labels.npz or cifar-10-batches-bin/; "
        "set OAT_DATA, or pass --images"
    )


def _read_npz(path: Path) -> LabelledImages:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return LabelledImages(archive["images"], archive["labels"].astype(np.int64), path.stem)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"expected an .npz with `images` and `labels` at {path}: {error}") from error


def _read_pack(folder: Path) -> LabelledImages:
    with np.load(folder / "labels.npz", allow_pickle=False) as archive:
        labels_N = archive["y_test"].astype(np.int64)
    tiles = []
    for path in sorted(folder.glob("test_*.webp")):
        mosaic = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if mosaic is None:
            raise DataError(f"{path} cannot be decoded: copy the pack again")
        rgb = np.asarray(cv2.cvtColor(mosaic, cv2.COLOR_BGR2RGB), np.uint8)
        grid = rgb.reshape(rgb.shape[0] // _TILE, _TILE, _COLUMNS, _TILE, 3).transpose(0, 2, 1, 3, 4)
        tiles.append(grid.reshape(-1, _TILE, _TILE, 3))
    images_NHWC = np.concatenate(tiles) if tiles else np.empty((0, _TILE, _TILE, 3), np.uint8)
    if len(images_NHWC) < len(labels_N):
        raise DataError(f"{folder}: expected {len(labels_N)} test images, found {len(images_NHWC)}: a file is missing")
    return LabelledImages(images_NHWC[: len(labels_N)], labels_N, "cifar10 test")
