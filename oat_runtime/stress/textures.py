"""Draw random fields without any photograph: the cloud in fog, and the frosted pane in frost."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.float32]


def plasma(side: int, *, decay: float, rng: np.random.Generator) -> Pixels:
    """Draw a diamond-square fractal (Fournier, Fussell and Carpenter 1982) on a torus.

    Args:
        side: least height and width, in pixels; the next power of two is drawn.
        decay: how much smoother each level is than the one before. As in the published fog, where the amplitude is
            multiplied in twice, a level's amplitude falls by decay squared.
        rng: the source of chance.

    Returns:
        float32 (height, width) in [0, 1], both ends reached.
    """
    grid, amplitude = np.zeros((1, 1)), 1.0
    while len(grid) < side:
        fine = np.zeros((2 * len(grid), 2 * len(grid)))
        wobble = rng.uniform(-amplitude, amplitude, size=(3, *grid.shape))
        right, below = np.roll(grid, -1, 1), np.roll(grid, -1, 0)
        centre = (grid + right + below + np.roll(right, -1, 0)) / 4 + wobble[0]
        fine[::2, ::2], fine[1::2, 1::2] = grid, centre
        fine[::2, 1::2] = (grid + right + centre + np.roll(centre, 1, 0)) / 4 + wobble[1]
        fine[1::2, ::2] = (grid + below + centre + np.roll(centre, 1, 1)) / 4 + wobble[2]
        grid, amplitude = fine, amplitude / decay**2
    return np.asarray((grid - grid.min()) / np.ptp(grid), np.float32)


def ice_pane(height: int, width: int, *, rng: np.random.Generator) -> Pixels:
    """Draw a frosted pane: an uneven bluish-white film with brighter needles that grew from a few seeds.

    Args:
        height: rows, in pixels.
        width: columns, in pixels.
        rng: the source of chance.

    Returns:
        float32 RGB (height, width, 3) in [0, 1].
    """
    short = min(height, width)
    film = np.zeros((height, width), np.float32)
    for cells, weight in ((2, 0.9), (4, 0.6), (8, 0.5), (16, 0.35)):
        grid = rng.normal(size=(2 + cells * height // short, 2 + cells * width // short)).astype(np.float32)
        film += np.float32(weight) * np.asarray(cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC))
    needles = np.zeros((height, width), np.uint8)
    for _ in range(5):
        seed, direction = rng.uniform(0, 1, size=2) * (width, height), rng.uniform(0, 2 * math.pi)
        for angle in direction + rng.normal(scale=0.6, size=7):
            tip = seed + short * rng.uniform(0.15, 0.6) * np.array([math.cos(angle), math.sin(angle)])
            ends = (np.vstack([seed, tip]) * 16).astype(np.int32)  # OpenCV's shift=4: sixteenths of a pixel
            shade = int(rng.integers(90, 255))
            cv2.polylines(needles, [ends], False, shade, max(1, short // 48), cv2.LINE_AA, 4)
    pane = np.clip(0.35 + 0.22 * film + 0.45 * needles.astype(np.float32) / 255, 0, 1)
    return pane[..., None].astype(np.float32) * np.array([0.86, 0.94, 1.0], np.float32)
