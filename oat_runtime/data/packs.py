"""Packs: lossless WebP mosaics of 32×32 tiles, 50 a row, with labels (and tracks) in one NumPy archive."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from oat_runtime.data.image_set import Split
from oat_runtime.data.sources import Arrays
from oat_runtime.errors import DataError

_TILE, _COLUMNS = 32, 50


def read_pack(folder: Path, split: Split, side: int | None) -> Arrays:
    """Read a pack; images whose labels come with `track_SPLIT` are grouped by class and track.

    Raises:
        DataError: a file is missing or damaged.
    """
    from PIL import Image  # an extra: only image files need it

    try:
        with (folder / "labels.npz").open("rb") as file, np.load(file, allow_pickle=False) as archive:
            labels_N = archive[f"y_{split}"].astype(np.int64)
            tracks = archive[f"track_{split}"] if f"track_{split}" in archive.files else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{folder / 'labels.npz'} cannot be read ({error}): copy the pack again") from error
    tiles = []
    for path in sorted(folder.glob(f"{split}_*.webp")):
        try:
            with Image.open(path) as image:
                mosaic = np.asarray(image.convert("RGB"))
        except OSError as error:
            raise DataError(f"{path} cannot be decoded ({error}): copy the pack again") from error
        if mosaic.shape[0] % _TILE or mosaic.shape[1] != _COLUMNS * _TILE:
            raise DataError(f"{path}: expected {_COLUMNS} tiles of {_TILE}x{_TILE} a row, got shape {mosaic.shape}")
        grid = mosaic.reshape(mosaic.shape[0] // _TILE, _TILE, _COLUMNS, _TILE, 3).transpose(0, 2, 1, 3, 4)
        tiles.append(grid.reshape(-1, _TILE, _TILE, 3))
    found = sum(len(tile) for tile in tiles)
    if found < len(labels_N):
        raise DataError(f"{folder}: expected {len(labels_N)} {split} images, found {found}: a mosaic is missing")
    groups_N = None
    if tracks is not None:
        groups_N = track_groups(labels_N, tracks[:, 0].astype(np.int64))
    return Arrays(np.concatenate(tiles)[: len(labels_N)], labels_N, groups_N)


def track_groups(labels_N: npt.NDArray[np.int64], tracks_N: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """One number for each (class, track): tracks are counted within a class."""
    return labels_N * 2**16 + tracks_N
