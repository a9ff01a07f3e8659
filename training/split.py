"""Check that a run still holds out the same validation images, so that a changed data set is noticed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from oat_runtime.data import ImageSet, read_labelled_npz
from oat_runtime.errors import DataError

HELD_OUT = "validation.npz"
"""File in a run's folder with its validation images."""


def check_held_out(validation: ImageSet, run: Path) -> None:
    """Compare validation images with those that a run stored; do nothing if it stored none.

    Raises:
        DataError: they differ, so the run may have been trained on some of them.
    """
    path = run / HELD_OUT
    if not path.is_file():
        return
    stored = read_labelled_npz(path)
    same = np.array_equal(stored.images_NHWC, validation.images_NHWC) and np.array_equal(
        stored.labels_N, validation.labels_N
    )
    if not same:
        raise DataError(
            f"{validation.name}: expected the {len(stored)} validation images in {path}, got others: the data set "
            "changed since this run began (images, their names or their order); bring it back, or train anew"
        )
