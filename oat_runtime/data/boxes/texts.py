"""Read one text file of boxes: a line `class cx cy w h` each, in shares of the frame's width and height."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from oat_runtime.data.boxes.description import text_lines
from oat_runtime.errors import DataError, one_line, quoted

MOST_BYTES = 2**20
"""Of a text file: some 20,000 boxes."""
MOST_OUTSIDE = 0.002
"""Share of a frame's side by which a box may leave it: numbers are rounded. Boxes are then cut off at the border."""
_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?"
_BOX = re.compile(rf"[0-9]{{1,9}}(?:\s+{_NUMBER}){{4}}", re.ASCII)
_WANTED = "expected `class cx cy w h`"


def has_boxes(path: Path) -> bool:
    """Return whether the first line of a text file that is not empty is a box, whatever else it holds."""
    try:
        with path.open("rb") as file:
            start = file.read(4000).removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")[0]
        return _BOX.fullmatch(start.decode().strip()) is not None
    except (OSError, UnicodeDecodeError):
        return False


@dataclass(frozen=True, slots=True, eq=False)
class BoxText:
    """A text file's boxes.

    Attributes:
        indices_N: int64, of the classes.
        boxes_N4: float64, centre x, centre y, width and height in shares of the frame.
        lines_N: int64, counted from 1.
        repeated: lines that say what a line before says; they are not among the others.
    """

    indices_N: npt.NDArray[np.int64]
    boxes_N4: npt.NDArray[np.float64]
    lines_N: npt.NDArray[np.int64]
    repeated: tuple[int, ...]


def read_text(path: Path, num_classes: int) -> BoxText:
    """Read a text file. Empty lines are no boxes, and an empty file says that its frame shows none of the classes.

    Raises:
        DataError: by file and line, what is wrong: no box, an index without a name, a box outside the frame or
            without area; or a file that is too large, or not UTF-8.
    """
    indices, boxes, lines, repeated = [], [], [], []
    seen = set()
    for number, line in enumerate(text_lines(path, MOST_BYTES), 1):
        if not line:
            continue
        index, box = _box(f"{path}:{number}", line, num_classes)
        if (index, box) in seen:
            repeated.append(number)
            continue
        seen.add((index, box))
        indices.append(index)
        boxes.append(box)
        lines.append(number)
    of_lines = np.array(lines, np.int64)
    return BoxText(np.array(indices, np.int64), np.array(boxes).reshape(-1, 4), of_lines, tuple(repeated))


def _box(where: str, line: str, num_classes: int) -> tuple[int, tuple[float, ...]]:
    fields = line.split()
    if len(fields) != 5:
        more = ": outlines and points are not read, only boxes" if len(fields) > 5 else ""
        raise DataError(f"{where}: {_WANTED}, got {len(fields)} values{more}")
    if not re.fullmatch("[0-9]{1,9}", fields[0], re.ASCII):
        raise DataError(f"{where}: {_WANTED} with a whole number for the class, got {quoted(fields[0])}")
    index = int(fields[0])
    if index >= num_classes:
        raise DataError(
            f"{where}: expected a class of 0 to {num_classes - 1}, got {index}: add its name, or correct the line"
        )
    if not _BOX.fullmatch(line):
        wrong = next(field for field in fields[1:] if not re.fullmatch(_NUMBER, field, re.ASCII))
        raise DataError(f"{where}: {_WANTED} in shares of the frame, got {quoted(wrong)}")
    x, y, width, height = box = tuple(map(float, fields[1:]))
    if width <= 0 or height <= 0:
        raise DataError(
            f"{where}: expected a box with area, got {one_line(f'{fields[3]} x {fields[4]}')}: remove the line"
        )
    for centre, size in ((x, width), (y, height)):
        if not (centre - size / 2 >= -MOST_OUTSIDE and centre + size / 2 <= 1 + MOST_OUTSIDE):
            raise DataError(
                f"{where}: expected a box within the frame, all in shares of 0 to 1, got "
                f"{one_line(' '.join(fields[1:]))}: cut it off at the border"
            )
    return index, box
