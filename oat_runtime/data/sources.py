"""Describe the data sets that have names: where their files lie, which reader reads them, how they are fetched."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from oat_runtime.architecture import InputSpec, Resize
from oat_runtime.data.image_set import ImageSet, Split, is_by_class, mixed, titled
from oat_runtime.data.roots import data_roots
from oat_runtime.errors import DataError
from oat_runtime.extras import require
from oat_runtime.files import held
from oat_runtime.image import fit_frame

_PASSING = ".unpacked-"


@dataclass(frozen=True, slots=True)
class Contents:
    """The contents of a split, as a reader finds them. Images are decoded when they are asked for.

    Attributes:
        labels_N: int64, of all images.
        first_images: takes a number up to N and gives that many images from the first on, uint8 RGB (n, H, W, 3).
        groups_N: int64, where there are near copies; see `ImageSet`.
    """

    labels_N: npt.NDArray[np.int64]
    first_images: Callable[[int], npt.NDArray[np.uint8]]
    groups_N: npt.NDArray[np.int64] | None = None


Reader = Callable[[Path, Split, InputSpec | None], Contents]
"""(folder, split, spec) to contents. A reader of image files fits them to `spec`; all others may ignore it."""


@dataclass(frozen=True, slots=True)
class Location:
    """One form in which a data set may lie under a data root.

    Attributes:
        form: what its files are, for people.
        marker: path whose presence tells this form apart, relative to the root.
        folder: what the reader gets, relative to the root.
        read: the reader.
        num_images: how many images each split must have.
        files: what each split needs, relative to the root: of each file the places or names that it may have.
    """

    form: str
    marker: str
    folder: str
    read: Reader
    num_images: Mapping[Split, int]
    files: Mapping[Split, tuple[tuple[str, ...], ...]] = field(default_factory=dict)


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


@dataclass(frozen=True, slots=True)
class Found:
    """A data set that was found: the root that holds it, and in which form."""

    root: Path
    location: Location

    @property
    def folder(self) -> Path:
        """What the reader gets."""
        return self.root / self.location.folder

    def has_all_of(self, split: Split) -> bool:
        """Return whether no file of a split is missing, as after a download that was stopped."""
        files = self.location.files.get(split, ())
        return all(any((self.root / place).is_file() for place in places) for places in files)


def find_source(source: Source, root: Path | None = None) -> Found | None:
    """Look for a data set by the rule of `oat_runtime.data.roots`.

    Returns:
        Where it lies; None if no folder is named and neither usual folder holds it.

    Raises:
        DataError: `root` or `$OAT_DATA` names a folder that does not hold it.
    """
    roots = data_roots(root)
    found = _look(source, roots)
    if found is None and len(roots) == 1:
        raise _missing(source, roots)
    return found


def fetch_source(source: Source, root: Path | None = None, *, timeout_s: float = 30.0) -> Found:
    """Fetch the official files, checked against their MD5, and unpack what is an archive.

    Args:
        source: the data set.
        root: where to; None: `$OAT_DATA`, else the user's cache.
        timeout_s: how long a server may stay silent.

    Raises:
        DataError: a file could not be fetched, or is not what it should be.
        ConfigError: pooch is not installed.
    """
    to = data_roots(root)[-1]
    for archive in source.archives:
        _fetch(archive, to, source.title, timeout_s=timeout_s)
    found = _look(source, (to,))
    if found is None:
        raise _missing(source, (to,))
    return found


def load_source(
    name: str,
    source: Source,
    split: Split,
    *,
    root: Path | None,
    download: bool,
    spec: InputSpec | None,
    resize: Resize = "center_crop",
    limit: int | None = None,
) -> ImageSet:
    """Read one split of a known data set from where it is found, check what comes, and mix what lies class by class.

    With `download`, it is fetched where files of this split are missing.

    Raises:
        DataError: nothing there, or files that are damaged or incomplete.
    """
    roots = data_roots(root)
    found = _look(source, roots, split)
    if download and (found is None or not found.has_all_of(split)):
        found = fetch_source(source, root)
    if found is None:
        raise _missing(source, roots)
    fitted = spec
    if spec is None and source.side is not None:
        fitted = InputSpec(height=source.side, width=source.side, resize=resize)
    contents = found.location.read(found.folder, split, fitted)
    labels_N, expected = contents.labels_N, found.location.num_images[split]
    if len(labels_N) != expected:
        raise DataError(
            f"{found.folder}: expected {expected} {split} images, got {len(labels_N)} labels: the copy is incomplete"
        )
    num_classes = len(source.class_names)
    if expected and not 0 <= labels_N.min() <= labels_N.max() < num_classes:
        raise DataError(
            f"{found.folder}: expected classes 0..{num_classes - 1}, got {labels_N.min()}..{labels_N.max()}: "
            "the labels are damaged"
        )
    # What lies class by class is mixed as a whole, so that its beginning is the same whatever the limit.
    count = expected if limit is None or is_by_class(labels_N) else min(limit, expected)
    images_NHWC = contents.first_images(count)
    if len(images_NHWC) != count:
        raise DataError(
            f"{found.folder}: expected {count} {split} images, got {len(images_NHWC)}: the copy is incomplete"
        )
    if spec is not None and images_NHWC.shape[1:3] != (spec.height, spec.width):
        images_NHWC = np.stack([fit_frame(image, spec) for image in images_NHWC])
    groups_N = None if contents.groups_N is None else contents.groups_N[:count]
    title = titled(name, split, spec)
    data = ImageSet(images_NHWC, labels_N[:count], source.class_names, title, groups_N, source.mirrors)
    return data if count < expected else mixed(data).first(limit)


def _look(source: Source, roots: tuple[Path, ...], split: Split | None = None) -> Found | None:
    """Return the first place that holds the set, and rather one that has all of `split`."""
    places = (Found(root, location) for root in roots for location in source.locations)
    there = [found for found in places if (found.root / found.location.marker).exists()]
    return next((found for found in there if split is None or found.has_all_of(split)), there[0] if there else None)


def _missing(source: Source, roots: tuple[Path, ...]) -> DataError:
    return DataError(
        f"no {source.title} under {' or '.join(map(str, roots))}: expected "
        f"{' or '.join(at.marker for at in source.locations)} there: set OAT_DATA to the folder that holds it, or "
        "fetch the official files: --download of oat-train, oat-export and oat-evaluate"
    )


def _fetch(archive: Archive, root: Path, title: str, *, timeout_s: float) -> None:
    require("pooch", extra="data", by="a download")
    import pooch

    shows_progress = find_spec("tqdm") is not None
    try:
        pooch.retrieve(
            archive.url,
            known_hash=f"md5:{archive.md5}",
            path=root / archive.folder,
            fname=archive.file_name,
            downloader=pooch.HTTPDownloader(progressbar=shows_progress, timeout=timeout_s),
            processor=_unpack if archive.unpack else None,
        )
    except (OSError, ValueError) as error:
        raise DataError(f"{title} could not be downloaded ({error}): put it under {root} by hand") from error


def _unpack(file_name: str, action: str, _: object) -> None:
    """Unpack an archive as pooch's processors do, but move each file into its place whole, so that none is cut off."""
    import pooch

    unpack = pooch.Unzip if file_name.endswith(".zip") else pooch.Untar
    folder = Path(file_name).parent
    with held(folder, by="unpacking", waits=True):
        for left in folder.glob(f"{_PASSING}*"):  # whoever left it was killed: those that live wait for the lock
            shutil.rmtree(left, ignore_errors=True)  # another user's stays, and harms nobody
        with tempfile.TemporaryDirectory(prefix=_PASSING, dir=folder) as passing:
            names = unpack(extract_dir=passing)(file_name, action, None)  # an absolute path stands for itself
            for name in sorted(names, key=lambda name: name.endswith(".csv")):  # tables last: they name the others
                place = folder / os.path.relpath(name, passing)
                place.parent.mkdir(parents=True, exist_ok=True)
                os.replace(name, place)


def whole_file(path: Path, num_bytes: int) -> npt.NDArray[np.uint8]:
    """Return the bytes of a file that must have exactly this size.

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
