"""Images that stay in a file are used like an array of them, by whoever does not know that they do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from oat_runtime.data import PickedImages

STORED_NHWC = np.random.default_rng(0).integers(0, 256, (9, 4, 6, 3), dtype=np.uint8)
ROWS_M = np.array([7, 0, 3, 3, 8])
PICKED, ARRAY = PickedImages(STORED_NHWC, ROWS_M), STORED_NHWC[ROWS_M]


@pytest.mark.parametrize(
    "where",
    [2, -1, np.int64(2), slice(None), slice(1, 4), np.array([3, 0]), (0, 1), (np.int64(0), 1),
     (slice(2), slice(0, 4, 2)), (slice(None), ..., 0), (np.array([1, 4]), 2)],
    ids=str,
)  # fmt: skip
def test_any_index_reads_what_an_array_gives(where: Any) -> None:
    np.testing.assert_array_equal(PICKED[where], ARRAY[where])


def test_what_an_array_can_do_these_images_can_too() -> None:
    images: Any = PICKED
    np.testing.assert_array_equal(images.mean(axis=(1, 2, 3)), ARRAY.mean(axis=(1, 2, 3)))
    np.testing.assert_array_equal(images.astype(int), ARRAY.astype(int))
    np.testing.assert_array_equal(np.unique(images), np.unique(ARRAY))
    np.testing.assert_array_equal(np.stack(list(images)), ARRAY)
    assert (images.shape, images.ndim, images.dtype, len(images)) == (ARRAY.shape, 4, ARRAY.dtype, 5)
    with pytest.raises(AttributeError, match="meen"):
        images.meen()
