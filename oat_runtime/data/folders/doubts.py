"""Warn of what a folder says and hardly means: a picture in two classes, two names for one, black or tiny pictures."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from oat_runtime.data.camera_messages import NEARLY_BLACK
from oat_runtime.data.folders.layout import Entry, FolderIndex
from oat_runtime.text import count_of, some

_LOG = logging.getLogger(__name__)
_MOST_ODD = 0.02
"""Share of a folder's pictures that may be nearly black, or smaller than the input."""


def warn_of_two_labels(index: FolderIndex, entries: list[Entry], thumbnails_NHWC: npt.NDArray[np.uint8]) -> None:
    """Warn of pictures that occur in two classes, because at least one of the two labels is wrong.

    Args:
        index: of the folder.
        entries: the pictures.
        thumbnails_NHWC: uint8, of each picture; equal ones are taken for the same picture.
    """
    firsts: dict[bytes, Entry] = {}
    pairs = []
    for entry, thumbnail_HWC in zip(entries, thumbnails_NHWC, strict=True):
        first = firsts.setdefault(thumbnail_HWC.tobytes(), entry)
        if first.label != entry.label:
            pairs.append(f"{first.name} and {entry.name}")
    if pairs:
        _LOG.warning(
            "%s: %s in two classes, so one label of each is wrong: remove one of the two: %s",
            index.root, count_of(len(pairs), "picture"), some(pairs, 3),
        )  # fmt: skip


def warn_of_like_names(root: Path, class_names: Sequence[str]) -> None:
    """Warn of classes whose names differ in case, width or blanks alone, because they may be meant to be one."""
    firsts: dict[str, str] = {}
    pairs = []
    for name in class_names:
        first = firsts.setdefault("".join(unicodedata.normalize("NFKC", name).casefold().split()), name)
        if first != name:
            pairs.append(f"{first} and {name}")
    if pairs:
        _LOG.warning(
            "%s: %s are classes of their own, though their names are nearly the same: if one class is meant, give it "
            "one name",
            root, some(pairs, 10),
        )  # fmt: skip


def warn_of_black_pictures(root: Path, thumbnails_NHWC: npt.NDArray[np.uint8]) -> None:
    """Warn of pictures that are nearly black everywhere, as those of a camera of 10 to 12 bits are in files of 16.

    Args:
        root: the folder.
        thumbnails_NHWC: uint8, of all pictures.
    """
    num = int((thumbnails_NHWC.max(axis=(1, 2, 3)) <= NEARLY_BLACK).sum())
    if num > _MOST_ODD * len(thumbnails_NHWC):
        _LOG.warning(
            "%s: %d of the %d images are nearly black, up to %d of 255: where a camera of 10 to 14 bits wrote files of "
            "16, multiply their values so that white is 65535",
            root, num, len(thumbnails_NHWC), NEARLY_BLACK,
        )  # fmt: skip


def warn_of_small_pictures(root: Path, small_N: npt.NDArray[np.bool_]) -> None:
    """Warn of pictures that were enlarged: they are blurred, and the frames of a robot's camera will not be.

    Args:
        root: the folder.
        small_N: whether each picture was enlarged.
    """
    num = int(small_N.sum())
    if num > _MOST_ODD * len(small_N):
        _LOG.warning(
            "%s: %d of the %d images were smaller than the input and are enlarged, so they are blurred as a camera's "
            "frames are not: take a smaller size (@SIDE), or larger pictures",
            root, num, len(small_N),
        )  # fmt: skip
