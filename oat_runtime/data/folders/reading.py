"""Read the pictures of a folder as one split of a data set: decoded once, near copies kept together."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt

from oat_runtime.data.folders.groups import find_groups, is_test
from oat_runtime.data.folders.layout import Entry, FolderIndex, index_folder
from oat_runtime.data.folders.left_out import some
from oat_runtime.data.folders.listing import PICTURES_NOT_READ
from oat_runtime.data.folders.near_copies import THUMBNAIL_SHAPE, thumbnail
from oat_runtime.data.image_files import read_image
from oat_runtime.data.image_set import ImageSet, Split, resized
from oat_runtime.errors import DataError
from oat_runtime.extras import require
from oat_runtime.text import plain

_LOG = logging.getLogger(__name__)
_NUM_BROKEN_NAMED = 20


def load_folder(folder: Path, split: Split, *, side: int | None, skip_broken: bool = False) -> ImageSet:
    """Read one split of a folder of pictures, class by class, classes in alphabetical and files in frame order.

    `oat_runtime.data.folders.layout` says which layouts there are, and `oat_runtime.data.folders.groups` which images
    are the test set if no folder says so.

    Args:
        folder: the folder.
        split: `train` or `test`.
        side: pixels that every image is fitted to (largest centred square); None: all images must have one size.
        skip_broken: leave out pictures that cannot be read, with a count, instead of refusing the folder.

    Returns:
        Training images hold those of a validation folder, marked in `validation_N`.

    Raises:
        DataError: what `index_folder` refuses, pictures that cannot be read, or sizes that differ.
        ConfigError: there are TIFF images, and Pillow is not installed to check them.
    """
    index = index_folder(folder)
    has_test = "test" in index.parts
    wanted = [entry for entry in index.entries if not has_test or (entry.part == "test") == (split == "test")]
    images_NHWC, thumbnails_NHWC, entries = _read(index, wanted, side, skip_broken=skip_broken)
    groups_N = find_groups(index, entries, thumbnails_NHWC)
    kept = np.arange(len(entries))
    if not has_test:
        kept = np.flatnonzero(is_test(index, entries, groups_N) == (split == "test"))
        for place, at in enumerate(kept):  # in place: there may not be memory for two
            images_NHWC[place] = images_NHWC[at]
        images_NHWC = images_NHWC[: len(kept)]
    entries, groups_N = [entries[at] for at in kept], groups_N[kept]
    title = f"{folder.name} {split}" if side is None else f"{folder.name}@{side} {split}"
    if not entries:
        raise DataError(f"{folder}: no {split} images: add pictures, or a folder {split}/ beside train/")
    data = ImageSet(
        images_NHWC,
        np.array([entry.label for entry in entries], dtype=np.int64),
        index.class_names,
        title,
        groups_N=groups_N if len(np.unique(groups_N)) < len(groups_N) else None,
        mirrors=False,  # an arrow to the left is none to the right
        names=tuple(entry.name for entry in entries),
        validation_N=(
            np.array([entry.part == "validation" for entry in entries])
            if split == "train" and "validation" in index.parts
            else None
        ),
    )
    _report(index, data, split)
    return data


def _read(
    index: FolderIndex, wanted: list[Entry], side: int | None, *, skip_broken: bool
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], list[Entry]]:
    """Decode each picture once: (images, thumbnails, entries) of those that can be read."""
    images: npt.NDArray[np.uint8] | None = None
    thumbnails = np.empty((len(wanted), *THUMBNAIL_SHAPE), np.uint8)
    entries: list[Entry] = []
    broken: dict[str, str] = {}
    for entry in wanted:
        try:
            pixels = _pixels(entry.path)
        except DataError as error:
            broken[entry.name] = str(error)
            continue
        thumbnails[len(entries)] = thumbnail(pixels)
        if side is not None:
            pixels = resized(pixels, side)
        if images is None:
            images = np.empty((len(wanted), *pixels.shape), np.uint8)
        if pixels.shape != images.shape[1:] or pixels.shape[0] != pixels.shape[1]:
            raise DataError(
                f"{entry.path}: expected square images of one size, got {pixels.shape[1]}x{pixels.shape[0]}: "
                "put the side to fit them to behind the folder's name, as in photos@64"
            )
        images[len(entries)] = pixels
        entries.append(entry)
    for reason in list(broken.values())[:_NUM_BROKEN_NAMED]:
        _LOG.log(logging.WARNING if skip_broken else logging.ERROR, "%s", plain(reason))
    if broken and not skip_broken:
        raise DataError(
            f"{index.root}: {len(broken)} of {len(wanted)} images cannot be read: replace or remove them, or "
            f"leave them out (oat-train --skip-broken): {some(list(broken), _NUM_BROKEN_NAMED)}"
        )
    for name in broken:
        index.left_out.add("broken image", name)
    gone = {(entry.label, entry.part) for entry in wanted} - {(entry.label, entry.part) for entry in entries}
    if gone or images is None:
        classes = [f"{index.class_names[label]} ({part})" for label, part in sorted(gone)]
        raise DataError(f"{index.root}: no image of {some(classes, 10)} can be read: replace them, or remove the class")
    return images[: len(entries)], thumbnails[: len(entries)], entries


def _pixels(path: Path) -> npt.NDArray[np.uint8]:
    if path.suffix.lower() in PICTURES_NOT_READ:
        raise DataError(f"{path} is a picture in a format that is not read ({path.suffix}): save it as PNG or JPEG")
    pixels = read_image(path)
    with path.open("rb") as file:
        is_tiff = file.read(4) in (b"II*\0", b"MM\0*")
    if is_tiff:
        _check_tiff(path)
    return pixels


def _check_tiff(path: Path) -> None:
    """Refuse a TIFF file with holes in compressed pixels. OpenCV fills them; Pillow does not, if it knows the kind."""
    require("PIL", extra="data", by="a folder with TIFF images")
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(path.read_bytes()), formats=("TIFF",)) as image:
            image.load()
    except UnidentifiedImageError:
        return  # floats of three channels and the like
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be decoded: {error}: replace or remove it") from error


def _report(index: FolderIndex, data: ImageSet, split: Split) -> None:
    """Say in one table what was read and what was left out."""
    of_class = [f"{name} {np.sum(data.labels_N == label)}" for label, name in enumerate(data.class_names)]
    rows = [f"{len(data):8d} read as {split}: {some(of_class, 50)}"]
    if data.groups_N is not None:
        rows.append(f"{len(np.unique(data.groups_N)):8d} groups: subfolders and near copies are not divided")
    if data.validation_N is not None:
        rows.append(f"{int(data.validation_N.sum()):8d} of them from the validation folder")
    if "test" not in index.parts:
        rows.append("         test images are about a fifth of each class, chosen by the hash of their names")
    rows += index.left_out.rows()
    level = logging.WARNING if index.left_out.names else logging.INFO
    _LOG.log(level, "%s:\n%s", data.name, "\n".join(rows))
