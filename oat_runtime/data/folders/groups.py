"""Keep pictures of one scene together: which ones are a group, and which groups are the test set if no folder is."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict

import numpy as np
import numpy.typing as npt

from oat_runtime.data.folders.layout import Entry, FolderIndex
from oat_runtime.data.folders.near_copies import group_near_copies, has_near_copy
from oat_runtime.text import some

_LOG = logging.getLogger(__name__)
_TEST_SHARE = 0.2
_MOST_OF_A_CLASS = 0.9
"""Share of a class above which a group of near copies says nothing: all of its pictures look alike."""


def find_groups(
    index: FolderIndex, entries: list[Entry], thumbnails_NHWC: npt.NDArray[np.uint8]
) -> npt.NDArray[np.int64]:
    """Return the group of each picture: the index of its first member.

    The pictures of one subfolder are a group, and so are near copies, within one class and one named split. If nearly
    all pictures of a class are near copies, only subfolders count, and a warning says so. Another counts validation and
    test images with a near copy among the training images.

    Args:
        index: of the folder.
        entries: the pictures, class by class.
        thumbnails_NHWC: uint8, of each picture.
    """
    groups_N = np.arange(len(entries))
    members_of: dict[tuple[int, str], list[int]] = defaultdict(list)
    for at, entry in enumerate(entries):
        members_of[entry.label, entry.part].append(at)
    for (label, part), members in members_of.items():
        at_M = np.array(members)
        by_place_M = _by_place([entries[at].group for at in members])
        groups_M = group_near_copies(thumbnails_NHWC[at_M], by_place_M)
        largest = int(np.bincount(groups_M).max())
        if part == "train" and len(members) > 2 and largest > _MOST_OF_A_CLASS * len(members):
            _LOG.warning(
                "%s: %d of the %d images of class %s are near copies of one another, so they lie on both sides of a "
                "split: figures of this class on test and validation images say little. Add other pictures",
                index.root, largest, len(members), index.class_names[label],
            )  # fmt: skip
            groups_M = by_place_M
        groups_N[at_M] = at_M[groups_M]
        if part != "train" and (training := members_of.get((label, "train"))):
            num = int(has_near_copy(thumbnails_NHWC[at_M], thumbnails_NHWC[training]).sum())
            if num:
                _LOG.warning(
                    "%s: %d of the %d %s images of class %s have a near copy among the training images, so that "
                    "figures on them measure memory: take them out of one of the two",
                    index.root, num, len(members), part, index.class_names[label],
                )  # fmt: skip
    return groups_N


def is_test(index: FolderIndex, entries: list[Entry], groups_N: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return which pictures are the test set of a folder that names none: about a fifth of the groups of each class.

    The hash of its first picture's name decides for each group, so nearly no picture changes sides when others are
    added. Each class has a group on both sides if it has two: the one with the least or the greatest hash changes over.
    Pictures of a validation folder are never test images.
    """
    is_test_N = np.zeros(len(entries), bool)
    groups_of: dict[int, list[int]] = defaultdict(list)
    for group in np.unique(groups_N):
        if entries[group].part == "train":
            groups_of[entries[group].label].append(int(group))
    without = []
    for label, groups in groups_of.items():
        digests = {group: hashlib.sha256(entries[group].name.encode()).digest() for group in groups}
        order = sorted(groups, key=digests.__getitem__)
        num = sum(digest[0] < 256 * _TEST_SHARE for digest in digests.values())
        num = min(max(num, 1), len(groups) - 1)
        if not num:
            without.append(index.class_names[label])
        is_test_N |= np.isin(groups_N, order[:num])
    if without:
        _LOG.warning(
            "%s: no test images of class %s: expected at least 2 pictures that are not near copies",
            index.root, some(without, 10),
        )  # fmt: skip
    return is_test_N


def _by_place(places: list[str]) -> npt.NDArray[np.int64]:
    """The index of the first picture in each picture's subfolder; of itself where it lies in none."""
    firsts: dict[str, int] = {}
    return np.array([firsts.setdefault(place, at) if place else at for at, place in enumerate(places)])
