"""Draw the result for people onto the camera's image: class, confidence and operating point."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from oat_perception.core.regions import BoxXYXY
from oat_runtime.runtime import Prediction

_LEAST_SIDE_PX = 240
_WHITE, _BLACK, _GREEN = (255, 255, 255), (0, 0, 0), (80, 220, 100)


def annotate(
    image_HWC: npt.NDArray[np.uint8],
    prediction: Prediction,
    *,
    source: str,
    regions: Sequence[tuple[BoxXYXY, Prediction]] = (),
) -> npt.NDArray[np.uint8]:
    """Return a copy of the image with label, confidence, operating point and regions drawn on it.

    Args:
        image_HWC: uint8 RGB; not changed. A small one is enlarged, so that the text can be read.
        prediction: of the whole image.
        source: who chose the operating point.
        regions: boxes in pixels, and what was seen in each.

    Returns:
        uint8 RGB, C-contiguous.
    """
    height, width = image_HWC.shape[:2]
    scale = max(1, -(-_LEAST_SIDE_PX // min(height, width)))
    size_wh = (scale * width, scale * height)
    canvas_HWC = np.array(cv2.resize(image_HWC, size_wh, interpolation=cv2.INTER_NEAREST), np.uint8)
    for (left, top, right, bottom), seen in regions:
        corners = (scale * left, scale * top), (scale * right - 1, scale * bottom - 1)
        cv2.rectangle(canvas_HWC, *corners, _GREEN, thickness=2)
        _write(canvas_HWC, f"{seen.class_name} {seen.confidence:.0%}", corners[0][0] + 2, corners[0][1] + 14)
    point = prediction.point
    _write(canvas_HWC, f"{prediction.class_name} {prediction.confidence:.0%}", 4, 18)
    # OpenCV's own font has no Greek letters.
    _write(canvas_HWC, f"lambda {point.lam:g}, width {point.width:g} ({source})", 4, size_wh[1] - 8)
    return canvas_HWC


def _write(canvas_HWC: npt.NDArray[np.uint8], text: str, x: int, y: int) -> None:
    """Write white text with a black edge, so that it is legible on any image."""
    for colour, thickness in ((_BLACK, 3), (_WHITE, 1)):
        cv2.putText(canvas_HWC, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, thickness, cv2.LINE_AA)
