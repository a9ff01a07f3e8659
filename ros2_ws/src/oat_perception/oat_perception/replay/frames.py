"""Read frames with boxes to replay: one session of a data set, each with the regions that a detector would name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from oat_runtime.architecture import InputSpec
from oat_runtime.data import data_roots, load_frames
from oat_runtime.data.boxes import BOX_SOURCES, BoxFrame, BoxIndex, frames_of_split
from oat_runtime.data.boxes.crops import frame_crops
from oat_runtime.data.boxes.sample import fetch_sample
from oat_runtime.errors import ConfigError, DataError
from oat_runtime.files import expanded, user_cache

Bytes = npt.NDArray[np.uint8]
Boxes = npt.NDArray[np.int64]
Labels = npt.NDArray[np.int64]

_MARKER = Path("robocup") / "sessions.csv"


@dataclass(frozen=True, slots=True, eq=False)
class LabelledFrame:
    """A frame, and what is in it.

    Attributes:
        image_HWC: uint8 RGB.
        boxes_N4: left, top, right and bottom in pixels: the boxes drawn by hand, then background, which stands for a
            detector's false alarms.
        labels_N: places in the class names.
    """

    image_HWC: Bytes
    boxes_N4: Boxes
    labels_N: Labels


class SessionFrames:
    """The frames of one session in their order of time, decoded when they are asked for.

    Attributes:
        class_names: what labels mean.
    """

    def __init__(self, index: BoxIndex, frames: tuple[BoxFrame, ...]) -> None:
        """Hold these frames of an index."""
        self.class_names = index.class_names
        self._index, self._frames = index, frames

    def __len__(self) -> int:
        """Number of frames."""
        return len(self._frames)

    def __getitem__(self, at: int) -> LabelledFrame:
        """Return a frame with the regions that training and benchmarks take of it."""
        frame = self._frames[at]
        image_HWC = frame.read()
        height, width = image_HWC.shape[:2]
        # Only the margin and the aspect ratio count: backgrounds keep away from boxes as a square network sees them.
        spec = InputSpec(height=64, width=64, region_margin=self._index.rules.margin)
        crops = frame_crops(frame, self._index, height=height, width=width, spec=spec)
        return LabelledFrame(image_HWC, crops.boxes_N4, crops.labels_N)


def is_session(source: str) -> bool:
    """Return whether a source is `DATASET/SESSION`, or a data set of frames with boxes."""
    return source.partition("/")[0] in BOX_SOURCES


def open_session(source: str, root: Path | None = None) -> SessionFrames:
    """Return the test frames of one session, or of all.

    Args:
        source: `DATASET/SESSION`, such as `robocup/20260502_r5`, or `DATASET`.
        root: folder that holds the data set; None: where `oat_runtime.data.roots` says.

    Raises:
        DataError: no such data set or session, or the copy is damaged.
    """
    name, _, session = source.partition("/")
    index = _index(name, root)
    frames = frames_of_split(index, "test")
    found = tuple(frame for frame in frames if session in ("", frame.session) and len(frame.labels_N))
    if not found:
        names = sorted({frame.session for frame in frames})
        raise DataError(f"{name} has no test session {session!r}: expected one of {', '.join(names)}")
    return SessionFrames(index, found)


@lru_cache(maxsize=8)
def _index(name: str, root: Path | None) -> BoxIndex:
    return load_frames(name, root=root)


def find_robocup(data_root: str = "", *, progress: Callable[[int, int], None] | None = None) -> Path:
    """Return the folder that holds `robocup`, or download a sample of it (40 MB) to the user's cache.

    Args:
        data_root: a folder that must hold it; empty: see `oat_runtime.data.roots`.
        progress: of the download; see `fetch_sample`.

    Raises:
        DataError: it is nowhere, and cannot be downloaded.
    """
    roots, cache = data_roots(expanded(data_root) if data_root else None), user_cache()
    is_named = len(roots) == 1
    sample = None if cache is None or is_named else cache / "data" / "robocup-sample"
    for root in (*roots, *([] if sample is None else [sample])):
        if (root / _MARKER).is_file():
            return root
    missing = f"no frames of robots here: expected {_MARKER} under {' or '.join(map(str, roots))}"
    if sample is None:
        raise DataError(f"{missing}: set OAT_DATA to the folder that holds it")
    try:
        fetch_sample(sample, progress=progress)
    except (DataError, ConfigError) as error:
        raise DataError(f"{missing}, and {error}: set OAT_DATA to the folder that holds it") from error
    return sample
