"""Say which regions of a frame become images: its boxes, and background away from all of them."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from oat_runtime.architecture import InputSpec
from oat_runtime.data.boxes.description import CropRules
from oat_runtime.data.boxes.index import BoxFrame, BoxIndex
from oat_runtime.image import enlarged, fit_frame, regions

_NUM_TRIES = 100
_LARGEST_SHARE = 0.25
"""Largest side of a background box, as a share of the frame's shorter side; boxes of robots are smaller by far."""


@dataclass(frozen=True, slots=True, eq=False)
class FrameCrops:
    """What one frame gives.

    Attributes:
        boxes_N4: int64, left, top, right and bottom in pixels, without margin.
        labels_N: int64.
        names: the frame's name, and the line of its text file or the number of the background.
        too_small: names of boxes that are left out.
        without_room: names of backgrounds for which no place was found.
    """

    boxes_N4: npt.NDArray[np.int64]
    labels_N: npt.NDArray[np.int64]
    names: tuple[str, ...]
    too_small: tuple[str, ...]
    without_room: tuple[str, ...]

    @property
    def sides_N(self) -> npt.NDArray[np.int64]:
        """The longer side of each box in pixels, int64."""
        return _longer_sides(self.boxes_N4)


def frame_crops(frame: BoxFrame, index: BoxIndex, *, height: int, width: int, spec: InputSpec) -> FrameCrops:
    """Choose the crops of a frame, always the same ones.

    Args:
        frame: the frame.
        index: says which crops are made, and the label of background.
        height: of its image, in pixels.
        width: of its image, in pixels.
        spec: the network's input.
    """
    rules, background = index.rules, index.background
    boxes_N4 = frame.boxes(height, width)
    is_kept_N = _longer_sides(boxes_N4) >= rules.min_side_px
    names = [f"{frame.name}#{line}" for line in frame.lines_N.tolist()]
    drawn, drawn_names, without_room = [], [], []
    if background is not None:
        rng = np.random.default_rng(list(hashlib.sha256(frame.name.encode()).digest()))
        for number in range(1, rules.backgrounds_per_frame + 1):
            box = _background(boxes_N4, rng, height=height, width=width, rules=rules, spec=spec)
            name = f"{frame.name}#background-{number}"
            if box is None:
                without_room.append(name)
            else:
                drawn.append(box)
                drawn_names.append(name)
    return FrameCrops(
        np.concatenate((boxes_N4[is_kept_N], np.array(drawn, np.int64).reshape(-1, 4))),
        np.concatenate((frame.labels_N[is_kept_N], np.full(len(drawn), background or 0, np.int64))),
        tuple([name for name, kept in zip(names, is_kept_N, strict=True) if kept] + drawn_names),
        tuple(name for name, kept in zip(names, is_kept_N, strict=True) if not kept),
        tuple(without_room),
    )


def cut_out(
    image_HWC: npt.NDArray[np.uint8], boxes_N4: npt.NDArray[np.int64], spec: InputSpec
) -> list[npt.NDArray[np.uint8]]:
    """Return each box as the network's input in bytes; `OATRuntime.predict_regions` makes the same of it."""
    return [fit_frame(view, spec) for view in regions(image_HWC, boxes_N4, spec)]


def _longer_sides(boxes_N4: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    longer_N: npt.NDArray[np.int64] = (boxes_N4[:, 2:] - boxes_N4[:, :2]).max(axis=1)
    return longer_N


def _background(
    boxes_N4: npt.NDArray[np.int64],
    rng: np.random.Generator,
    *,
    height: int,
    width: int,
    rules: CropRules,
    spec: InputSpec,
) -> tuple[int, int, int, int] | None:
    """Draw a square whose region touches no box, the small ones included; sides are even on a logarithmic scale."""
    least = rules.min_side_px
    most = max(least, _LARGEST_SHARE * min(height, width))
    for _ in range(_NUM_TRIES):
        side = min(round(math.exp(rng.uniform(math.log(least), math.log(most)))), height, width)
        left, top = (int(rng.integers(0, size - side, endpoint=True)) for size in (width, height))
        box = left, top, left + side, top + side
        seen_left, seen_top, seen_right, seen_bottom = enlarged(box, height=height, width=width, spec=spec)
        touches_N = (boxes_N4[:, 0] < seen_right) & (boxes_N4[:, 2] > seen_left)
        touches_N &= (boxes_N4[:, 1] < seen_bottom) & (boxes_N4[:, 3] > seen_top)
        if not touches_N.any():
            return box
    return None
