"""The image for people is drawn on a copy of the camera's."""

from __future__ import annotations

import numpy as np
import pytest
from oat_perception.core.annotate import annotate

from oat_runtime.operating_point import OperatingPoint
from oat_runtime.runtime import Prediction


@pytest.mark.parametrize("shape", [(1, 1, 3), (32, 32, 3), (300, 500, 3)])
def test_annotation_draws_on_a_copy(shape) -> None:
    image_HWC = np.full(shape, 90, np.uint8)
    prediction = Prediction(
        point=OperatingPoint(0.3, 0.5), label=0, class_name="cat", confidence=0.9,
        probabilities_K=np.ones(1, np.float32), logits_K=np.ones(1, np.float32), preprocess_ms=0.0, latency_ms=0.0,
    )  # fmt: skip
    drawn_HWC = annotate(image_HWC, prediction, source="operator", regions=[((0, 0, 1, 1), prediction)])
    assert (image_HWC == 90).all()
    assert min(drawn_HWC.shape[:2]) >= 240
    assert drawn_HWC.flags.c_contiguous
    assert 0 < (drawn_HWC != 90).any(-1).mean() < 1
