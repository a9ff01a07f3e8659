"""Change an image between camera and node, other than by an attack: its size, and a corruption."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from oat_perception.replay.frames import Bytes
from oat_runtime.architecture import InputSpec
from oat_runtime.image import fit_frame
from oat_runtime.stress.corruptions import corrupt


@dataclass(frozen=True, slots=True)
class Treatment:
    """What happens to one image besides an attack; the fields are keys of its line in the truth file.

    Attributes:
        phase: name of the scenario's phase; empty without a scenario.
        corruption: a key of `CORRUPTIONS`, or `none`.
        severity: 1 to 5; 0 without a corruption.
    """

    phase: str
    corruption: str
    severity: int


def disturb(image_HWC: Bytes, corruption: str, severity: int, *, seed: int, sequence: int) -> Bytes:
    """Return the image with a corruption. Its noise depends only on seed and frame number, so it can be repeated.

    Args:
        image_HWC: uint8 RGB; not changed.
        corruption: a key of `CORRUPTIONS`, or `none`.
        severity: 1 to 5; ignored without a corruption.
        seed: of the whole run.
        sequence: number of the frame within it.
    """
    if corruption == "none":
        return image_HWC
    return corrupt(image_HWC, corruption, severity, rng=np.random.default_rng([seed, sequence]))


def fit_square(image_HWC: Bytes, side_px: int) -> Bytes:
    """Return the largest centred square of an RGB image, scaled to `side_px`; 0 leaves the image as it is."""
    if side_px == 0 or image_HWC.shape[:2] == (side_px, side_px):
        return image_HWC
    return fit_frame(image_HWC, InputSpec(height=side_px, width=side_px))
