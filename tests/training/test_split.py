"""A run is held to the images that it set aside."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from oat_runtime.data import ImageSet
from oat_runtime.errors import DataError
from training.split import HELD_OUT, check_held_out


def test_a_data_set_that_changed_since_the_run_began_is_refused(
    patches: Callable[..., ImageSet], tmp_path: Path
) -> None:
    """Regression: in another order of its files, training images came among the validation images without a word."""
    validation = patches(8)
    check_held_out(validation, tmp_path)  # a run that kept none
    np.savez(tmp_path / HELD_OUT, images=validation.images_NHWC, labels=validation.labels_N)
    check_held_out(validation, tmp_path)
    others = replace(validation, images_NHWC=validation.images_NHWC[::-1].copy())
    for changed in (others, replace(validation, labels_N=(validation.labels_N + 1) % 10), validation.first(7)):
        with pytest.raises(DataError, match=r"expected the 8 validation images in .*: the data set changed"):
            check_held_out(changed, tmp_path)
