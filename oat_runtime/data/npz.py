"""NumPy archives of images: `images`, with or without `labels`, as `oat-train` writes `validation.npz`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from oat_runtime.data.image_set import ImageSet
from oat_runtime.errors import DataError

_MOST = np.iinfo(np.int64).max


def read_arrays(path: Path, names: tuple[str, ...], *, optional: tuple[str, ...] = ()) -> dict[str, npt.NDArray[Any]]:
    """Read arrays of an .npz by their names; nothing is unpickled.

    Raises:
        DataError: the file is missing or damaged, or lacks one of `names`.
    """
    try:
        # Opened here, since NumPy leaves the file open where it is no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            # A member that is no array comes back as bytes.
            return {name: np.asarray(archive[name]) for name in (*names, *(set(optional) & set(archive.files)))}
    except Exception as error:  # NumPy and zipfile raise a dozen kinds on a damaged file
        wanted = " and ".join(f"`{name}`" for name in names)
        raise DataError(f"expected an .npz with {wanted} at {path}: {error!r}") from error


def read_images_npz(path: Path, *, limit: int | None = None) -> npt.NDArray[np.uint8]:
    """Read `images` (N, H, W, 3), uint8 RGB, of an .npz, at most the first `limit`.

    Raises:
        DataError: no such file, or other contents.
    """
    return _checked(path, read_arrays(path, ("images",))["images"])[:limit]


def read_labelled_npz(path: Path, *, limit: int | None = None) -> ImageSet:
    """Read `images` (N, H, W, 3), uint8 RGB, and `labels` (N,) of an .npz, at most the first `limit`.

    Returns:
        A set under the file's name, without names of its classes, which such a file does not tell.

    Raises:
        DataError: no such file, or other contents.
    """
    arrays = read_arrays(path, ("images", "labels"))
    images_NHWC, labels_N = _checked(path, arrays["images"]), arrays["labels"]
    if labels_N.shape != images_NHWC.shape[:1] or labels_N.dtype.kind not in "iu" or np.any(labels_N > _MOST):
        raise DataError(
            f"{path}: expected a whole number as the label of each of {len(images_NHWC)} images, got {labels_N.dtype} "
            f"of shape {labels_N.shape}"
        )
    return ImageSet(images_NHWC, labels_N.astype(np.int64), (), path.stem).first(limit)


def _checked(path: Path, images: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise DataError(f"{path}: expected `images` of uint8 (N, H, W, 3), got {images.dtype} {images.shape}")
    return images
