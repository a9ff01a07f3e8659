"""Draw the result for people onto the camera's image: class, confidence and operating point."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from oat_perception.core.answers import UNKNOWN, is_unknown
from oat_perception.core.regions import Box, RotatedBox
from oat_runtime.runtime import Prediction

_LEAST_SIDE_PX, _MOST_SIDE_PX = 240, 2048
"""A small image is enlarged to the first, as far as no side becomes longer than the second."""
_FONT, _TEXT_SCALE, _EDGE_PX = cv2.FONT_HERSHEY_SIMPLEX, 0.45, 3
_WHITE, _BLACK, _GREEN = (255, 255, 255), (0, 0, 0), (80, 220, 100)


def annotate(
    image_HWC: npt.NDArray[np.uint8],
    prediction: Prediction,
    *,
    source: str,
    regions: Sequence[tuple[Box, Prediction]] = (),
    min_confidence: float = 0.0,
) -> npt.NDArray[np.uint8]:
    """Return a copy of the image with label, confidence, operating point and regions drawn on it.

    Args:
        image_HWC: uint8 RGB; not changed. A small one is enlarged, to sides of at most 2048 pixels, so that the text
            can be read.
        prediction: of the whole image.
        source: who chose the operating point.
        regions: boxes in pixels, and what was seen in each.
        min_confidence: below it, "unknown" stands in the place of the class.

    Returns:
        uint8 RGB, C-contiguous.
    """
    height, width = image_HWC.shape[:2]
    scale = max(1, min(-(-_LEAST_SIDE_PX // min(height, width)), _MOST_SIDE_PX // max(height, width)))
    size_wh = (scale * width, scale * height)
    canvas_HWC = np.asarray(cv2.resize(image_HWC, size_wh, interpolation=cv2.INTER_NEAREST), np.uint8)
    for box, seen in regions:
        if isinstance(box, RotatedBox):
            corners_42 = np.rint(scale * box.corners()).astype(np.int32)
            cv2.polylines(canvas_HWC, [corners_42], True, _GREEN, thickness=2)
            left, top = (max(0, int(low)) for low in corners_42.min(axis=0))
        else:
            left, top, right, bottom = (scale * edge for edge in box)
            cv2.rectangle(canvas_HWC, (left, top), (right - 1, bottom - 1), _GREEN, thickness=2)
        _write(canvas_HWC, _answer(seen, min_confidence), left + 2, top + 14)
    point = prediction.point
    _write(canvas_HWC, _answer(prediction, min_confidence), 4, 18)
    # OpenCV's own font has no Greek letters.
    _write(canvas_HWC, f"lambda {point.lam:g}, width {point.width:g} ({source})", 4, size_wh[1] - 8)
    return canvas_HWC


def _answer(seen: Prediction, min_confidence: float) -> str:
    if is_unknown(seen, min_confidence):
        return f"{UNKNOWN} (best {seen.confidence:.0%})"
    return f"{seen.class_name} {seen.confidence:.0%}"


def _write(canvas_HWC: npt.NDArray[np.uint8], text: str, x: int, y: int) -> None:
    """Write white text with a black edge; further left than `x`, and smaller, where there is no room for it."""
    (length_px, _), _ = cv2.getTextSize(text, _FONT, _TEXT_SCALE, _EDGE_PX)
    room_px = canvas_HWC.shape[1] - 2 * _EDGE_PX
    if room_px <= 0:
        return
    scale = _TEXT_SCALE * min(1.0, room_px / length_px)
    x = max(_EDGE_PX, min(x, canvas_HWC.shape[1] - _EDGE_PX - length_px))
    for colour, thickness in ((_BLACK, _EDGE_PX), (_WHITE, 1)):
        cv2.putText(canvas_HWC, text, (x, y), _FONT, scale, colour, thickness, cv2.LINE_AA)
