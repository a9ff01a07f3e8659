"""Gradient attacks on the [0, 1] pixel scale. An attack sees only a function from images to logits."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

LogitsFn = Callable[[Tensor], Tensor]


def pgd_linf(
    logits_fn: LogitsFn,
    x_NCHW: Tensor,
    y_N: Tensor,
    *,
    epsilon: float,
    step_size: float,
    num_steps: int,
    generator: torch.Generator | None,
    early_stop: bool = False,
) -> Tensor:
    """Projected gradient ascent on the cross-entropy within an L∞ ball (Madry et al. 2018).

    With one step of 1.25 ε from a random start this is FGSM-RS (Wong et al. 2020); with one step of ε and
    `generator=None`, FGSM.

    Args:
        logits_fn: images (N, 3, H, W) float32 in [0, 1] to logits (N, K); its modes and parameters are the
            caller's business (see `oat_runtime.model.frozen`).
        x_NCHW: clean images, float32 in [0, 1]; never changed.
        y_N: true labels, int64.
        epsilon: radius of the ball.
        step_size: length of one signed step.
        num_steps: gradient steps, at least 1.
        generator: draws the uniform start in the ball; None starts at the image itself.
        early_stop: stop working on an image as soon as it is misclassified and return it as it then is; it is at
            least as strong as the last iterate, and much cheaper on a weak network.

    Returns:
        Adversarial images, like `x_NCHW`, within `epsilon` of it and within [0, 1].
    """
    x_NCHW = x_NCHW.detach()
    adversarial = x_NCHW.clone()
    if generator is not None:
        noise = torch.rand(x_NCHW.shape, generator=generator, device=x_NCHW.device, dtype=x_NCHW.dtype)
        adversarial = _project(adversarial + (2.0 * noise - 1.0) * epsilon, x_NCHW, epsilon)
    alive = torch.arange(len(x_NCHW), device=x_NCHW.device)
    for _ in range(num_steps):
        images = adversarial[alive].requires_grad_(True)
        logits = logits_fn(images)
        if early_stop:
            with torch.no_grad():
                keep = logits.argmax(dim=1) == y_N[alive]
            if not keep.any():
                break
        loss = F.cross_entropy(logits, y_N[alive], reduction="sum")
        (gradient,) = torch.autograd.grad(loss, images)
        stepped = _project(images.detach() + step_size * gradient.sign(), x_NCHW[alive], epsilon)
        if early_stop:
            alive, stepped = alive[keep], stepped[keep]
        adversarial[alive] = stepped
    return adversarial


def _project(adversarial: Tensor, x_NCHW: Tensor, epsilon: float) -> Tensor:
    """The nearest images within the ball around `x_NCHW` and within [0, 1]."""
    return torch.min(torch.max(adversarial, x_NCHW - epsilon), x_NCHW + epsilon).clamp_(0.0, 1.0)
