"""Labelled image sets as uint8 arrays: readers, the validation split, and augmentation on the device."""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from oat_runtime.errors import DataError

Split = Literal["train", "test"]

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_ARCHIVE_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
_BINARY_FOLDER = "cifar-10-batches-bin"
_BINARY_FILES: dict[Split, tuple[str, ...]] = {
    "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    "test": ("test_batch.bin",),
}
_NUM_IMAGES: dict[Split, int] = {"train": 50_000, "test": 10_000}
_TILE, _COLUMNS = 32, 50


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Labelled images in their official order.

    Attributes:
        images_NHWC: uint8 RGB.
        labels_N: int64 class indices.
        class_names: one name a class.
        name: what it is, as in `cifar10 test`.
    """

    images_NHWC: npt.NDArray[np.uint8]
    labels_N: npt.NDArray[np.int64]
    class_names: tuple[str, ...]
    name: str

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels_N)

    def subset(self, indices: npt.NDArray[np.int64], name: str) -> ImageSet:
        """The images at `indices`, in that order, under another name."""
        return ImageSet(self.images_NHWC[indices], self.labels_N[indices], self.class_names, name)


def data_root() -> Path:
    """Folder of the data sets: `$OAT_DATA`, else `../shared/data` beside the project, else the user's cache."""
    if "OAT_DATA" in os.environ:
        return Path(os.environ["OAT_DATA"])
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return beside if beside.is_dir() else Path.home() / ".cache" / "oat" / "data"


def load_cifar10(split: Split, *, root: Path | None = None, download: bool = False) -> ImageSet:
    """CIFAR-10 (Krizhevsky 2009) from a lossless pack or from the official binary files, in the official order.

    Args:
        split: `train` (50,000 images) or `test` (10,000).
        root: folder that holds `cifar10/` (a pack) or `cifar-10-batches-bin/`; `data_root()` by default.
        download: fetch the official archive into `root`, checked by its MD5, where neither is there.

    Raises:
        DataError: nothing there, or files that are damaged.
    """
    root = root or data_root()
    if (root / "cifar10" / "labels.npz").is_file():
        images, labels = _read_pack(root / "cifar10", split)
    elif (root / _BINARY_FOLDER).is_dir():
        images, labels = _read_cifar10_binary(root / _BINARY_FOLDER, split)
    elif download:
        _download_cifar10(root)
        images, labels = _read_cifar10_binary(root / _BINARY_FOLDER, split)
    else:
        raise DataError(
            f"no CIFAR-10 under {root}: expected cifar10/labels.npz or {_BINARY_FOLDER}/; "
            "set OAT_DATA to the folder that holds one of them, or pass --download"
        )
    if len(labels) != _NUM_IMAGES[split] or labels.min() < 0 or labels.max() > 9:
        raise DataError(f"{root}: expected {_NUM_IMAGES[split]} {split} images of classes 0..9, got {len(labels)}")
    return ImageSet(images, labels, CIFAR10_CLASSES, f"cifar10 {split}")


def _read_pack(folder: Path, split: Split) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Read lossless WebP mosaics of 50 tiles a row, and their labels."""
    from PIL import Image  # an extra: only packs need it

    try:
        with (folder / "labels.npz").open("rb") as file, np.load(file, allow_pickle=False) as archive:
            labels = archive[f"y_{split}"].astype(np.int64)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{folder / 'labels.npz'} cannot be read ({error}): copy the pack again") from error
    tiles = []
    for path in sorted(folder.glob(f"{split}_*.webp")):
        try:
            mosaic = np.asarray(Image.open(path).convert("RGB"))
        except OSError as error:
            raise DataError(f"{path} cannot be decoded ({error}): copy the pack again") from error
        if mosaic.shape[0] % _TILE or mosaic.shape[1] != _COLUMNS * _TILE:
            raise DataError(f"{path}: expected {_COLUMNS} tiles of {_TILE}x{_TILE} a row, got shape {mosaic.shape}")
        grid = mosaic.reshape(mosaic.shape[0] // _TILE, _TILE, _COLUMNS, _TILE, 3).transpose(0, 2, 1, 3, 4)
        tiles.append(grid.reshape(-1, _TILE, _TILE, 3))
    found = sum(len(tile) for tile in tiles)
    if found < len(labels):
        raise DataError(f"{folder}: expected {len(labels)} {split} images, found {found}: a mosaic is missing")
    return np.concatenate(tiles)[: len(labels)], labels


def _read_cifar10_binary(folder: Path, split: Split) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Read records of one label byte and 3072 pixel bytes (channel, row, column)."""
    records = []
    for name in _BINARY_FILES[split]:
        path = folder / name
        if not path.is_file():
            raise DataError(f"{path} is missing: unpack the official CIFAR-10 binary archive again")
        data = np.fromfile(path, dtype=np.uint8)
        if data.size != 10_000 * 3073:
            raise DataError(f"{path}: expected {10_000 * 3073} bytes, got {data.size}: the file is truncated or wrong")
        records.append(data.reshape(10_000, 3073))
    table = np.concatenate(records)
    images_NHWC = table[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images_NHWC), table[:, 0].astype(np.int64)


def _download_cifar10(root: Path) -> None:
    """Fetch and unpack the official archive, checked against its MD5."""
    import pooch  # an extra: only downloads need it

    try:
        pooch.retrieve(
            CIFAR10_URL,
            known_hash=f"md5:{CIFAR10_ARCHIVE_MD5}",
            path=root,
            fname="cifar-10-binary.tar.gz",
            processor=pooch.Untar(extract_dir="."),
            progressbar=True,
        )
    except (OSError, ValueError) as error:
        raise DataError(f"CIFAR-10 could not be downloaded ({error}): put it under {root} by hand") from error


def split_validation(data: ImageSet, num_validation: int, *, seed: int) -> tuple[ImageSet, ImageSet]:
    """(training part, validation part), disjoint, chosen by `seed`, each in the order of the set.

    Raises:
        DataError: fewer images than `num_validation` asks for.
    """
    if num_validation >= len(data):
        raise DataError(f"{data.name}: cannot hold out {num_validation} of {len(data)} images")
    order = np.random.default_rng(seed).permutation(len(data))
    held_out, kept = np.sort(order[:num_validation]), np.sort(order[num_validation:])
    return data.subset(kept, f"{data.name} less validation"), data.subset(held_out, f"{data.name} validation")


def to_unit(images_NHWC: Tensor) -> Tensor:
    """uint8 (N, H, W, 3) to float32 (N, 3, H, W) in [0, 1]."""
    return images_NHWC.permute(0, 3, 1, 2).float() / 255.0


def augment(images_NHWC: Tensor, *, padding: int, generator: torch.Generator) -> Tensor:
    """Random crop from a zero-padded image and random flip, one draw a sample; uint8 (N, H, W, C) in and out."""
    num, height, width, _ = images_NHWC.shape
    device = images_NHWC.device
    padded = torch.nn.functional.pad(images_NHWC, (0, 0, padding, padding, padding, padding))
    offsets_2N = torch.randint(2 * padding + 1, (2, num), generator=generator).to(device)
    flip_N = (torch.rand(num, generator=generator) < 0.5).to(device)
    rows_NH = offsets_2N[0][:, None] + torch.arange(height, device=device)
    columns = torch.arange(width, device=device)
    columns_NW = offsets_2N[1][:, None] + torch.where(flip_N[:, None], columns.flip(0), columns)
    return padded[torch.arange(num, device=device)[:, None, None], rows_NH[:, :, None], columns_NW[:, None, :]]


def fingerprint(data: ImageSet) -> str:
    """SHA-256 over pixels and labels, to name the exact images a figure was counted on."""
    digest = hashlib.sha256(np.ascontiguousarray(data.images_NHWC).tobytes())
    digest.update(data.labels_N.astype("<i8").tobytes())
    return digest.hexdigest()
