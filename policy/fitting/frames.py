"""Frames as the policy sees them: each is one network input, or the regions of one image; in sessions, in their order.

Shape legend: N images, F frames, H height, W width, C channels (RGB), S statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oat_runtime.architecture import InputSpec
from oat_runtime.compat import Self
from oat_runtime.data import LEAST_TO_FIT, Skipped
from oat_runtime.data.boxes import BoxFrame, BoxIndex
from oat_runtime.data.boxes.crops import cut_out, frame_crops
from oat_runtime.errors import DataError, InputError
from oat_runtime.image import unit_planes
from policy.image import Images, chosen_regions, mean_statistics

STILL_S = 1.0
"""Time between frames with boxes as the policy's clock counts it: stills that were taken seconds to minutes apart."""
Statistics = NDArray[np.float64]
_Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """What the network sees of some frames.

    Attributes:
        images_NHWC: uint8 RGB network inputs, frame by frame.
        start_F: (F + 1,): the inputs of frame f are start_F[f] to start_F[f + 1].
        session_F: number of the session of each frame, ascending. Frames of a session resemble each other.
        frame_s: seconds between two frames of a session.
    """

    images_NHWC: Images
    start_F: _Ints
    session_F: _Ints
    frame_s: float = 1 / 30

    @classmethod
    def of_images(cls, images_NHWC: Images) -> Self:
        """Return frames of one input each, of one session.

        Raises:
            InputError: too few images for a fit, or not uint8 RGB.
        """
        num = len(images_NHWC)
        if images_NHWC.dtype != np.uint8 or images_NHWC.ndim != 4 or num < LEAST_TO_FIT:
            raise InputError(
                f"expected uint8 RGB images (N, H, W, 3) with N >= {LEAST_TO_FIT}, "
                f"got {images_NHWC.dtype} {images_NHWC.shape}"
            )
        return cls(images_NHWC, np.arange(num + 1), np.zeros(num, np.int64))

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.session_F)

    @property
    def num_inputs_F(self) -> _Ints:
        """How many inputs each frame has."""
        return np.diff(self.start_F)

    def at(self, frame_G: _Ints) -> Frames:
        """Return some of the frames, named by their places, ascending."""
        num_G = self.num_inputs_F[frame_G]
        start_G = np.concatenate(([0], np.cumsum(num_G)))
        first_G = self.start_F[:-1][frame_G] - start_G[:-1]
        input_N = np.arange(start_G[-1]) + np.repeat(first_G, num_G)
        return Frames(self.images_NHWC[input_N], start_G, self.session_F[frame_G], self.frame_s)

    def spread(self, most: int) -> _Ints:
        """Return the places of at most so many of the frames, evenly spread."""
        return np.linspace(0, len(self) - 1, min(most, len(self))).astype(np.int64)

    def statistics(self) -> Statistics:
        """Return the statistics of each frame (F, S), means over its inputs, as the node takes them."""
        return statistics_of(self.images_NHWC, self.start_F)


def statistics_of(images_NHWC: Images, start_F: _Ints | None = None) -> Statistics:
    """Return the mean statistics of each frame's inputs (F, S); without `start_F`, each image is a frame."""
    starts = np.arange(len(images_NHWC) + 1) if start_F is None else start_F
    return np.array(
        [
            mean_statistics(unit_planes(images_NHWC[begin:end]))
            for begin, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)
        ]
    )


def region_frames(
    frames: Sequence[BoxFrame], index: BoxIndex, spec: InputSpec, skipped: Skipped | None = None
) -> Frames:
    """Read the regions of frames with boxes as a box-trained network sees them, those that statistics are taken of.

    Args:
        frames: session by session.
        index: of all frames.
        spec: of the network's input.
        skipped: takes frames without regions, and images that cannot be read, and tells what the index left out; None:
            the former are left out.

    Raises:
        DataError: no frame has regions, or an image cannot be read and nothing takes it.
    """
    if skipped is not None:
        for line in index.left_out.rows():
            skipped.tell(line.strip())
    inputs, nums, sessions = [], [], []
    for frame in frames:
        try:
            image_HWC = frame.read()
        except DataError as error:
            if skipped is None:
                raise
            skipped.add(error)
            continue
        height, width = image_HWC.shape[:2]
        found = frame_crops(frame, index, height=height, width=width, spec=spec)
        if len(found.labels_N):
            boxes_N4 = found.boxes_N4[chosen_regions(len(found.labels_N))]
            inputs += cut_out(image_HWC, boxes_N4, spec)
            nums.append(len(boxes_N4))
            sessions.append(frame.session)
        elif skipped is not None:
            skipped.add(DataError(f"{frame.name} has no region of at least {index.rules.min_side_px} pixels"))
    if not inputs:
        raise DataError(
            f"{index.root}: {len(frames)} frames hold no region of at least {index.rules.min_side_px} pixels: name "
            "frames with larger boxes, or ask for background in data.yaml"
        )
    order = {session: number for number, session in enumerate(dict.fromkeys(sessions))}
    session_F = np.array([order[session] for session in sessions])
    return Frames(np.stack(inputs), np.cumsum([0, *nums]), session_F, STILL_S)
