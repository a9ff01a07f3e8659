"""Compute twelve cheap statistics of a network input that tell noise, blur and haze from a clean image.

Shape legend: C channels (RGB), H height, W width.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from oat_runtime.errors import InputError

Images = NDArray[np.uint8]
"""Network inputs as bytes, (N, H, W, C) RGB."""
_MIN_SIDE = 16
_MOST_REGIONS = 6
"""Of a frame, evenly spread: one of 64x64 takes 0.9 ms, and a mean over more says little more."""
_FLOOR = 1e-3
# Difference of two Laplacians: blind to edges and gradients of the scene (Immerkaer,
# "Fast noise variance estimation", 1996).
_NOISE_KERNEL = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
_NOISE_GAIN = 6.0
_SIGMA_PER_MAD = 1 / 0.6745
_HAZE_PATCH = np.ones((5, 5), np.uint8)
_HALF_GREY = 0.5 / 255

_Plane = NDArray[np.float32]


class ImageStatistics(NamedTuple):
    """Statistics of one image, in the order in which they make a vector. All NaN if the image was not in [0, 1]."""

    log_luma_noise: float
    """Log of the robust noise σ of the luma plane."""
    log_chroma_noise: float
    """The same of the noisier colour-difference plane: sensor noise differs between channels, texture hardly does."""
    log_sharpness: float
    """Log ratio of the finest band's energy to the next one's: low after blur."""
    log_contrast: float
    """Log of the standard deviation of luma."""
    brightness: float
    """Mean luma."""
    black_point: float
    """Second percentile of luma: raised by fog and brightness."""
    white_point: float
    """98th percentile of luma."""
    haze: float
    """Square root of the mean dark channel (He et al., "Single image haze removal", CVPR 2009), 5x5 patches."""
    log_saturation: float
    """Log of the mean spread between the channels."""
    blockiness: float
    """Log ratio of differences across the 8x8 grid of JPEG to all differences."""
    log_spikes: float
    """Log ratio of mean-square to robust noise σ: high under impulse noise."""
    log_flatness: float
    """Log10 of the share of equal neighbours: high after quantisation and nearest-neighbour scaling."""


UNUSABLE = ImageStatistics(*[math.nan] * len(ImageStatistics._fields))


def image_statistics(x_CHW: NDArray[np.float32]) -> ImageStatistics:
    """Return the statistics of a network input (about 0.3 ms for 32x32 on one core).

    Args:
        x_CHW: float32 RGB in [0, 1], at least 16 pixels a side.

    Returns:
        The statistics; all NaN (which the policy reads as INVALID) when a pixel is NaN or outside [0, 1].

    Raises:
        InputError: the array is not float32 with three channels and 16x16 pixels or more.
    """
    if x_CHW.dtype != np.float32 or x_CHW.ndim != 3 or x_CHW.shape[0] != 3 or min(x_CHW.shape[1:]) < _MIN_SIDE:
        raise InputError(
            f"expected a float32 RGB array (3, H, W) with H, W >= {_MIN_SIDE}, got {x_CHW.dtype} {x_CHW.shape}: "
            "pass the network's input of one frame"
        )
    lowest: _Plane = x_CHW.min(axis=0)
    highest: _Plane = x_CHW.max(axis=0)
    if not (float(lowest.min()) >= 0.0 and float(highest.max()) <= 1.0):
        return UNUSABLE
    red, green, blue = x_CHW
    luma: _Plane = 0.299 * red + 0.587 * green + 0.114 * blue
    luma_noise, luma_spread = _noise(luma)
    chroma_noise = max(_noise(red - luma)[0], _noise(blue - luma)[0])
    smooth = _blur(luma, 0.8)
    smoother = _blur(smooth, 1.4)
    fine, coarse = _energy(luma - smooth), _energy(smooth - smoother)
    tail = luma.size // 50
    ordered = np.partition(luma, (tail, luma.size - 1 - tail), axis=None)
    step_x: _Plane = np.abs(np.diff(luma, axis=1))
    step_y: _Plane = np.abs(np.diff(luma, axis=0)).T
    flat = float(np.mean(step_x < _HALF_GREY)) + float(np.mean(step_y < _HALF_GREY))
    return ImageStatistics(
        log_luma_noise=math.log(luma_noise + _FLOOR),
        log_chroma_noise=math.log(chroma_noise + _FLOOR),
        log_sharpness=math.log((fine + 1e-6) / (coarse + 1e-6)),
        log_contrast=math.log(float(luma.std()) + 1e-2),
        brightness=float(luma.mean()),
        black_point=float(ordered[tail]),
        white_point=float(ordered[luma.size - 1 - tail]),
        haze=math.sqrt(max(0.0, float(cv2.erode(lowest, _HAZE_PATCH).mean()))),
        log_saturation=math.log(float((highest - lowest).mean()) + 1e-2),
        blockiness=_across_grid(step_x) + _across_grid(step_y),
        log_spikes=math.log(luma_spread + _FLOOR) - math.log(luma_noise + _FLOOR),
        log_flatness=math.log10(flat + 1e-2),
    )


def mean_statistics(x_NCHW: NDArray[np.float32]) -> ImageStatistics | None:
    """Return the mean statistics of a frame's regions, of six of them if there are more; None without regions.

    Args:
        x_NCHW: the network's input of each region; see `image_statistics`, which also says what is refused.
    """
    if not len(x_NCHW):
        return None
    mean_S = np.mean([image_statistics(x_NCHW[at]) for at in chosen_regions(len(x_NCHW)).tolist()], axis=0)
    return ImageStatistics(*mean_S.tolist())


def chosen_regions(num: int) -> NDArray[np.int64]:
    """Return which of a frame's regions statistics are taken of."""
    at: NDArray[np.int64] = np.linspace(0, num - 1, min(_MOST_REGIONS, num)).round().astype(np.int64)
    return at


def _noise(plane: _Plane) -> tuple[float, float]:
    """Return the noise σ, robust (median absolute) and plain (root mean square)."""
    response: NDArray[Any] = cv2.filter2D(plane, -1, _NOISE_KERNEL)[1:-1, 1:-1]
    robust = float(np.median(np.abs(response))) * _SIGMA_PER_MAD / _NOISE_GAIN
    return robust, math.sqrt(_energy(response)) / _NOISE_GAIN


def _blur(plane: NDArray[Any], sigma_px: float) -> NDArray[Any]:
    return cv2.GaussianBlur(plane, (0, 0), sigma_px)


def _energy(plane: NDArray[Any]) -> float:
    return float(np.mean(plane * plane))


def _across_grid(step: _Plane) -> float:
    return math.log((float(step[:, 7::8].mean()) + _FLOOR) / (float(step.mean()) + _FLOOR))
