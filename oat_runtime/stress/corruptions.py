"""Apply fifteen common corruptions at five severities, as in CIFAR-10-C, with NumPy and OpenCV only.

Kinds, order and constants are those of Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations", ICLR 2019 (the CIFAR-10-C set); the code is our own. The constants belong to 32×32
images: lengths (blur radii, glass distance) are in pixels of such an image, so larger frames should be resized to the
network's input first and corrupted then. Elastic, frost, fog and pixelate follow the image's size by themselves.

Where this differs from the published set, so that figures on the two are near but not equal:
frost is drawn procedurally (the original pastes crops of six photographs); motion blur and the streaks of snow sample
a one-sided Gaussian along the direction directly instead of through ImageMagick; zooms are exact instead of rounded to
whole crops; results are rounded to uint8 instead of truncated.

Shapes: H height, W width, C = 3 colour channels (RGB), N images. Inside, pixels are float32 in [0, 1].
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import cv2
import numpy as np
import numpy.typing as npt

from oat_runtime.errors import InputError
from oat_runtime.operating_point import Regime
from oat_runtime.stress.textures import ice_pane, plasma

Bytes = npt.NDArray[np.uint8]
Pixels = npt.NDArray[np.float32]

MIN_SIDE = 8
"""Smallest height and width, in pixels, on which every kind is defined."""
SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True, slots=True)
class Corruption:
    """One kind of corruption.

    Attributes:
        name: its name in CIFAR-10-C.
        regime: the environment it stands for. Snow and frost count as low-frequency: see `CORRUPTIONS`.
        function: (pixels_HWC in [0, 1], severity 1..5, rng) -> new pixels, not yet clipped.
    """

    name: str
    regime: Regime
    function: Callable[[Pixels, int, np.random.Generator], Pixels]


def corrupt(image_HWC: Bytes, name: str, severity: int, *, rng: np.random.Generator) -> Bytes:
    """Return a corrupted copy of one image.

    Args:
        image_HWC: uint8 RGB, at least 8×8 pixels; not changed.
        name: a key of `CORRUPTIONS`.
        severity: 1 (mild) to 5 (strong).
        rng: the only source of chance: the same state gives the same image.

    Returns:
        uint8 RGB of the same shape, C-contiguous.

    Raises:
        InputError: unknown name, severity out of range, or not such an image.
    """
    corruption, level = _look_up(name, severity)
    if not isinstance(image_HWC, np.ndarray) or image_HWC.dtype != np.uint8:
        got = image_HWC.dtype if isinstance(image_HWC, np.ndarray) else type(image_HWC).__name__
        raise InputError(f"an image to corrupt must be a uint8 array in 0..255, got {got}: scale by 255 and round")
    if image_HWC.ndim != 3 or image_HWC.shape[2] != 3 or min(image_HWC.shape[:2]) < MIN_SIDE:
        raise InputError(
            f"an image to corrupt must be RGB of shape HxWx3 with at least {MIN_SIDE}x{MIN_SIDE} pixels, got shape "
            f"{image_HWC.shape}: reorder, convert or enlarge it; for several images use corrupt_batch"
        )
    pixels = np.ascontiguousarray(image_HWC).astype(np.float32) / np.float32(255)
    return _to_bytes(corruption.function(pixels, level, rng))


def corrupt_batch(images_NHWC: Bytes, name: str, severity: int, *, rng: np.random.Generator) -> Bytes:
    """Corrupt each image of a batch in order, as `corrupt` does with the same `rng`.

    Args:
        images_NHWC: uint8 RGB; not changed. May hold no image.
        name: a key of `CORRUPTIONS`.
        severity: 1 to 5.
        rng: draws for all images, in order.

    Returns:
        uint8 array of the same shape.

    Raises:
        InputError: as `corrupt`.
    """
    _look_up(name, severity)
    if not isinstance(images_NHWC, np.ndarray) or images_NHWC.ndim != 4:
        got = getattr(images_NHWC, "shape", type(images_NHWC).__name__)
        raise InputError(f"a batch must be a uint8 array of shape NxHxWx3, got {got}: use corrupt for one image")
    out = np.empty(images_NHWC.shape, np.uint8)
    for index, image_HWC in enumerate(images_NHWC):
        out[index] = corrupt(image_HWC, name, severity, rng=rng)
    return out


def _look_up(name: str, severity: int) -> tuple[Corruption, int]:
    if name not in CORRUPTIONS:
        raise InputError(f"unknown corruption {name!r}: choose one of {', '.join(CORRUPTIONS)}")
    try:
        level = operator.index(severity)
    except TypeError:
        level = 0
    if level not in SEVERITIES or isinstance(severity, bool):
        raise InputError(f"severity must be a whole number from 1 (mild) to 5 (strong), got {severity!r}")
    return CORRUPTIONS[name], level


def _to_bytes(x: Pixels) -> Bytes:
    return np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8)


def _floats(x: npt.ArrayLike) -> Pixels:
    """Return an array from OpenCV or the generator as float32; copy it only if the dtype differs."""
    return np.asarray(x, np.float32)


def _gaussian_blur(x: Pixels, sigma_px: float, *, truncate: float = 4.0) -> Pixels:
    side = 2 * max(1, math.ceil(truncate * sigma_px)) + 1
    return _floats(cv2.GaussianBlur(x, (side, side), sigmaX=sigma_px, borderType=cv2.BORDER_REFLECT))


def _streak(x: Pixels, *, radius_px: int, sigma_px: float, angle_rad: float) -> Pixels:
    """Blur along one direction with half a Gaussian, as a shutter does when something moves away."""
    side = 2 * radius_px + 1
    kernel = np.zeros((side + 1, side + 1), np.float32)
    for step in range(radius_px + 1):
        row = radius_px + step * math.sin(angle_rad)
        column = radius_px + step * math.cos(angle_rad)
        i, j = math.floor(row), math.floor(column)
        weight = math.exp(-0.5 * (step / sigma_px) ** 2)
        kernel[i : i + 2, j : j + 2] += weight * np.outer([i + 1 - row, row - i], [j + 1 - column, column - j])
    return _floats(cv2.filter2D(x, -1, kernel[:side, :side] / kernel.sum(), borderType=cv2.BORDER_REPLICATE))


def _zoom(x: Pixels, factor: float) -> Pixels:
    """Enlarge about the centre and keep the size."""
    height, width = x.shape[:2]
    offset = [(1 - factor) * (width - 1) / 2, (1 - factor) * (height - 1) / 2]
    matrix = np.array([[factor, 0, offset[0]], [0, factor, offset[1]]])
    return _floats(cv2.warpAffine(x, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


def _gaussian_noise(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    sigma = (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1]
    return x + _floats(rng.normal(scale=sigma, size=x.shape))


def _shot_noise(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    photons = (500, 250, 100, 75, 50)[severity - 1]
    return _floats(rng.poisson(x * photons) / photons)


def _impulse_noise(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    amount = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    u = rng.random(x.shape, np.float32)
    return np.where(u < amount / 2, np.float32(0), np.where(u < amount, np.float32(1), x))


def _defocus_blur(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    radius, soft_edge = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))[severity - 1]
    axis = np.arange(-math.ceil(radius) - 1, math.ceil(radius) + 2)
    disk = (axis[:, None] ** 2 + axis[None, :] ** 2 <= radius**2).astype(np.float32)
    kernel = cv2.GaussianBlur(disk / disk.sum(), (3, 3), sigmaX=soft_edge)
    return _floats(cv2.filter2D(x, -1, kernel))


def _glass_blur(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    sigma, reach, rounds = ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))[severity - 1]
    x = _gaussian_blur(x, sigma)
    rows, columns = np.indices(x.shape[:2])
    inner = (slice(reach + 1, None), slice(reach + 1, None))
    for _ in range(rounds):
        # The published offsets run over -reach..reach-1 (NumPy's randint excludes its upper end).
        step = rng.integers(-reach, reach, size=(2, *x.shape[:2]))
        x[inner] = x[rows + step[0], columns + step[1]][inner]
    return _gaussian_blur(x, sigma)


def _motion_blur(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    radius, sigma = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))[severity - 1]
    return _streak(x, radius_px=radius, sigma_px=sigma, angle_rad=math.radians(rng.uniform(-45, 45)))


def _zoom_blur(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    factors = np.arange(1, (1.06, 1.11, 1.16, 1.21, 1.26)[severity - 1], 0.01)
    total = x.copy()
    for factor in factors:
        total += _zoom(x, factor)
    mean: Pixels = total / np.float32(len(factors) + 1)
    return mean


def _snow(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    mean, spread, zoom, threshold, radius, sigma, keep = (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )[severity - 1]
    flakes = _zoom(_floats(rng.normal(mean, spread, size=x.shape[:2])), zoom)
    flakes = np.where(flakes < threshold, np.float32(0), np.minimum(flakes, np.float32(1)))
    angle = math.radians(rng.uniform(-135, -45))
    flakes = _streak(flakes, radius_px=radius, sigma_px=sigma, angle_rad=angle)[..., None]
    grey = _floats(cv2.cvtColor(x, cv2.COLOR_RGB2GRAY))[..., None]
    whitened = keep * x + (1 - keep) * np.maximum(x, 1.5 * grey + 0.5)
    return _floats(whitened + flakes + flakes[::-1, ::-1])


def _frost(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    keep, ice = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))[severity - 1]
    return keep * x + ice * ice_pane(x.shape[0], x.shape[1], rng=rng)


def _fog(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    thickness, decay = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))[severity - 1]
    brightest = x.max()
    cloud = plasma(max(x.shape[:2]), decay=decay, rng=rng)[: x.shape[0], : x.shape[1], None]
    return _floats((x + thickness * cloud) * brightest / (brightest + thickness))


def _brightness(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    hsv = _floats(cv2.cvtColor(x, cv2.COLOR_RGB2HSV))
    hsv[..., 2] = np.minimum(hsv[..., 2] + (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1], 1)
    return _floats(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))


def _contrast(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    mean = x.mean(axis=(0, 1))
    return _floats((x - mean) * (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1] + mean)


def _elastic_transform(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """A random affine map, then a smooth random field; from severity 1 to 5 the first shrinks and the second grows."""
    height, width = x.shape[:2]
    short = min(height, width)
    shares = ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))[severity - 1]
    strength, sigma, jitter = (short * share for share in shares)
    corners = np.array([width, height]) // 2 + short // 3 * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = corners + rng.uniform(-jitter, jitter, size=corners.shape)
    affine = cv2.getAffineTransform(_floats(corners), _floats(moved))
    x = _floats(cv2.warpAffine(x, affine, (width, height), borderMode=cv2.BORDER_REFLECT_101))
    if strength == 0:
        return x
    field = _gaussian_blur(_floats(rng.uniform(-1, 1, size=(height, width, 2))), sigma, truncate=3) * strength
    rows, columns = np.indices((height, width), np.float32)
    columns, rows = columns + field[..., 0], rows + field[..., 1]
    return _floats(cv2.remap(x, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT))


def _pixelate(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1]
    height, width = x.shape[:2]
    coarse = cv2.resize(x, (int(width * share), int(height * share)), interpolation=cv2.INTER_AREA)
    return _floats(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_NEAREST_EXACT))


def _jpeg_compression(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    quality = (80, 65, 58, 50, 40)[severity - 1]
    bgr = cv2.cvtColor(_to_bytes(x), cv2.COLOR_RGB2BGR)
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality]
    settings += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    code = cv2.imencode(".jpg", bgr, settings)[1]
    decoded = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR), np.uint8)
    compressed: Pixels = _floats(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)) / np.float32(255)
    return compressed


_HIGH, _LOW = Regime.HIGH_FREQUENCY, Regime.LOW_FREQUENCY

CORRUPTIONS: Mapping[str, Corruption] = MappingProxyType(
    {
        name: Corruption(name, regime, function)
        for name, regime, function in (
            ("gaussian_noise", _HIGH, _gaussian_noise),
            ("shot_noise", _HIGH, _shot_noise),
            ("impulse_noise", _HIGH, _impulse_noise),
            ("defocus_blur", _HIGH, _defocus_blur),
            ("glass_blur", _HIGH, _glass_blur),
            ("motion_blur", _HIGH, _motion_blur),
            ("zoom_blur", _HIGH, _zoom_blur),
            ("snow", _LOW, _snow),
            ("frost", _LOW, _frost),
            ("fog", _LOW, _fog),
            ("brightness", _LOW, _brightness),
            ("contrast", _LOW, _contrast),
            ("elastic_transform", _HIGH, _elastic_transform),
            ("pixelate", _HIGH, _pixelate),
            ("jpeg_compression", _HIGH, _jpeg_compression),
        )
    }
)
"""All kinds by name, in the order of the paper.

The regime says which way λ should move, not only where the energy lies. Noise, blur and compression act on fine
structure, and there a robust network gains; fog, brightness and contrast act on the coarse one, and there it loses
(Yin et al., "A Fourier Perspective on Model Robustness in Computer Vision", NeurIPS 2019). Snow and frost are of both
kinds; they are filed as low-frequency by measurement: of what these functions change at severity 5 on 300 CIFAR-10
test images, the share of energy within 4 cycles per image is 0.95 for snow, 0.83 for frost, 0.90 for fog, 0.98 for
brightness and 0.78 for contrast, against 0.04 to 0.45 for the ten others.
"""

FITTING_KINDS = (
    "gaussian_noise",
    "impulse_noise",
    "defocus_blur",
    "motion_blur",
    "snow",
    "fog",
    "brightness",
    "jpeg_compression",
)
"""Kinds that may shape a choice: the bundle's `select` table, and the policy's fit and calibration. Five of ten
high-frequency and three of five low-frequency kinds; each family of the paper is on both sides."""

HELD_OUT_KINDS = tuple(name for name in CORRUPTIONS if name not in FITTING_KINDS)
"""Kinds that nothing is fitted on: they belong to the `report` table and the benchmarks. A demonstration may show any
kind; one from here (`shot_noise`, `contrast`) also shows that the policy copes with what it never saw."""
