"""Cut the boxes of detections out of an image, and say what is asked of regions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from oat_runtime.architecture import InputSpec
from oat_runtime.errors import ConfigError, InputError
from oat_runtime.image import region_size, regions

_MAX_ANGLE_RAD = 1e-3
"""Least angle at which a box is turned: at the border of a 4K image it moves a pixel by two."""
_MOST_AREA = 4
"""Most pixels of a turned region, in those of its image. Up to a ratio of sides of 3.7 to 1, no region reaches it."""

BoxXYXY = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels, the last two exclusive."""
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class RegionSettings:
    """What is asked of regions: the parameters of the same names.

    Attributes:
        most: regions of an image that are classified; 0: whole images only.
        queue_s: time for which images wait for their detections.
        queue_bytes: most memory of the images that wait.
        wait_s: time without detections after which whole images are answered.
        top_k: hypotheses of a region; 0: all classes.
        min_score: least score of a hypothesis.
        smoothing_s: time constant of a track's mean; 0: each image by itself.
    """

    most: int = 0
    queue_s: float = 2.0
    queue_bytes: int = 256_000_000
    wait_s: float = 1.0
    top_k: int = 5
    min_score: float = 0.0
    smoothing_s: float = 0.0

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> RegionSettings:
        """Return the settings of the values of all parameters.

        Raises:
            ConfigError: images would be let go of before they had waited for their detections.
        """
        queue_s, wait_s = float(values["regions_queue_s"]), float(values["regions_wait_s"])
        if values["max_regions"] and queue_s < wait_s:
            raise ConfigError(
                f"regions_queue_s must be at least regions_wait_s, got {queue_s:g} and {wait_s:g}: raise the first one"
            )
        return cls(
            most=int(values["max_regions"]),
            queue_s=queue_s,
            queue_bytes=int(values["regions_queue_mb"]) * 10**6,
            wait_s=wait_s,
            top_k=int(values["regions_top_k"]),
            min_score=float(values["regions_min_score"]),
            smoothing_s=float(values["regions_smoothing_s"]),
        )


@dataclass(frozen=True, slots=True)
class RotatedBox:
    """A box whose sides are not those of the image.

    Attributes:
        x: centre from the left, in pixels.
        y: centre from the top.
        width: along the box's own x axis.
        height: along its own y axis.
        angle_rad: from the image's x axis (right) to the box's, positive towards the image's y axis (down).
    """

    x: float
    y: float
    width: float
    height: float
    angle_rad: float

    def corners(self) -> npt.NDArray[np.float64]:
        """Return the corners (4, 2) in pixels, in order around the box, the first at its own upper left."""
        cos, sin = math.cos(self.angle_rad), math.sin(self.angle_rad)
        own_42 = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (self.width / 2, self.height / 2)
        corners_42: npt.NDArray[np.float64] = own_42 @ np.array([[cos, sin], [-sin, cos]]) + (self.x, self.y)
        return corners_42


Box = BoxXYXY | RotatedBox


def cut_out(image_HWC: Pixels, box: Box, spec: InputSpec) -> Pixels:
    """Return the pixels of a box, with the margin of a network that was trained on boxes.

    They are a view where the box is upright, and a turned copy where it is rotated. Where a rotated box reaches beyond
    the image, the pixels of the border are repeated. A turned region has at most four times the image's pixels: a
    larger one is sampled as much more coarsely.
    """
    if not isinstance(box, RotatedBox):
        return regions(image_HWC, [box], spec)[0]
    box = _enlarged(box, spec, most=math.hypot(*image_HWC.shape[:2]))
    columns, rows = math.ceil(box.width), math.ceil(box.height)
    pitch = max(1.0, math.sqrt(columns * rows / (_MOST_AREA * image_HWC.shape[0] * image_HWC.shape[1])))
    columns, rows = max(1, int(columns / pitch)), max(1, int(rows / pitch))
    cos, sin = pitch * math.cos(box.angle_rad), pitch * math.sin(box.angle_rad)
    turn = np.array([[cos, -sin], [sin, cos]])
    # A pixel's centre is half a pixel from its corner, in the image and in the box.
    centre = np.array([box.x - 0.5, box.y - 0.5])
    shift = centre - turn @ np.array([(columns - 1) / 2, (rows - 1) / 2])
    turned = cv2.warpAffine(
        image_HWC,
        np.column_stack([turn, shift]),
        (columns, rows),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(turned, np.uint8)


def _enlarged(box: RotatedBox, spec: InputSpec, *, most: float) -> RotatedBox:
    """Return the region around a box that the network sees, as `oat_runtime.image.enlarged` does upright."""
    if spec.region_margin is None:
        return box
    height, width = region_size(box.height, box.width, spec)
    return replace(box, width=min(most, width), height=min(most, height))


def box_of(box: Any, *, height: int, width: int) -> Box:
    """Return the pixels of a vision_msgs/BoundingBox2D, an upright one cut off at the image's border.

    Args:
        box: centre, size and angle, in pixels and radians.
        height: of the image, in pixels.
        width: of the image, in pixels.

    Raises:
        InputError: not finite, without area, wholly outside the image, or rotated and larger than the image, which
            bounds what turning it costs.
    """
    x, y = box.center.position.x, box.center.position.y
    if not all(map(math.isfinite, (x, y, box.center.theta, box.size_x, box.size_y))):
        raise InputError(f"bad region: expected finite numbers, got centre ({x}, {y}), size {box.size_x}x{box.size_y}")
    angle_rad = math.remainder(box.center.theta, math.tau)
    if abs(angle_rad) > _MAX_ANGLE_RAD:
        return _rotated(RotatedBox(x, y, box.size_x, box.size_y, angle_rad), height=height, width=width)
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


def _rotated(box: RotatedBox, *, height: int, width: int) -> RotatedBox:
    got = f"got centre ({box.x:g}, {box.y:g}), size {box.width:g}x{box.height:g}, {box.angle_rad:.3f} rad"
    diagonal = math.hypot(width, height)
    if not (max(box.width, box.height) <= diagonal and box.width > 0 and 0 < box.width * box.height <= width * height):
        raise InputError(
            f"bad region: expected a rotated box of at most the image's diagonal and area ({width}x{height}), {got}"
        )
    if not (0 <= box.x < width and 0 <= box.y < height):
        raise InputError(f"bad region: expected a rotated box with its centre in the {width}x{height} image, {got}")
    return box
