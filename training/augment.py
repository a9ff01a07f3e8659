"""Augment a batch on its device: crop, flip, turn, scale, brightness and contrast, blur, noise, cutout.

Each image has a draw of its own. All draws are made on the CPU. What is off draws nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from training.config import TrainConfig


def augmented(images_NHWC: Tensor, config: TrainConfig, *, mirror: bool, generator: torch.Generator) -> Tensor:
    """Turn uint8 (N, H, W, 3) into augmented float32 (N, 3, H, W) in [0, 1].

    The crop is taken from the image with a black border of an eighth of its height above and below, and of its width
    to the left and right: 4 pixels of 32.

    Args:
        images_NHWC: images on the device to work on; not changed.
        config: what to do.
        mirror: whether half of the images are mirrored; the caller has settled it where `config` leaves it open.
        generator: of the CPU, so that a GPU run draws the same.
    """
    padding = (images_NHWC.shape[1] // 8, images_NHWC.shape[2] // 8)
    x_NCHW = to_unit(crop_and_flip(images_NHWC, padding=padding, generator=generator, mirror=mirror))
    if config.rotation > 0.0 or config.scale > 0.0:
        x_NCHW = turned(x_NCHW, degrees=config.rotation, scale=config.scale, generator=generator)
    if config.jitter > 0.0:
        x_NCHW = jitter(x_NCHW, config.jitter, generator=generator)
    if config.blur > 0.0:
        x_NCHW = blurred(x_NCHW, config.blur, generator=generator)
    if config.noise > 0.0:
        x_NCHW = noisy(x_NCHW, config.noise, generator=generator)
    if config.cutout > 0:
        x_NCHW = cutout(x_NCHW, config.cutout, generator=generator)
    return x_NCHW


def to_unit(images_NHWC: Tensor) -> Tensor:
    """Turn uint8 (N, H, W, 3) into float32 (N, 3, H, W) in [0, 1]."""
    return images_NHWC.permute(0, 3, 1, 2).float() / 255.0


def crop_and_flip(
    images_NHWC: Tensor, *, padding: tuple[int, int], generator: torch.Generator, mirror: bool = True
) -> Tensor:
    """Crop each image at random from its zero-padded copy, and flip it at random; uint8 (N, H, W, C) in and out.

    `padding` is of rows, above and below, and of columns, to the left and right. `mirror=False` leaves the flip out,
    for data whose classes change with it (see `ImageSet.mirrors`).
    """
    num, height, width, _ = images_NHWC.shape
    device = images_NHWC.device
    rows, columns = padding
    padded = torch.nn.functional.pad(images_NHWC, (0, 0, columns, columns, rows, rows))
    down_N, across_N = (torch.randint(2 * pixels + 1, (num,), generator=generator).to(device) for pixels in padding)
    flip_N = (torch.rand(num, generator=generator) < (0.5 if mirror else 0.0)).to(device)
    rows_NH = down_N[:, None] + torch.arange(height, device=device)
    along_W = torch.arange(width, device=device)
    columns_NW = across_N[:, None] + torch.where(flip_N[:, None], along_W.flip(0), along_W)
    return padded[torch.arange(num, device=device)[:, None, None], rows_NH[:, :, None], columns_NW[:, None, :]]


def turned(x_NCHW: Tensor, *, degrees: float, scale: float, generator: torch.Generator) -> Tensor:
    """Turn each image by an angle uniform in ± degrees, and enlarge it by a factor uniform in 1 ± scale; black around.

    Pixels keep their aspect, in images that are not square too.
    """
    num, _, height, width = x_NCHW.shape
    draw_2N = 2.0 * torch.rand(2, num, generator=generator) - 1.0
    angle_N, factor_N = math.radians(degrees) * draw_2N[0], 1.0 + scale * draw_2N[1]
    cosine_N, sine_N = angle_N.cos() / factor_N, angle_N.sin() / factor_N
    zero_N = torch.zeros(num)
    # `affine_grid` counts each axis from -1 to 1, so that what goes from one to the other carries their ratio.
    rows = (cosine_N, -sine_N * height / width, zero_N, sine_N * width / height, cosine_N, zero_N)
    matrix_N23 = torch.stack(rows, dim=1).view(num, 2, 3).to(x_NCHW.device)
    grid = torch.nn.functional.affine_grid(matrix_N23, list(x_NCHW.shape), align_corners=False)
    return torch.nn.functional.grid_sample(x_NCHW, grid, align_corners=False).clamp_(0.0, 1.0)


def blurred(x_NCHW: Tensor, most: float, *, generator: torch.Generator) -> Tensor:
    """Blur each image by a Gaussian with a standard deviation uniform in 0 to `most` pixels; its edge goes on."""
    num, _, height, width = x_NCHW.shape
    sigma_N1 = (most * torch.rand(num, 1, generator=generator)).clamp_min(1e-3)
    radius = math.ceil(3.0 * most)
    share_NK = (-0.5 * (torch.arange(-radius, radius + 1) / sigma_N1) ** 2).exp()
    share_NK = (share_NK / share_NK.sum(dim=1, keepdim=True)).to(x_NCHW.device)
    padded = torch.nn.functional.pad(x_NCHW, (radius, radius, radius, radius), mode="replicate")
    for axis, size in ((2, height), (3, width)):
        parts = [padded.narrow(axis, k, size) * share_NK[:, k, None, None, None] for k in range(2 * radius + 1)]
        padded = torch.stack(parts).sum(dim=0)
    return padded.clamp_(0.0, 1.0)


def noisy(x_NCHW: Tensor, most: float, *, generator: torch.Generator) -> Tensor:
    """Add Gaussian noise to each image, with a standard deviation uniform in 0 to `most`."""
    sigma_N = most * torch.rand(len(x_NCHW), 1, 1, 1, generator=generator)
    noise_NCHW = sigma_N * torch.randn(x_NCHW.shape, generator=generator)
    return (x_NCHW + noise_NCHW.to(x_NCHW.device)).clamp_(0.0, 1.0)


def jitter(x_NCHW: Tensor, strength: float, *, generator: torch.Generator) -> Tensor:
    """Scale brightness, and contrast around the image's mean, each by a factor uniform in 1 ± strength."""
    factors = 1.0 + strength * (2.0 * torch.rand(2, len(x_NCHW), 1, 1, 1, generator=generator) - 1.0)
    brightness, contrast = factors.to(x_NCHW.device)
    mean = x_NCHW.mean(dim=(1, 2, 3), keepdim=True)
    changed: Tensor = ((x_NCHW - mean) * contrast + mean) * brightness
    return changed.clamp_(0.0, 1.0)


def cutout(x_NCHW: Tensor, size: int, *, generator: torch.Generator) -> Tensor:
    """Put a mid-grey square of `size` pixels anywhere on each image, partly outside too (DeVries and Taylor 2017)."""
    num, _, height, width = x_NCHW.shape
    centres = torch.rand(2, num, 1, generator=generator).to(x_NCHW.device)
    start_row, start_column = centres[0] * height - size / 2, centres[1] * width - size / 2
    rows = torch.arange(height, device=x_NCHW.device) + 0.5
    columns = torch.arange(width, device=x_NCHW.device) + 0.5
    in_rows = (rows >= start_row) & (rows < start_row + size)
    in_columns = (columns >= start_column) & (columns < start_column + size)
    covered: Tensor = torch.where((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0.5, x_NCHW)
    return covered
