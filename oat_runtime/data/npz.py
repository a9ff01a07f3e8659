"""NumPy archives of images: `images`, with or without `labels`, as `oat-train` writes `validation.npz`."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from oat_runtime.data.image_set import ImageSet
from oat_runtime.data.picked_images import in_parts
from oat_runtime.errors import DataError, one_line, quoted

_MOST = np.iinfo(np.int64).max
_SMALL, _MOST_RATIO = 64 * 2**20, 32
"""Bytes that any member may unpack to, and how many times its packed size a larger one may: pixels shrink to a half."""


def read_arrays(path: Path, names: tuple[str, ...], *, optional: tuple[str, ...] = ()) -> dict[str, npt.NDArray[Any]]:
    """Read arrays of an .npz by their names; nothing is unpickled.

    Raises:
        DataError: the file is missing or damaged, or lacks one of `names`.
    """
    wanted = f"expected an .npz with {' and '.join(f'`{name}`' for name in names)} at {one_line(path)}"
    try:
        # Opened here, since NumPy leaves the file open where it is no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            _check_sizes(archive.zip, wanted)
            if missing := [name for name in names if name not in archive.files]:
                raise DataError(f"{wanted}: it lacks `{missing[0]}`")
            # A member that is no array comes back as bytes.
            arrays = {name: np.asarray(archive[name]) for name in (*names, *(set(optional) & set(archive.files)))}
    except FileNotFoundError:
        raise DataError(f"{wanted}: no such file") from None
    except DataError:
        raise
    except Exception as error:  # NumPy and zipfile raise a dozen kinds, and NumPy advises to load it unsafely
        reason = "it is damaged, or not of plain numbers" if zipfile.is_zipfile(path) else "it is not an .npz file"
        raise DataError(f"{wanted}: {getattr(error, 'strerror', None) or reason}") from None
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise DataError(f"{one_line(path)}: expected `{name}` of numbers, got {quoted(str(array.dtype))}")
    return arrays


def whole_numbers(array: npt.NDArray[Any], what: str, *, num_axes: int = 1) -> npt.NDArray[np.int64]:
    """Return an array as int64.

    Raises:
        DataError: it is not of whole numbers that int64 holds, or has other axes.
    """
    if array.dtype.kind not in "iu" or array.ndim != num_axes or np.any(array > _MOST):
        raise DataError(f"{one_line(what)}: expected whole numbers along {num_axes} axes, got {_form(array)}")
    return array.astype(np.int64)


def _form(array: npt.NDArray[Any]) -> str:
    return f"{array.dtype} {array.shape}"


def _check_sizes(archive: zipfile.ZipFile, wanted: str) -> None:
    """Refuse a member that unpacks to far more than it takes in the file, before it is unpacked."""
    for member in archive.infolist():
        if member.file_size > max(_SMALL, _MOST_RATIO * member.compress_size):
            name, size, unpacked = one_line(member.filename), member.compress_size, member.file_size
            raise DataError(f"{wanted}: {name} unpacks from {size} to {unpacked} bytes")


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
    images_NHWC, labels_N = _checked(path, arrays["images"]), whole_numbers(arrays["labels"], f"{path}, `labels`")
    if len(labels_N) != len(images_NHWC):
        raise DataError(f"{path}: expected a label for each of {len(images_NHWC)} images, got {len(labels_N)}")
    return ImageSet(images_NHWC, labels_N, (), path.stem).first(limit)


def write_labelled_npz(file: IO[bytes], data: ImageSet) -> None:
    """Write `images` and `labels` of a set into an open .npz, a few images at a time."""
    header = {"descr": "|u1", "fortran_order": False, "shape": data.images_NHWC.shape}
    with zipfile.ZipFile(file, "w") as archive:
        with archive.open("images.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)
            for part_NHWC in in_parts(data.images_NHWC):
                member.write(part_NHWC.data)
        with archive.open("labels.npy", "w") as member:
            np.lib.format.write_array(member, data.labels_N, allow_pickle=False)


def _checked(path: Path, images: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise DataError(f"{path}: expected `images` of uint8 (N, H, W, 3), got {_form(images)}")
    return images
