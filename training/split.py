"""Hold a run to the images that it set aside when it began, and record which images those were."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from oat_runtime.bundle import DataRecord, Fingerprints, HeldOut
from oat_runtime.data import ImageSet, fingerprint, read_labelled_npz, split_validation
from oat_runtime.errors import DataError

HELD_OUT = "validation.npz"
"""File in a run's folder with its validation images."""


def check_held_out(validation: ImageSet, run: Path) -> None:
    """Compare validation images with those that a run kept; do nothing where it kept none.

    Raises:
        DataError: they differ, so images that the run was trained on may be among them.
    """
    path = run / HELD_OUT
    if not path.is_file():
        return
    kept = read_labelled_npz(path)
    same = np.array_equal(kept.images_NHWC, validation.images_NHWC) and np.array_equal(
        kept.labels_N, validation.labels_N
    )
    if not same:
        raise DataError(
            f"{validation.name}: expected the {len(kept)} validation images in {path}, got others: the data set "
            "changed since this run began (images, their names or their order); bring it back, or train anew"
        )


def data_record(training_set: ImageSet, test_set: ImageSet, *, num_validation: int, seed: int) -> DataRecord:
    """Return what a bundle says of its images: how validation was held out, and the fingerprint of each part.

    Args:
        training_set: all labelled training images, validation among them.
        test_set: the images of the table `report`.
        num_validation: images that were asked for.
        seed: of the split.
    """
    trained_on, validation = split_validation(training_set, num_validation, seed=seed)
    rule = "random" if training_set.groups_N is None else "groups"
    return DataRecord(
        held_out=HeldOut(rule=rule, num_images=num_validation, seed=seed),
        fingerprints=Fingerprints(
            train=fingerprint(trained_on), validation=fingerprint(validation), test=fingerprint(test_set)
        ),
    )
