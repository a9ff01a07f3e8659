"""Hold labelled images, in memory or in a file, with validation split, statistics, a fixed order, a fingerprint."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from oat_runtime.architecture import InputSpec
from oat_runtime.data.picked_images import Images, in_parts, pick
from oat_runtime.errors import DataError

_LOG = logging.getLogger(__name__)
Split = Literal["train", "test"]
Triple = tuple[float, float, float]
LEAST_TO_FIT = 100
"""Clean images that the policy's estimator is fitted to at the least. Training warns early if it holds out fewer."""


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Labelled images in an order of which every beginning is a sample: the official one, or see `mixed`.

    Attributes:
        images_NHWC: uint8 RGB, in memory or in a file. `images_NHWC[:]` is an array of all; of those in a file, a copy.
        labels_N: int64 class indices.
        class_names: one name a class; empty where they are not known.
        name: what it is, as in `cifar10 test`.
        groups_N: int64; images of one group (the frames of one track) are near copies, so a split never parts them.
        mirrors: whether a mirror image is known to keep its class. Digits and traffic signs do not, and of a folder of
            images nobody knows.
        names: paths of the images' files below the data set's folder; None where images have no files of their own.
        validation_N: bool, images that the data set itself holds out for validation; None where it leaves that open.
        region_margin: of crops of boxes, `InputSpec.region_margin`, so that a robot cuts out the same; else None.
        sides_N: int64, of crops of boxes, the longer side of each box in pixels of its frame; else None.
        digests_N: uint64, `image_digest` of each image and the name of its class; None where nobody has computed them.
    """

    images_NHWC: Images
    labels_N: npt.NDArray[np.int64]
    class_names: tuple[str, ...]
    name: str
    groups_N: npt.NDArray[np.int64] | None = None
    mirrors: bool = True
    names: tuple[str, ...] | None = None
    validation_N: npt.NDArray[np.bool_] | None = None
    region_margin: float | None = None
    sides_N: npt.NDArray[np.int64] | None = None
    digests_N: npt.NDArray[np.uint64] | None = None

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels_N)

    def subset(self, indices: npt.NDArray[np.int64], name: str) -> ImageSet:
        """The images at `indices`, in that order, under another name."""
        images = self._at(indices)
        names = None if self.names is None else tuple(self.names[index] for index in indices)
        return replace(images, name=name, names=names)

    def first(self, count: int | None) -> ImageSet:
        """Return the first `count` images, or with None all; their pixels are not copied."""
        images = self._at(slice(count))
        return replace(images, names=None if self.names is None else self.names[:count])

    def _at(self, where: slice | npt.NDArray[np.int64]) -> ImageSet:
        return replace(
            self,
            images_NHWC=pick(self.images_NHWC, where),
            labels_N=self.labels_N[where],
            groups_N=None if self.groups_N is None else self.groups_N[where],
            validation_N=None if self.validation_N is None else self.validation_N[where],
            sides_N=None if self.sides_N is None else self.sides_N[where],
            digests_N=None if self.digests_N is None else self.digests_N[where],
        )

    def statistics(self) -> tuple[Triple, Triple]:
        """Return mean and standard deviation of each channel over all pixels in [0, 1], to four places."""
        count_C = np.zeros((3, 256), dtype=np.int64)
        for part_NHWC in in_parts(self.images_NHWC):
            pixels_1PC = part_NHWC.reshape(1, -1, 3)
            for channel in range(3):  # ten times as fast as numpy.bincount; a part's counts are exact in float32
                counts = cv2.calcHist([pixels_1PC], [channel], None, [256], [0, 256])
                count_C[channel] += counts.reshape(256).astype(np.int64)
        level = np.arange(256) / 255.0
        share_C = count_C / count_C.sum(axis=1, keepdims=True)
        mean_C = share_C @ level
        std_C = np.sqrt((share_C * (level - mean_C[:, None]) ** 2).sum(axis=1))
        return _triple(mean_C), _triple(np.maximum(std_C, 1 / 255))  # a channel without contrast must not divide by 0


def mixed(data: ImageSet) -> ImageSet:
    """Return the images in a fixed random order if they came class by class; otherwise return them unchanged.

    Counts take the first images of a set. In the order of its folders, these would be of a few classes only.
    """
    if not is_by_class(data.labels_N):
        return data
    return data.subset(np.random.default_rng(0).permutation(len(data)), data.name)


def is_by_class(labels_N: npt.NDArray[np.int64]) -> bool:
    """Return whether images with these labels are stored class by class."""
    return not np.any(np.diff(labels_N) < 0)


def _triple(values_C: npt.NDArray[np.float64]) -> Triple:
    red, green, blue = (round(float(value), 4) for value in values_C)
    return red, green, blue


def split_validation(
    data: ImageSet, num_validation: int, *, seed: int, stratified: bool = False
) -> tuple[ImageSet, ImageSet]:
    """Return (training part, validation part), disjoint, chosen by `seed`, each in the order of the set.

    If images come in groups, whole groups are held out, until there are `num_validation` images or more: one of each
    class in turn, then in proportion. With `stratified`, single images are chosen in the same way; without it, images
    that come in no groups are drawn from the whole set. If the data set itself holds images out (`validation_N`), those
    are the validation part, and nothing else counts.

    Raises:
        DataError: fewer images than `num_validation` asks for, or none on one side.
    """
    if data.validation_N is not None:
        return _as_held_out(data, data.validation_N, num_validation)
    if num_validation >= len(data):
        raise DataError(
            f"{data.name}: cannot hold out {num_validation} of {len(data)} images: set "
            f"num_validation to {max(1, len(data) // 5)} or so, or add images"
        )
    rng = np.random.default_rng(seed)
    groups_N = np.arange(len(data)) if stratified and data.groups_N is None else data.groups_N
    if groups_N is None:
        order = rng.permutation(len(data))
        held_out, training = np.sort(order[:num_validation]), np.sort(order[num_validation:])
    else:
        groups, firsts, sizes = np.unique(groups_N, return_index=True, return_counts=True)
        order = rng.permutation(len(groups))
        labels = data.labels_N[firsts[order]]
        place = np.empty(len(groups))  # of a group within its class: a class with few groups is not forgotten
        for label in np.unique(labels):
            of_class = np.flatnonzero(labels == label)
            place[of_class] = np.arange(len(of_class)) / len(of_class)
        order = order[np.argsort(place, kind="stable")]
        taken = np.cumsum(sizes[order]) - sizes[order] < num_validation
        is_held_out_N = np.isin(groups_N, groups[order[taken]])
        held_out, training = np.flatnonzero(is_held_out_N), np.flatnonzero(~is_held_out_N)
        if not len(training):
            raise DataError(
                f"{data.name}: holding out {num_validation} images leaves no whole group to train "
                f"on, and there are {len(groups)}: add groups, such as scenes or sessions in folders of their "
                "own, or set num_validation lower"
            )
    return data.subset(training, f"{data.name} less validation"), data.subset(held_out, f"{data.name} validation")


def _as_held_out(data: ImageSet, validation_N: npt.NDArray[np.bool_], num_validation: int) -> tuple[ImageSet, ImageSet]:
    held_out, training = np.flatnonzero(validation_N), np.flatnonzero(~validation_N)
    if not len(held_out) or not len(training):
        raise DataError(
            f"{data.name}: expected training and validation images, got {len(training)} and {len(held_out)}: "
            "load more of the set"
        )
    if len(held_out) != num_validation:
        _LOG.info("%s: the %d images of its validation folder are held out; num_validation (%d) is not used",
                  data.name, len(held_out), num_validation)  # fmt: skip
    return data.subset(training, f"{data.name} less validation"), data.subset(held_out, f"{data.name} validation")


def titled(name: str, split: Split, spec: InputSpec | None) -> str:
    """Return what a set is called: `photos@64 train`, `photos@128x96 test`; as it is stored, `photos train`."""
    if spec is None:
        return f"{name} {split}"
    height, width = spec.height, spec.width
    return f"{name}@{width} {split}" if height == width else f"{name}@{width}x{height} {split}"


def fingerprint(data: ImageSet) -> str:
    """Return the SHA-256 of pixels and labels, which names the exact images that a figure was counted on."""
    digest = hashlib.sha256()
    for part_NHWC in in_parts(data.images_NHWC):
        digest.update(part_NHWC.data)
    digest.update(data.labels_N.astype("<i8").tobytes())
    return digest.hexdigest()


def check_fingerprint(data: ImageSet, expected: str | None, *, whose: str) -> None:
    """Refuse images that are not the very ones that a bundle names; nothing is compared where it names none.

    Args:
        data: a whole part of a data set.
        expected: `fingerprint` of the images that the bundle knows.
        whose: the bundle, and what these images were to it, for the error.

    Raises:
        DataError: they are others.
    """
    if expected is not None and fingerprint(data) != expected:
        raise DataError(
            f"{data.name}: expected the very images of {whose}, got {len(data)} of which some are others, changed, of "
            "another class, or fitted by another version of OpenCV: bring them back as they were, or export again"
        )


def image_digest(image_HWC: npt.NDArray[np.uint8], class_name: str) -> int:
    """Return 64 bits of a hash of an image's pixels and its class's name."""
    digest = hashlib.blake2b(np.ascontiguousarray(image_HWC).data, digest_size=8)
    digest.update(class_name.encode())
    return int.from_bytes(digest.digest(), "big")
