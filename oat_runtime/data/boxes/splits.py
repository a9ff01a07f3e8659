"""Tell the splits of frames with boxes: by paths in `data.yaml`, folders called train, val and test, or lists."""

from __future__ import annotations

from pathlib import Path

from oat_runtime.data.boxes.description import Description, text_lines
from oat_runtime.data.folders.layout import PARTS, Part, refuse_like_splits
from oat_runtime.data.folders.left_out import LeftOut
from oat_runtime.data.image_files import IMAGE_SUFFIXES
from oat_runtime.errors import DataError, quoted
from oat_runtime.text import some

_MOST_LIST_BYTES = 2**26
"""Of a text file that lists the images of a split."""


def splits_of(root: Path, images: list[Path], description: Description, left_out: LeftOut) -> dict[Path, Part]:
    """Return the split of each image. Images that `data.yaml` or the lists put into none are left out.

    Raises:
        DataError: an image of two splits, a path that leads nowhere or out of the folder, images outside the splits
            where folders name them, folders whose names are nearly those of splits, or splits without `train`.
    """
    names = sorted({name for image in images for name in image.relative_to(root).parts[:-1]})
    are_splits = any(name.lower() in PARTS for name in names)
    if paths := description.splits or ({} if are_splits else _lists(root)):
        parts = _by_paths(root, images, description.base, paths, left_out)
    else:
        parts = _by_folders(root, images)
        if not are_splits:
            refuse_like_splits(root, names)
    if parts and "train" not in parts.values():
        raise DataError(f"{root}: {some(sorted(set(parts.values())))} without train: expected training images too")
    return parts


def _by_folders(root: Path, images: list[Path]) -> dict[Path, Part]:
    parts: dict[Path, Part] = {}
    without: list[str] = []
    for image in images:
        folders = image.relative_to(root).parts[:-1]
        named = {PARTS[name.lower()] for name in folders if name.lower() in PARTS}
        if len(named) > 1:
            raise DataError(f"{image}: its folders name the splits {some(sorted(named))}: expected one of them")
        if not named:
            without.append("/".join((*folders[:1], image.name)))
        parts[image] = named.pop() if named else "train"
    if without and len(without) < len(images):
        raise DataError(
            f"{root}: {some(without)} {'is' if len(without) == 1 else 'are'} in no folder of a split, others are: "
            "move them into train/, val/ or test/, or rename the folders that are called so"
        )
    return parts


def _lists(root: Path) -> dict[Part, tuple[str, ...]]:
    """Text files in the folder that list the images of a split, as Darknet and CVAT write them beside `obj.names`."""
    lists: dict[Part, tuple[str, ...]] = {}
    for file in sorted(root.glob("*.[tT][xX][tT]")):
        part = PARTS.get(file.stem.lower())
        if part and next(iter(text_lines(file, _MOST_LIST_BYTES)), "").lower().endswith(IMAGE_SUFFIXES):
            lists[part] = (*lists.get(part, ()), file.name)
    return lists


def _by_paths(
    root: Path, images: list[Path], base: str, splits: dict[Part, tuple[str, ...]], left_out: LeftOut
) -> dict[Path, Part]:
    parts: dict[Path, Part] = {}
    known = set(images)
    for part, paths in splits.items():
        for named in paths:
            place = _place(root, base, named)
            listed = _listed(root, place, known) if place.is_file() else {p for p in images if place in p.parents}
            if not listed:
                raise DataError(f"{root}: {quoted(named)}, the {part} split, names no image: correct it")
            for image in sorted(listed):
                if parts.setdefault(image, part) != part:
                    raise DataError(
                        f"{root}: {image.relative_to(root)} is put into two splits, {parts[image]} and {part}: "
                        "leave one of them out, or give it images of its own"
                    )
    for image in images:
        if image not in parts:
            left_out.add("image in no split", image.relative_to(root).as_posix())
    return parts


def _place(root: Path, base: str, named: str) -> Path:
    """A path of `data.yaml` in the folder: below its `path`, below the folder itself, or without `../` before it."""
    true_root = root.resolve()
    for tried in (root / base / named, root / named, root / named.removeprefix("../")):
        try:
            place = tried.resolve()
            if place.exists() and (place == true_root or true_root in place.parents):
                return root / place.relative_to(true_root)
        except (OSError, ValueError):  # no name of a file
            continue
    raise DataError(f"{root}: data.yaml names {quoted(named)}, which is not in this folder: correct the path")


def _listed(root: Path, file: Path, known: set[Path]) -> set[Path]:
    """Images that a text file lists, one a line, relative to itself or to the folder, which Darknet calls data/."""
    listed = set()
    for number, line in enumerate(text_lines(file, _MOST_LIST_BYTES), 1):
        places = (file.parent / line, root / line, root / line.removeprefix("data/"))
        image = next((place for place in places if place in known), None)
        if line and image is None:
            raise DataError(f"{file}:{number}: expected an image in {root}, got {quoted(line)}: correct the line")
        if image is not None:
            listed.add(image)
    return listed
