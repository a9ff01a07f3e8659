"""Load a data set by its name, or a folder of images by its path: `cifar10`, `stl10@64`, `photos@96`."""

from __future__ import annotations

import re
from pathlib import Path, PurePath
from typing import get_args

from oat_runtime.data.cifar import CIFAR10, CIFAR100
from oat_runtime.data.fashion_mnist import FASHION_MNIST
from oat_runtime.data.folders import load_folder
from oat_runtime.data.gtsrb import GTSRB
from oat_runtime.data.image_set import ImageSet, Split, mixed
from oat_runtime.data.roots import data_roots
from oat_runtime.data.sources import Source, load_source
from oat_runtime.data.stl10 import STL10
from oat_runtime.data.svhn import SVHN
from oat_runtime.errors import DataError
from oat_runtime.files import expanded

SOURCES: dict[str, Source] = {
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
    "fashion-mnist": FASHION_MNIST,
    "gtsrb": GTSRB,
    "stl10": STL10,
    "svhn": SVHN,
}
"""Data sets that are known by name."""

_SIDES = range(8, 1025)


def load_dataset(
    name_or_path: str,
    split: Split,
    *,
    root: Path | None = None,
    download: bool = False,
    limit: int | None = None,
    skip_broken: bool = False,
) -> ImageSet:
    """Load one official split of a data set. Images stored class by class are shuffled, always in the same way.

    Args:
        name_or_path: a name in `SOURCES`, or the path of a folder of images by class (see `load_folder`), itself or
            below `root`. `@SIDE` at the end fits all images to SIDE × SIDE pixels.
        split: `train` or `test`. Validation images come from `train`: see `split_validation`.
        root: folder that holds the data set; None: where `oat_runtime.data.roots` says. A folder of images that is
            not at its full path any more is looked for there by its name.
        download: fetch the official files, checked by their MD5, if they are not there.
        limit: read only so many images; they are the first ones of the whole set.
        skip_broken: of a folder, leave out images that cannot be read, and say how many. Else they are refused.

    Raises:
        DataError: unknown, missing, damaged or incomplete.
    """
    if split not in get_args(Split):
        raise DataError(f"split must be one of {', '.join(get_args(Split))}, got {split!r}")
    if limit is not None and limit < 1:
        raise DataError(f"limit must be at least 1, got {limit}")
    name, side = parse_name(name_or_path)
    if name in SOURCES:
        return load_source(name, SOURCES[name], split, root=root, download=download, side=side, limit=limit)
    roots = data_roots(root)
    full = expanded(name)
    for folder in (full, *(place / (full.name if full.is_absolute() else name) for place in roots)):
        if folder.is_dir():
            return mixed(load_folder(folder, split, side=side, skip_broken=skip_broken)).first(limit)
    where = " or ".join(map(str, roots))
    if full.is_absolute():
        raise DataError(f"no folder {full}, and none called {full.name} under {where}: bring it back, or set OAT_DATA "
                        "to the folder that holds it now")  # fmt: skip
    raise DataError(
        f"unknown data set {name!r}: expected one of {', '.join(sorted(SOURCES))}, or a folder of images by class, "
        f"here or under {where}"
    )


def lasting_name(name_or_path: str) -> str:
    """Return the name that means the same from every folder: that of a folder of images here becomes its full path."""
    name, side = parse_name(name_or_path)
    if name in SOURCES or not expanded(name).is_dir():
        return name_or_path
    full = str(expanded(name).resolve())
    return full if side is None else f"{full}@{side}"


def short_name(name_or_path: str) -> str:
    """Return the name of a data set for people: of a folder of images without where it lies."""
    return PurePath(name_or_path).name


def parse_name(name_or_path: str) -> tuple[str, int | None]:
    """Split `NAME@SIDE` into the name and the side in pixels (None where none is asked for).

    Raises:
        DataError: the side is not a sensible number.
    """
    match = re.fullmatch(r"(.+)@([0-9]{1,4})", name_or_path)
    if match is None:
        return name_or_path, None
    if int(match[2]) not in _SIDES:
        raise DataError(f"a side must be {_SIDES.start} to {_SIDES.stop - 1} pixels, got {name_or_path!r}")
    return match[1], int(match[2])
