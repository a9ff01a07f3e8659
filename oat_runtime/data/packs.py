"""Read packs: lossless WebP mosaics of 32×32 tiles, 50 a row, with labels (and tracks) in one NumPy archive.

A mosaic is named after its first image, as in `test_02500.webp`, so a part of a pack can be copied and read alone.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from oat_runtime.architecture import InputSpec
from oat_runtime.data.image_files import read_image
from oat_runtime.data.image_set import Split
from oat_runtime.data.npz import read_arrays, whole_numbers
from oat_runtime.data.sources import Contents
from oat_runtime.errors import DataError

_TILE, _COLUMNS = 32, 50


def read_pack(folder: Path, split: Split, spec: InputSpec | None) -> Contents:
    """Read a pack; images whose labels come with `track_SPLIT` are grouped by class and track.

    Raises:
        DataError: a file is missing or damaged.
    """
    arrays = read_arrays(folder / "labels.npz", (f"y_{split}",), optional=(f"track_{split}",))
    labels_N = whole_numbers(arrays[f"y_{split}"], f"{folder / 'labels.npz'}, y_{split}")
    groups_N = None
    if (tracks := arrays.get(f"track_{split}")) is not None:
        tracks_NT = whole_numbers(tracks, f"{folder / 'labels.npz'}, track_{split}", num_axes=2)
        if len(tracks_NT) != len(labels_N) or not tracks_NT.shape[1]:
            raise DataError(f"{folder / 'labels.npz'}: expected a track for each of {len(labels_N)} labels")
        groups_N = track_groups(labels_N, tracks_NT[:, 0])
    return Contents(labels_N, lambda count: _tiles(folder, split, count), groups_N)


def _tiles(folder: Path, split: Split, count: int) -> npt.NDArray[np.uint8]:
    """Read as many mosaics as hold the first `count` images."""
    tiles: list[npt.NDArray[np.uint8]] = []
    found = 0
    for path in sorted(folder.glob(f"{split}_*.webp")):
        if path.stem != f"{split}_{found:05d}":
            break
        mosaic = read_image(path, remedy="copy the pack again")
        if mosaic.shape[0] % _TILE or mosaic.shape[1] != _COLUMNS * _TILE:
            raise DataError(f"{path}: expected {_COLUMNS} tiles of {_TILE}x{_TILE} a row, got shape {mosaic.shape}")
        grid = mosaic.reshape(mosaic.shape[0] // _TILE, _TILE, _COLUMNS, _TILE, 3).transpose(0, 2, 1, 3, 4)
        tiles.append(grid.reshape(-1, _TILE, _TILE, 3))
        found += len(tiles[-1])
        if found >= count:
            return np.concatenate(tiles)[:count]
    raise DataError(f"{folder}: expected {count} {split} images, found {found}: {split}_{found:05d}.webp is missing")


def track_groups(labels_N: npt.NDArray[np.int64], tracks_N: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return one number for each (class, track): tracks are counted within a class."""
    return labels_N * 2**16 + tracks_N
