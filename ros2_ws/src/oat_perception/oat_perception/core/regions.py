"""Join an image with the detections made on it, and turn their boxes into pixels."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from oat_runtime.errors import InputError

_NUM_IMAGES = 10
"""Number of images that wait for their detections: a third of a second at 30 Hz, more than detectors need."""
_MAX_ANGLE_RAD = 1e-3

_Image = TypeVar("_Image")
BoxXYXY = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels, the last two exclusive."""


@dataclass(frozen=True, slots=True)
class Matched(Generic[_Image]):
    """An image and the detections (vision_msgs/Detection2DArray) that carry its stamp."""

    image: _Image
    detections: Any


class StampMatcher(Generic[_Image]):
    """Pairs images with detections by their stamp, whichever comes first. Used from one thread."""

    def __init__(self) -> None:
        """Start with nothing kept."""
        self._images: OrderedDict[int, _Image] = OrderedDict()
        self._early: tuple[int, Any] | None = None

    def put_image(self, stamp_ns: int, image: _Image) -> Matched[_Image] | None:
        """Store an image for its detections; return the pair if they came before it."""
        if self._early is not None and self._early[0] == stamp_ns:
            (_, detections), self._early = self._early, None
            return Matched(image, detections)
        self._images[stamp_ns] = image
        if len(self._images) > _NUM_IMAGES:
            self._images.popitem(last=False)
        return None

    def put_detections(self, stamp_ns: int, detections: Any) -> Matched[_Image] | None:
        """Return the pair if the image is here, and drop the images before it. Otherwise the detections wait for it.

        Raises:
            InputError: earlier detections were still without an image, and are given up.
        """
        if stamp_ns in self._images:
            while True:
                kept_ns, image = self._images.popitem(last=False)
                if kept_ns == stamp_ns:
                    return Matched(image, detections)
        lost, self._early = self._early, (stamp_ns, detections)
        if lost is not None:
            raise InputError(
                f"detections without an image: expected an image stamped {lost[0]} ns among the last {_NUM_IMAGES}, "
                "got none: stamp detections with the stamp of the image they were made on"
            )
        return None


def box_xyxy(box: Any, *, height: int, width: int) -> BoxXYXY:
    """Return the pixels of a vision_msgs/BoundingBox2D, cut off at the image's border.

    Args:
        box: centre, size and angle, in pixels and radians.
        height: of the image, in pixels.
        width: of the image, in pixels.

    Raises:
        InputError: not finite, without area, rotated, or wholly outside the image.
    """
    x, y = box.center.position.x, box.center.position.y
    if not all(map(math.isfinite, (x, y, box.center.theta, box.size_x, box.size_y))):
        raise InputError(f"bad region: expected finite numbers, got centre ({x}, {y}), size {box.size_x}x{box.size_y}")
    if abs(box.center.theta) > _MAX_ANGLE_RAD:
        raise InputError(f"bad region: expected an upright box, got one rotated by {box.center.theta:.3f} rad")
    # Each border within the image, from both sides: the sum of two finite numbers need not be finite.
    left, right = (min(max(0.0, x + side * box.size_x / 2), float(width)) for side in (-1, 1))
    top, bottom = (min(max(0.0, y + side * box.size_y / 2), float(height)) for side in (-1, 1))
    pixels = math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)
    if box.size_x <= 0 or box.size_y <= 0 or right <= left or bottom <= top:
        raise InputError(
            f"bad region: expected a box with pixels inside the {width}x{height} image, "
            f"got centre ({x:g}, {y:g}), size {box.size_x:g}x{box.size_y:g}"
        )
    return pixels
