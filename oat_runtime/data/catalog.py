"""Load a data set by its name, or a folder by its path: `cifar10`, `stl10@64`, `photos@128x96`, `robocup@64`."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePath
from typing import get_args

from oat_runtime.architecture import InputSpec, Resize
from oat_runtime.data.boxes import BOX_SOURCES, BoxIndex, index_boxes, is_boxes, load_boxes, read_crops
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
"""Data sets of images that are known by name; `BOX_SOURCES` names those of frames with boxes."""

_LOG = logging.getLogger(__name__)
_SIDES = range(8, 1025)


def load_dataset(
    name_or_path: str,
    split: Split,
    *,
    root: Path | None = None,
    download: bool = False,
    limit: int | None = None,
    resize: Resize = "center_crop",
    skip_broken: bool = False,
) -> ImageSet:
    """Load one official split of a data set. Images stored class by class are shuffled, always in the same way.

    Args:
        name_or_path: a name in `SOURCES` or `BOX_SOURCES`, or the path of a folder, itself or below `root`: images by
            class (see `load_folder`), or frames with boxes, which are read as crops (see `load_boxes`). `@SIDE` at the
            end fits all images to SIDE × SIDE pixels, `@WIDTHxHEIGHT` to that many.
        split: `train` or `test`. Validation images come from `train`: see `split_validation`.
        root: folder that holds the data set; None: where `oat_runtime.data.roots` says. A folder of images that is
            not at its full path any more is looked for there by its name.
        download: fetch the official files, checked by their MD5, if they are not there.
        limit: read only so many images; they are the first ones of the whole set.
        resize: how images of another shape are fitted; see `InputSpec`. A network's own images and a robot's frames
            must be fitted alike.
        skip_broken: of a folder, leave out images that cannot be read, and say how many. Else they are refused.

    Raises:
        DataError: unknown, missing, damaged or incomplete.
    """
    if split not in get_args(Split):
        raise DataError(f"split must be one of {', '.join(get_args(Split))}, got {split!r}")
    if limit is not None and limit < 1:
        raise DataError(f"limit must be at least 1, got {limit}")
    name, size = parse_name(name_or_path)
    spec = None if size is None else InputSpec(height=size[0], width=size[1], resize=resize)
    if name in SOURCES or name in BOX_SOURCES:
        _warn_of_another(name, root)
    if name in SOURCES:
        return load_source(
            name, SOURCES[name], split, root=root, download=download, spec=spec, resize=resize, limit=limit
        )
    if name in BOX_SOURCES:
        source = BOX_SOURCES[name]
        index = source.index(data_roots(root))
        return read_crops(index, split, name=name, spec=spec, mirrors=source.mirrors).first(limit)
    folder = _folder(name, root, {*SOURCES, *BOX_SOURCES}, "images by class or of frames with boxes")
    if is_boxes(folder):
        return load_boxes(folder, split, spec=spec, skip_broken=skip_broken).first(limit)
    return mixed(load_folder(folder, split, spec=spec, skip_broken=skip_broken)).first(limit)


def load_frames(name_or_path: str, *, root: Path | None = None, skip_broken: bool = False) -> BoxIndex:
    """Return frames with their boxes, session by session in their order of time, to play what a robot saw.

    `oat_runtime.data.boxes.frames_of_split` chooses those of one split.

    Args:
        name_or_path: a name in `BOX_SOURCES`, or the path of a folder of frames with boxes, itself or below `root`.
            `@SIDE` at the end says nothing here.
        root: as in `load_dataset`.
        skip_broken: of a folder, leave text files that are wrong out, with their images; the index counts them.

    Raises:
        DataError: unknown, missing or damaged, or no frames with boxes.
    """
    name, _ = parse_name(name_or_path)
    if name in BOX_SOURCES:
        return BOX_SOURCES[name].index(data_roots(root))
    if name in SOURCES:
        raise DataError(
            f"{name} holds images without boxes: expected frames with boxes, as {', '.join(sorted(BOX_SOURCES))} or a "
            "folder of your own has them"
        )
    index = index_boxes(_folder(name, root, {*BOX_SOURCES}, "frames with boxes"), skip_broken=skip_broken)
    # A folder may hold images and sessions below it: by their names alone, these would come between them.
    sessions = {session: at for at, session in enumerate(dict.fromkeys(frame.session for frame in index.frames))}
    return replace(index, frames=tuple(sorted(index.frames, key=lambda frame: sessions[frame.session])))


def _warn_of_another(name: str, root: Path | None) -> None:
    """Say that a name that is known does not mean the folder of that name here, unless that is where data sets lie."""
    here = Path(name).resolve()
    if here.is_dir() and here.parent not in {place.resolve() for place in data_roots(root)}:
        _LOG.warning("%s is a data set that is known by name; the folder %s is not read: ./%s names it",
                     name, here, name)  # fmt: skip


def _folder(name: str, root: Path | None, names: Iterable[str], what: str) -> Path:
    roots = data_roots(root)
    full = expanded(name)
    for folder in (full, *(place / (full.name if full.is_absolute() else name) for place in roots)):
        if folder.is_dir():
            return folder
    where = " or ".join(map(str, roots))
    if full.is_absolute():
        raise DataError(f"no folder {full}, and none called {full.name} under {where}: check the path, or set "
                        "OAT_DATA to the folder that holds it now")  # fmt: skip
    raise DataError(
        f"unknown data set {name!r}: expected one of {', '.join(sorted(names))}, or a folder of {what}, here or under "
        f"{where}"
    )


def lasting_name(name_or_path: str) -> str:
    """Return the name that means the same from every folder: that of a folder of images here becomes its full path."""
    name, _ = parse_name(name_or_path)
    if name in SOURCES or name in BOX_SOURCES or not expanded(name).is_dir():
        return name_or_path
    return str(expanded(name).resolve()) + name_or_path.removeprefix(name)


def short_name(name_or_path: str) -> str:
    """Return the name of a data set for people: of a folder of images without where it lies."""
    return PurePath(name_or_path).name


def parse_name(name_or_path: str) -> tuple[str, tuple[int, int] | None]:
    """Split `NAME@SIDE` or `NAME@WIDTHxHEIGHT` into the name and (height, width) in pixels; None if it asks for none.

    Raises:
        DataError: a side is not a sensible number.
    """
    match = re.fullmatch(r"(.+)@([0-9]{1,4})(?:x([0-9]{1,4}))?", name_or_path)
    if match and expanded(name_or_path).is_dir() and not expanded(match[1]).is_dir():
        return name_or_path, None  # a folder that is called so, as in scans@2024
    if match is None:
        if re.search(r"@[0-9][^/@]*$", name_or_path) and not expanded(name_or_path).exists():
            raise DataError(f"a size is @SIDE or @WIDTHxHEIGHT in pixels, such as @64 or @128x96, got {name_or_path!r}")
        return name_or_path, None
    width, height = int(match[2]), int(match[3] or match[2])
    if width not in _SIDES or height not in _SIDES:
        raise DataError(f"a side must be {_SIDES.start} to {_SIDES.stop - 1} pixels, got {name_or_path!r}")
    return match[1], (height, width)
