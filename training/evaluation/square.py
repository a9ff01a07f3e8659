"""The Square attack, which asks for logits only (Andriushchenko et al. 2020): no gradient can mislead it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from oat_runtime.stress.attacks import LogitsFn

_FIRST_SHARE = 0.8
_HALVED_AT = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries of 10,000 at which the squares' area is halved; with fewer queries, in proportion."""


@torch.no_grad()
def square_linf(
    logits_fn: LogitsFn,
    x_NCHW: Tensor,
    y_N: Tensor,
    *,
    epsilon: float,
    num_queries: int,
    generator: torch.Generator,
) -> Tensor:
    """Search at random in an L∞ ball: set a square of each channel to x ± ε, and keep it if the margin shrinks.

    An image is left alone as soon as it is misclassified.

    Args:
        logits_fn: images (N, 3, H, W) float32 in [0, 1] to logits (N, K), with K of at least 2.
        x_NCHW: clean images, float32 in [0, 1]; never changed.
        y_N: true labels, int64.
        epsilon: radius of the ball.
        num_queries: calls of the network for each image, at least 1.
        generator: on the CPU; draws stripes and squares.

    Returns:
        Adversarial images like `x_NCHW`, within `epsilon` of it and within [0, 1].
    """
    num, channels, height, width = x_NCHW.shape
    low_NCHW, high_NCHW = (x_NCHW - epsilon).clamp_min(0.0), (x_NCHW + epsilon).clamp_max(1.0)
    stripes = _signs((num, channels, 1, width), generator).to(x_NCHW.device)
    best_NCHW = torch.where(stripes, high_NCHW, low_NCHW)
    margin_N = _margins(logits_fn(x_NCHW), y_N)
    alive = margin_N > 0.0
    result_NCHW = torch.where(alive[:, None, None, None], best_NCHW, x_NCHW)
    rows = alive.nonzero()[:, 0]
    if len(rows):
        margin_N[rows] = _margins(logits_fn(result_NCHW[rows]), y_N[rows])
    for query in range(1, num_queries):
        rows = (margin_N > 0.0).nonzero()[:, 0]
        if not len(rows):
            break
        side = _side(query, num_queries, height, width)
        tried = result_NCHW[rows]
        tops = torch.randint(height - side + 1, (len(rows),), generator=generator).tolist()
        lefts = torch.randint(width - side + 1, (len(rows),), generator=generator).tolist()
        signs = _signs((len(rows), channels, 1, 1), generator).to(x_NCHW.device)
        for index, (row, top, left) in enumerate(zip(rows.tolist(), tops, lefts, strict=True)):
            window = (slice(None), slice(top, top + side), slice(left, left + side))
            tried[index][window] = torch.where(signs[index], high_NCHW[row][window], low_NCHW[row][window])
        margin_n = _margins(logits_fn(tried), y_N[rows])
        better = margin_n < margin_N[rows]
        result_NCHW[rows[better]] = tried[better]
        margin_N[rows[better]] = margin_n[better]
    return result_NCHW


def _margins(logits_NK: Tensor, y_N: Tensor) -> Tensor:
    """Return by how much the true class leads; not above 0 where another one is chosen, as `argmax` chooses."""
    true_z = logits_NK.gather(1, y_N[:, None])[:, 0]
    others_z = logits_NK.scatter(1, y_N[:, None], -torch.inf).amax(dim=1)
    right = logits_NK.argmax(dim=1) == y_N
    margin: Tensor = torch.where(right, (true_z - others_z).clamp_min(1e-12), (true_z - others_z).clamp_max(0.0))
    return margin


def _side(query: int, num_queries: int, height: int, width: int) -> int:
    """Return the side of the squares of one query, in pixels."""
    halvings = sum(query * 10_000 / num_queries > at for at in _HALVED_AT)
    side = round(math.sqrt(_FIRST_SHARE * math.pow(0.5, halvings) * height * width))
    return min(max(side, 1), height - 1, width - 1)


def _signs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator) < 0.5
