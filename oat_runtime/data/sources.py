"""What a data set known by name is made of: where its files lie, who reads them, and how they are fetched."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from oat_runtime.data.image_set import ImageSet, Split, resized
from oat_runtime.errors import DataError


@dataclass(frozen=True, slots=True)
class Arrays:
    """What a reader gives back: uint8 RGB images, int64 labels, and groups where there are near copies."""

    images_NHWC: npt.NDArray[np.uint8]
    labels_N: npt.NDArray[np.int64]
    groups_N: npt.NDArray[np.int64] | None = None


Reader = Callable[[Path, Split, int | None], Arrays]
"""(folder, split, side) to images. A reader of image files fits them to `side`; all others may leave that be."""


@dataclass(frozen=True, slots=True)
class Location:
    """One form in which a data set may lie under the data root.

    Attributes:
        marker: path whose presence tells this form apart, relative to the root.
        folder: what the reader gets, relative to the root.
        read: the reader.
        num_images: how many images each split must have.
    """

    marker: str
    folder: str
    read: Reader
    num_images: Mapping[Split, int]


@dataclass(frozen=True, slots=True)
class Archive:
    """One official file: its address, its MD5, and where it goes under the root (`unpack` an archive, or as it is)."""

    url: str
    md5: str
    folder: str = "."
    unpack: bool = True

    @property
    def file_name(self) -> str:
        """Its last path component."""
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True, slots=True)
class Source:
    """A data set that is known by name."""

    title: str
    class_names: tuple[str, ...]
    locations: tuple[Location, ...]
    archives: tuple[Archive, ...]
    mirrors: bool = True
    side: int | None = None
    """Side in pixels that images of many sizes are brought to where no other is asked for."""


def data_root() -> Path:
    """Folder of the data sets: `$OAT_DATA`, else `../shared/data` beside the project, else the user's cache."""
    if "OAT_DATA" in os.environ:
        return Path(os.environ["OAT_DATA"])
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    return beside if beside.is_dir() else Path.home() / ".cache" / "oat" / "data"


def load_source(name: str, source: Source, split: Split, *, root: Path, download: bool, side: int | None) -> ImageSet:
    """Read one split of a known data set from the first location that is there, and check what comes.

    Raises:
        DataError: nothing there, or files that are damaged or incomplete.
    """
    location = _find(source, root)
    if location is None and download:
        for archive in source.archives:
            fetch(archive, root, source.title)
        location = _find(source, root)
    if location is None:
        raise DataError(
            f"no {source.title} under {root}: expected {' or '.join(at.marker for at in source.locations)}; "
            "set OAT_DATA to the folder that holds one of them, or pass --download"
        )
    arrays = location.read(root / location.folder, split, side or source.side)
    expected, num_classes = location.num_images[split], len(source.class_names)
    if len(arrays.images_NHWC) != expected or len(arrays.labels_N) != expected:
        raise DataError(
            f"{root / location.folder}: expected {expected} {split} images, got {len(arrays.images_NHWC)} and "
            f"{len(arrays.labels_N)} labels: the copy is incomplete"
        )
    if expected and not 0 <= arrays.labels_N.min() <= arrays.labels_N.max() < num_classes:
        raise DataError(
            f"{root / location.folder}: expected classes 0..{num_classes - 1}, got "
            f"{arrays.labels_N.min()}..{arrays.labels_N.max()}: the labels are damaged"
        )
    images_NHWC = arrays.images_NHWC
    if side is not None and images_NHWC.shape[1:3] != (side, side):
        images_NHWC = np.stack([resized(image, side) for image in images_NHWC])
    title = f"{name} {split}" if side is None else f"{name}@{side} {split}"
    return ImageSet(images_NHWC, arrays.labels_N, source.class_names, title, arrays.groups_N, source.mirrors)


def _find(source: Source, root: Path) -> Location | None:
    return next((location for location in source.locations if (root / location.marker).exists()), None)


def fetch(archive: Archive, root: Path, title: str) -> None:
    """Fetch one official file, checked against its MD5, and unpack it if it is an archive.

    Raises:
        DataError: it could not be fetched, or is not what it should be.
    """
    try:
        import pooch  # an extra: only downloads need it
    except ImportError as error:
        raise DataError("downloads need pooch: pip install 'oat-robot[training]'") from error
    folder = root / archive.folder
    unpack = pooch.Unzip if archive.file_name.endswith(".zip") else pooch.Untar
    try:
        pooch.retrieve(
            archive.url,
            known_hash=f"md5:{archive.md5}",
            path=folder,
            fname=archive.file_name,
            processor=unpack(extract_dir=".") if archive.unpack else None,
            progressbar=True,
        )
    except (OSError, ValueError) as error:
        raise DataError(f"{title} could not be downloaded ({error}): put it under {root} by hand") from error


def whole_file(path: Path, num_bytes: int) -> npt.NDArray[np.uint8]:
    """The bytes of a file that must have exactly this size.

    Raises:
        DataError: missing, or of another size.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing: unpack the official archive again")
    if path.stat().st_size != num_bytes:
        raise DataError(
            f"{path}: expected {num_bytes} bytes, got {path.stat().st_size}: the file is truncated or wrong"
        )
    return np.fromfile(path, dtype=np.uint8)
