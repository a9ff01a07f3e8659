"""Read the images that a camera left, in a folder or a bag, and leave out what no image can be made of."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from oat_runtime.data.bags import camera_images, is_bag
from oat_runtime.data.decoding import FULL_BITS
from oat_runtime.data.image_files import check_format, frame_files, read_image
from oat_runtime.errors import DataError, one_line

_MOST_NAMED, _MOST_SHOWN = 10, 500
_log = logging.getLogger(__name__)


class Skipped:
    """Images of a recording that are left out: all are counted, the first ones are named.

    Attributes:
        num: how many there were.
        reasons: which the first ones were and what was wrong, one line each.
        tell: called with each new line for people.
    """

    def __init__(self, tell: Callable[[str], object] = _log.warning) -> None:
        """Start with none.

        Args:
            tell: called with each new line of `reasons`.
        """
        self.num, self.reasons, self.tell = 0, list[str](), tell

    def add(self, error: DataError) -> None:
        """Leave out one image; the error names it."""
        self.num += 1
        reason = one_line(error, most=_MOST_SHOWN)
        if len(self.reasons) < _MOST_NAMED and reason not in self.reasons:
            self.reasons.append(reason)
            self.tell(f"left out: {reason}")


def recorded_images(
    path: Path, skipped: Skipped, *, topic: str = "", option: str = "topic", bits: int = FULL_BITS
) -> Iterator[npt.NDArray[np.uint8]]:
    """Read the images of a folder, as files are read everywhere, or of a rosbag2, as the node reads its messages.

    Args:
        path: a folder of images, a rosbag2 folder or an .mcap file.
        skipped: takes the images that cannot be used.
        topic: image topic of a bag; empty: its only one.
        option: what a user sets to name the topic, for the error.
        bits: how many bits a value of 16-bit images uses, 8 to 16.

    Returns:
        Images (H, W, 3), uint8 RGB, decoded one by one.

    Raises:
        DataError: there are no images, before the first one is taken; later, the bag itself is damaged, or none of its
            images can be used.
    """
    if is_bag(path):
        return _any(camera_images(path, topic=topic, option=option, bits=bits, skip=skipped.add), skipped)
    return _any(_files(frame_files(path), skipped, bits), skipped)


def _files(files: list[Path], skipped: Skipped, bits: int) -> Iterator[npt.NDArray[np.uint8]]:
    for file in files:
        try:
            check_format(file)
            image_HWC = read_image(file, bits=bits)
        except DataError as error:
            skipped.add(error)
            continue
        yield image_HWC


def _any(images: Iterator[npt.NDArray[np.uint8]], skipped: Skipped) -> Iterator[npt.NDArray[np.uint8]]:
    """Pass images on; a recording of which all are left out is an error, as an empty one is."""
    num = 0
    for num, image_HWC in enumerate(images, start=1):  # noqa: B007
        yield image_HWC
    if not num and skipped.num:
        raise DataError(f"none of {skipped.num} images can be used, beginning with {skipped.reasons[0]}")
