"""Read the pictures of a folder as one split of a data set: decoded once, near copies kept together."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt

from oat_runtime.architecture import InputSpec
from oat_runtime.data.folders.decode_cache import DecodedPictures, decoded
from oat_runtime.data.folders.doubts import (
    warn_of_black_pictures,
    warn_of_like_names,
    warn_of_small_pictures,
    warn_of_two_labels,
)
from oat_runtime.data.folders.groups import find_groups, is_test
from oat_runtime.data.folders.layout import Entry, FolderIndex, index_folder
from oat_runtime.data.folders.left_out import refuse_or_leave_out
from oat_runtime.data.folders.pictures import Picture
from oat_runtime.data.image_set import ImageSet, Split, titled
from oat_runtime.data.picked_images import PickedImages
from oat_runtime.errors import DataError
from oat_runtime.text import some

_LOG = logging.getLogger(__name__)


def load_folder(folder: Path, split: Split, *, spec: InputSpec | None, skip_broken: bool = False) -> ImageSet:
    """Read one split of a folder of pictures, class by class, classes in alphabetical and files in frame order.

    `oat_runtime.data.folders.layout` says which layouts there are, and `oat_runtime.data.folders.groups` which images
    are the test set if no folder says so.

    Args:
        folder: the folder.
        split: `train` or `test`.
        spec: what every image is fitted to; None: all images must have one size.
        skip_broken: leave out pictures that cannot be read, with a count, instead of refusing the folder.

    Returns:
        Images that stay in the cache's file. Training images hold those of a validation folder, marked in
        `validation_N`.

    Raises:
        DataError: what `index_folder` refuses, pictures that cannot be read, or sizes that differ.
        ConfigError: there are TIFF images, and Pillow is not installed to check them.
    """
    index = index_folder(folder)
    has_test = "test" in index.parts
    wanted = [entry for entry in index.entries if not has_test or (entry.part == "test") == (split == "test")]
    found, entries, places = _read(index, wanted, spec, split if has_test else "all", skip_broken=skip_broken)
    all_entries, thumbnails_NHWC = entries, found.thumbnails_NHWC[places]
    if has_test and split == "train":  # those of the test folder are looked at too, for copies
        tests = [entry for entry in index.entries if entry.part == "test"]
        beside = decoded(index.root, _pictures(index, tests), spec, part="test")
        at_M = [at for at, entry in enumerate(tests) if entry.name not in beside.broken]
        all_entries = [*entries, *(tests[at] for at in at_M)]
        thumbnails_NHWC = np.concatenate((thumbnails_NHWC, beside.thumbnails_NHWC[at_M]))
    warn_of_like_names(folder, index.class_names)
    warn_of_black_pictures(folder, thumbnails_NHWC)
    warn_of_small_pictures(folder, found.small_N[places])
    warn_of_two_labels(index, all_entries, thumbnails_NHWC)
    groups_N = find_groups(index, all_entries, thumbnails_NHWC)[: len(entries)]
    if not has_test:
        kept = np.flatnonzero(is_test(index, entries, groups_N) == (split == "test"))
        entries, groups_N, places = [entries[at] for at in kept], groups_N[kept], places[kept]
    if not entries:
        raise DataError(f"{folder}: no {split} images: add pictures, or a folder {split}/ beside train/")
    data = ImageSet(
        PickedImages(found.images_NHWC, places),
        np.array([entry.label for entry in entries], dtype=np.int64),
        index.class_names,
        titled(folder.name, split, spec),
        groups_N=groups_N if len(np.unique(groups_N)) < len(groups_N) else None,
        mirrors=False,  # an arrow to the left is none to the right
        names=tuple(entry.name for entry in entries),
        validation_N=(
            np.array([entry.part == "validation" for entry in entries])
            if split == "train" and "validation" in index.parts
            else None
        ),
        digests_N=found.digests_N[places],
    )
    _report(index, data, split)
    return data


def _read(
    index: FolderIndex, wanted: list[Entry], spec: InputSpec | None, part: str, *, skip_broken: bool
) -> tuple[DecodedPictures, list[Entry], npt.NDArray[np.int64]]:
    """Decode each picture once: (all of them, entries of those that can be read, and their places)."""
    found = decoded(index.root, _pictures(index, wanted), spec, part=part)
    broken = {entry.name: found.broken[entry.name] for entry in wanted if entry.name in found.broken}
    refusal = f"{index.root}: {len(broken)} of {len(wanted)} images cannot be read: replace or remove them"
    refuse_or_leave_out(broken, index.left_out, "broken image", refusal=refusal, skip_broken=skip_broken)
    places = np.array([at for at, entry in enumerate(wanted) if entry.name not in broken], np.int64)
    entries = [wanted[at] for at in places]
    if gone := {(entry.label, entry.part) for entry in wanted} - {(entry.label, entry.part) for entry in entries}:
        classes = [f"{index.class_names[label]} ({part})" for label, part in sorted(gone)]
        raise DataError(f"{index.root}: no image of {some(classes, 10)} can be read: replace them, or remove the class")
    return found, entries, places


def _pictures(index: FolderIndex, entries: list[Entry]) -> list[Picture]:
    return [Picture(entry.path, entry.name, index.class_names[entry.label]) for entry in entries]


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
