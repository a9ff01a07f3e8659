"""Find near copies among pictures, such as the frames of one clip, by a difference hash and a thumbnail.

A picture is shrunk to 9 x 8 pixels. Its hash has a bit for each pair of neighbours in a row: whether the right one is
brighter. Two pictures are near copies if few bits differ, and the thumbnails' levels differ little too: a hash alone
takes all pictures of one shape for copies. Near copies of near copies are of one group, so a clip stays whole while the
camera moves.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

MOST_BITS = 8
"""Bits of 64 in which the hashes of near copies may differ."""
MOST_LEVELS = 10.0
"""Grey levels of 255 by which the thumbnails of near copies may differ, on average over pixels and channels."""
_BRIGHTER_BY = 3 * 2
"""Levels, added over three channels, below which a difference is noise: flat regions have no bits."""
_HEIGHT, _WIDTH = 8, 9

THUMBNAIL_SHAPE = (_HEIGHT, _WIDTH, 3)


def thumbnail(image_HWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the whole picture at `THUMBNAIL_SHAPE`, from which near copies are told."""
    return np.asarray(cv2.resize(image_HWC, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_AREA), np.uint8)


def hashes(thumbnails_NHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """Return the difference hash of each thumbnail."""
    grey_NHW = thumbnails_NHWC.sum(axis=3, dtype=np.int32)
    brighter_NB = (np.diff(grey_NHW, axis=2) > _BRIGHTER_BY).reshape(len(grey_NHW), 64)
    return np.packbits(brighter_NB, axis=1).view(np.uint64).reshape(-1)


def group_near_copies(
    thumbnails_NHWC: npt.NDArray[np.uint8], together_N: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return a group for each picture: the index of its first member.

    Time grows with the square of the number of pictures: 20,000 in one class take some seconds.

    Args:
        thumbnails_NHWC: uint8, of the pictures of one class.
        together_N: pictures of one number are of one group, whatever they show.
    """
    hash_N, flat_NV = hashes(thumbnails_NHWC), _flat(thumbnails_NHWC)
    groups_N = np.full(len(hash_N), -1, np.int64)
    left = np.arange(len(hash_N))  # those without a group yet
    while len(left):
        first, left = left[0], left[1:]
        groups_N[first] = first
        waiting = [first]
        while waiting and len(left):
            index = waiting.pop()
            joins = _is_near(hash_N[left], hash_N[index], flat_NV, left, flat_NV[index])
            joins |= together_N[left] == together_N[index]
            groups_N[left[joins]] = first
            waiting += left[joins].tolist()
            left = left[~joins]
    return groups_N


def has_near_copy(thumbnails_NHWC: npt.NDArray[np.uint8], others_NHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Return whether each picture has a near copy among the others."""
    hash_M, flat_MV = hashes(others_NHWC), _flat(others_NHWC)
    pairs = zip(hashes(thumbnails_NHWC), _flat(thumbnails_NHWC), strict=True)
    every = np.arange(len(hash_M))
    return np.array([bool(_is_near(hash_M, one, flat_MV, every, flat_V).any()) for one, flat_V in pairs])


def _flat(thumbnails_NHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.int16]:
    return thumbnails_NHWC.reshape(len(thumbnails_NHWC), -1).astype(np.int16)


def _is_near(
    hash_M: npt.NDArray[np.uint64],
    one: np.uint64,
    flat_NV: npt.NDArray[np.int16],
    at_M: npt.NDArray[np.int64],
    flat_V: npt.NDArray[np.int16],
) -> npt.NDArray[np.bool_]:
    """Whether pictures, at `at_M` of all, are near copies of one: thumbnails are compared where the hash is near."""
    is_near_M = _distance(hash_M, one) <= MOST_BITS
    near = np.flatnonzero(is_near_M)
    levels = np.abs(flat_NV[at_M[near]] - flat_V).mean(axis=1)
    is_near_M[near[levels > MOST_LEVELS]] = False
    return is_near_M


def _distance(hash_N: npt.NDArray[np.uint64], other: np.uint64) -> npt.NDArray[np.uint64]:
    """Bits in which hashes differ from another one: NumPy 1 has no function that counts bits."""
    x = hash_N ^ other
    x -= (x >> np.uint64(1)) & np.uint64(0x5555555555555555)
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.asarray((x * np.uint64(0x0101010101010101)) >> np.uint64(56), np.uint64)
