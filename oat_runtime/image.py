"""From a camera frame of any size to the network's input, as the bundle declares it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from oat_runtime.architecture import InputSpec
from oat_runtime.errors import InputError

Floats = npt.NDArray[np.float32]
MAX_SIDE_PX = 16384
"""Longer sides are refused: nothing that small a network needs, and arithmetic on a forged size stays harmless."""


def network_input(frame_HWC: npt.NDArray[np.uint8], spec: InputSpec) -> npt.NDArray[np.float32]:
    """Fit a frame to the network's input size and scale it to [0, 1].

    Args:
        frame_HWC: uint8 RGB frame of any size; any strides (a view or a flipped image will do). It is not changed.
        spec: the bundle's declaration of its input.

    Returns:
        x_CHW: float32 RGB in [0, 1], C-contiguous, freshly allocated. A frame of exactly the declared size gives
        `frame / 255` to the bit.

    Raises:
        InputError: the frame is not a non-empty uint8 array of shape H×W×3, or a side exceeds `MAX_SIDE_PX`.
    """
    return unit_planes(fit_frame(frame_HWC, spec))


def unit_planes(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Scale uint8 images (..., H, W, C) to float32 (..., C, H, W) in [0, 1], C-contiguous and freshly allocated."""
    planes = np.moveaxis(images, -1, -3)
    scaled: npt.NDArray[np.float32] = np.divide(planes, np.float32(255), out=np.empty(planes.shape, np.float32))
    return scaled


def fit_frame(frame_HWC: npt.NDArray[np.uint8], spec: InputSpec) -> npt.NDArray[np.uint8]:
    """Fit a frame to the network's input size, and leave its pixels as bytes.

    Args:
        frame_HWC: uint8 RGB frame of any size. It is not changed.
        spec: the bundle's declaration of its input.

    Returns:
        uint8 RGB of the declared size; a frame of exactly that size is returned as it is.

    Raises:
        InputError: the frame is not a non-empty uint8 array of shape H×W×3, or a side exceeds `MAX_SIDE_PX`.
    """
    _check(frame_HWC)
    return frame_HWC if frame_HWC.shape[:2] == (spec.height, spec.width) else _fit(frame_HWC, spec)


def fit_matrices(height: int, width: int, spec: InputSpec) -> tuple[Floats, Floats]:
    """Return what `fit_frame` does to one colour of a frame of this size, but for its rounding to bytes.

    An attack follows its gradient back to the frame's pixels.

    Returns:
        rows_Hh and columns_Ww, float32: the fitted colour is `rows_Hh @ colour_hw @ columns_Ww.T`.
    """
    place = _placement(height, width, spec)
    rows, columns = (part.stop - part.start for part in place.source)
    method = _method(rows, columns, place.rows, place.columns, spec)
    rows_Hh, columns_Ww = np.zeros((spec.height, height), np.float32), np.zeros((spec.width, width), np.float32)
    for matrix, part, to, first in (
        (rows_Hh, place.source[0], place.rows, place.top),
        (columns_Ww, place.source[1], place.columns, place.left),
    ):
        size = part.stop - part.start
        matrix[first : first + to, part] = cv2.resize(np.eye(size, dtype=np.float32), (size, to), interpolation=method)
    return rows_Hh, columns_Ww


def regions(frame_HWC: npt.NDArray[np.uint8], boxes_N4: npt.ArrayLike, spec: InputSpec) -> list[npt.NDArray[np.uint8]]:
    """Return views of what the network sees of one frame for each box, before it is fitted; none for no boxes.

    Training on boxes cuts its crops out with this function too.

    Args:
        frame_HWC: uint8 RGB.
        boxes_N4: (left, top, right, bottom) of each box in whole pixels, right and bottom not included.
        spec: the bundle's declaration of its input; its margin enlarges each box.

    Raises:
        InputError: not a frame, or a box that is empty or not within the frame.
    """
    _check(frame_HWC)
    boxes = np.asarray(boxes_N4)
    if boxes.shape in ((0,), (0, 4)):
        return []
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype.kind not in "iu":
        raise InputError(
            "boxes must be whole numbers of shape Nx4 (left, top, right, bottom), "
            f"got {boxes.dtype} of shape {boxes.shape}"
        )
    height, width = frame_HWC.shape[:2]
    views = []
    for left, top, right, bottom in boxes.tolist():
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise InputError(
                f"a box must not be empty, and it must lie within the {width}x{height} frame, got left {left}, "
                f"top {top}, right {right}, bottom {bottom}: clip it first"
            )
        left, top, right, bottom = enlarged((left, top, right, bottom), height=height, width=width, spec=spec)
        views.append(frame_HWC[top:bottom, left:right])
    return views


def enlarged(box: tuple[int, int, int, int], *, height: int, width: int, spec: InputSpec) -> tuple[int, int, int, int]:
    """Return the region around a box that the network sees: with a margin, and in the shape of `region_size`.

    A region that would leave the frame is moved into it. If it is longer than the frame, it ends where the frame ends,
    and is then fitted as any frame of another shape.

    Args:
        box: (left, top, right, bottom) in whole pixels, within the frame.
        height: of the frame, in pixels.
        width: of the frame, in pixels.
        spec: the bundle's declaration of its input; without a margin, the region is the box.
    """
    if spec.region_margin is None:
        return box
    left, top, right, bottom = box
    rows_wanted, columns_wanted = region_size(bottom - top, right - left, spec)
    rows, columns = min(height, round(rows_wanted)), min(width, round(columns_wanted))
    top = min(max(0, (top + bottom - rows) // 2), height - rows)
    left = min(max(0, (left + right - columns) // 2), width - columns)
    return left, top, left + columns, top + rows


def region_size(height: float, width: float, spec: InputSpec) -> tuple[float, float]:
    """Return height and width in pixels of the region around a box of this size, wherever it lies.

    It has the input's aspect ratio, and so takes in what stands beside a narrow box. With `stretch` it keeps the box's.
    """
    if spec.region_margin is None:
        return height, width
    scale = 1 + 2 * spec.region_margin
    if spec.resize == "stretch":
        return height * scale, width * scale
    scale *= max(height / spec.height, width / spec.width)
    return spec.height * scale, spec.width * scale


def _check(frame: object) -> None:
    if not isinstance(frame, np.ndarray):
        raise InputError(
            f"a frame must be a NumPy array of uint8 and shape HxWx3 in RGB order, got {type(frame).__name__}: "
            "convert it, say with numpy.asarray"
        )
    got = f"got {frame.dtype} of shape {'x'.join(map(str, frame.shape)) or '()'}"
    if frame.dtype != np.uint8:
        raise InputError(f"a frame must be uint8 in 0..255, {got}: scale it, say (x * 255).round().astype(numpy.uint8)")
    if frame.ndim == 2 or (frame.ndim == 3 and frame.shape[2] == 1):
        raise InputError(
            f"a frame must be RGB of shape HxWx3, {got}: this is a grey image; "
            "convert it with cv2.cvtColor(frame, cv2.COLOR_GRAY2RGB)"
        )
    if frame.ndim != 3 or frame.shape[2] != 3:
        raise InputError(
            f"a frame must be one RGB image of shape HxWx3, {got}: drop an alpha channel with frame[..., :3], "
            "move a leading channel axis to the end, and pass the images of a batch one at a time"
        )
    if frame.size == 0:
        raise InputError(f"a frame must hold at least one pixel, {got}: check the source, or the region cut out of it")

    if max(frame.shape[:2]) > MAX_SIDE_PX:
        raise InputError(f"a frame must have at most {MAX_SIDE_PX} pixels a side, {got}: make it smaller, or cut it")


@dataclass(frozen=True, slots=True)
class _Placement:
    """The part of a frame that is scaled, the size it gets, and where it stands in the input."""

    source: tuple[slice, slice]
    rows: int
    columns: int
    top: int = 0
    left: int = 0


def _placement(height: int, width: int, spec: InputSpec) -> _Placement:
    whole = slice(0, height), slice(0, width)
    if spec.resize == "stretch":
        return _Placement(whole, spec.height, spec.width)
    if spec.resize == "center_crop":
        scale = min(height / spec.height, width / spec.width)
        rows, columns = max(1, round(spec.height * scale)), max(1, round(spec.width * scale))
        top, left = (height - rows) // 2, (width - columns) // 2
        return _Placement((slice(top, top + rows), slice(left, left + columns)), spec.height, spec.width)
    scale = min(spec.height / height, spec.width / width)
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    return _Placement(whole, rows, columns, (spec.height - rows) // 2, (spec.width - columns) // 2)


def _fit(frame_HWC: npt.NDArray[np.uint8], spec: InputSpec) -> npt.NDArray[np.uint8]:
    height, width = frame_HWC.shape[:2]
    place = _placement(height, width, spec)
    resized = _resize(frame_HWC[place.source], place.rows, place.columns, spec)
    if (place.rows, place.columns) == (spec.height, spec.width):
        return resized
    padded = np.zeros((spec.height, spec.width, 3), np.uint8)
    padded[place.top : place.top + place.rows, place.left : place.left + place.columns] = resized
    return padded


def _resize(frame_HWC: npt.NDArray[np.uint8], height: int, width: int, spec: InputSpec) -> npt.NDArray[np.uint8]:
    own_height, own_width = frame_HWC.shape[:2]
    method = _method(own_height, own_width, height, width, spec)
    resized = cv2.resize(frame_HWC, (width, height), interpolation=method)
    return np.asarray(resized, np.uint8)


def _method(height: int, width: int, to_height: int, to_width: int, spec: InputSpec) -> int:
    shrinks = to_height <= height and to_width <= width
    return cv2.INTER_AREA if spec.interpolation == "area" and shrinks else cv2.INTER_LINEAR
