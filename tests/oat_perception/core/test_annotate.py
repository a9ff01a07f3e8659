"""Laws of the annotated image: every word stands within it, however long a class's name is."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from oat_perception.core import annotate as annotate_module
from oat_perception.core.annotate import annotate
from oat_perception.core.regions import RotatedBox

from oat_runtime.operating_point import OperatingPoint
from oat_runtime.prediction import Prediction

NOTHING = np.zeros(1, np.float32)


def prediction(name: str) -> Prediction:
    return Prediction(OperatingPoint(0.4, 0.75), 0, name, 1.0, NOTHING, NOTHING, 0.0, 0.0)


@pytest.mark.parametrize("size", [(32, 32), (24, 40), (480, 640)], ids=str)
@pytest.mark.parametrize("name", ["cat", "right of way at the next crossing", "x" * 200])
def test_no_word_is_cut_off(size: tuple[int, int], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 32x32 `lambda 0.4, width 0.75 (safety_lock)` ended in the middle, and so did a long name."""
    written, put = [], cv2.putText

    def note(canvas_HWC, text, place, font, scale, colour, thickness, line):
        (length, height), _ = cv2.getTextSize(text, font, scale, thickness)
        written.append((text, place[0], place[0] + length, place[1] - height, canvas_HWC.shape[1]))
        return put(canvas_HWC, text, place, font, scale, colour, thickness, line)

    monkeypatch.setattr(annotate_module.cv2, "putText", note)
    image, seen = np.zeros((*size, 3), np.uint8), prediction(name)
    right_edge = (size[1] - 6, 0, size[1], 6)
    annotate(image, seen, source="safety_lock", regions=[(right_edge, seen)])
    assert len(written) == 6
    for text, left, right, top, columns in written:
        assert left >= 0 and right <= columns and top >= 0, text
    assert not image.any(), "the image given is not changed"


@pytest.mark.parametrize("size", [(1, 16384), (16384, 1), (2, 3000), (1, 1), (239, 2048)], ids=str)
def test_a_thin_image_is_not_made_large(size: tuple[int, int]) -> None:
    """Regression: 16384 pixels in a row became 2.8 GB, so that the text could be read."""
    image, seen = np.zeros((*size, 3), np.uint8), prediction("cat")
    canvas = annotate(image, seen, source="adaptive", regions=[((0, 0, size[1], size[0]), seen)])
    assert canvas.nbytes <= max(image.nbytes, 3 * 2048**2)
    assert not image.any()


def test_below_the_least_confidence_the_class_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(annotate_module, "_write", lambda canvas_HWC, text, x, y: written.append(text))
    image = np.zeros((240, 240, 3), np.uint8)
    unsure, sure = replace(prediction("cat"), confidence=0.3), replace(prediction("dog"), confidence=0.8)
    boxes = (20, 20, 60, 60), RotatedBox(120.0, 120.0, 60.0, 30.0, 0.5)
    canvas = annotate(
        image, unsure, source="adaptive", regions=[(boxes[0], sure), (boxes[1], unsure)], min_confidence=0.5
    )
    assert written[:3] == ["dog 80%", "unknown (best 30%)", "unknown (best 30%)"]
    inside_rotated = canvas[90:150, 80:160]
    assert inside_rotated.any(), "a rotated box is drawn"
