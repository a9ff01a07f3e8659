"""Run every gradient attack by one loop: a ball, an objective to raise, a way to step, and which iterate to return.

Shapes: N images, C channels, H and W image size. Images and perturbations are float32 on the [0, 1] pixel scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

Norm = Literal["linf", "l2"]
Keep = Literal["last", "broken", "best"]
"""Which iterate an attack returns: the last one; for each image the first that is misclassified, else the last (as
strong as looking at every iterate, and cheaper: broken images are worked on no more); or the one of highest loss."""

Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Images (n, C, H, W) and their rows (n,) in the whole batch, to (loss of each, whether each is still right)."""


@dataclass(frozen=True, slots=True)
class Ball:
    """All images within `epsilon` of `x_NCHW` in a norm, and within [0, 1]."""

    x_NCHW: Tensor
    epsilon: float
    norm: Norm

    def project(self, images: Tensor) -> Tensor:
        """Project images into the ball: to the nearest ones for L∞; for L2, scale them into it and clamp to [0, 1].

        `x_NCHW` lies in [0, 1], so clamping moves every pixel towards it, and the images stay in the ball.
        """
        x_NCHW = self.x_NCHW
        if self.norm == "linf":
            return torch.min(torch.max(images, x_NCHW - self.epsilon), x_NCHW + self.epsilon).clamp_(0.0, 1.0)
        delta = images - x_NCHW
        scale_N = (self.epsilon / lengths(delta).clamp_min(1e-12)).clamp_max(1.0)
        return (x_NCHW + delta * _as_images(scale_N)).clamp_(0.0, 1.0)

    def random_start(self, generator: torch.Generator) -> Tensor:
        """Draw images uniformly from the ball, and clamp them to [0, 1]."""
        x_NCHW = self.x_NCHW
        if self.norm == "linf":
            noise = torch.rand(x_NCHW.shape, generator=generator, device=x_NCHW.device, dtype=x_NCHW.dtype)
            return self.project(x_NCHW + (2.0 * noise - 1.0) * self.epsilon)
        noise = torch.randn(x_NCHW.shape, generator=generator, device=x_NCHW.device, dtype=x_NCHW.dtype)
        share_N = torch.rand(len(x_NCHW), generator=generator, device=x_NCHW.device, dtype=x_NCHW.dtype)
        radius_N = self.epsilon * share_N ** (1.0 / max(1, x_NCHW[0].numel() if len(x_NCHW) else 1))
        return self.project(x_NCHW + noise * _as_images(radius_N / lengths(noise).clamp_min(1e-12)))

    def steepest(self, gradient: Tensor) -> Tensor:
        """Return the direction of length 1 in this norm in which a linear function with this gradient rises most."""
        if self.norm == "linf":
            return gradient.sign()
        return gradient / _as_images(lengths(gradient).clamp_min(1e-12))

    def select(self, chosen: Tensor) -> Ball:
        """Return the ball around some of the images."""
        return Ball(self.x_NCHW[chosen], self.epsilon, self.norm)


class Stepper(Protocol):
    """Decides the next step, and holds what an attack remembers of each image."""

    def step(self, images: Tensor, gradient: Tensor, loss_N: Tensor, ball: Ball) -> Tensor:
        """Return the next images, in the ball, from the present ones, the gradient of their loss, and that loss."""

    def select(self, chosen: Tensor) -> None:
        """Forget all images but the chosen ones (a mask or indices)."""


@dataclass(slots=True)
class PlainStep:
    """Projected steepest ascent (Madry et al. 2018)."""

    step_size: float

    def step(self, images: Tensor, gradient: Tensor, loss_N: Tensor, ball: Ball) -> Tensor:
        """Take one step of fixed length."""
        return ball.project(images + self.step_size * ball.steepest(gradient))

    def select(self, chosen: Tensor) -> None:
        """Do nothing, because nothing is remembered."""


@dataclass(slots=True)
class MomentumStep:
    """MI-FGSM (Dong et al. 2018, Eqs. 6 and 7): gradients, each scaled to an L1 norm of 1, add up with a decay."""

    step_size: float
    decay: float = 1.0
    _momentum: Tensor | None = None

    def step(self, images: Tensor, gradient: Tensor, loss_N: Tensor, ball: Ball) -> Tensor:
        """Take one step of fixed length along the momentum."""
        gradient = gradient / _as_images(gradient.abs().flatten(1).sum(1).clamp_min(1e-12))
        self._momentum = gradient if self._momentum is None else self.decay * self._momentum + gradient
        return ball.project(images + self.step_size * ball.steepest(self._momentum))

    def select(self, chosen: Tensor) -> None:
        """Keep the momentum of the chosen images."""
        if self._momentum is not None:
            self._momentum = self._momentum[chosen]


@dataclass(slots=True)
class AdaptiveStep:
    """Auto-PGD (Croce and Hein 2020, Algorithm 1): momentum, and steps that halve when an image makes no progress.

    At each checkpoint, some images go back to their best iterate and halve their step: those whose loss rose in fewer
    than `rho` of the steps since the last checkpoint, and those whose best loss and step have not changed since. Steps
    start at 2 ε.
    """

    num_steps: int
    rho: float = 0.75
    alpha: float = 0.75
    _count: int = 0
    _last_checkpoint: int = 0
    _state: dict[str, Tensor] = field(default_factory=dict)

    def step(self, images: Tensor, gradient: Tensor, loss_N: Tensor, ball: Ball) -> Tensor:
        """Take one step with momentum; at a checkpoint, from the best iterate with half the step if that is due."""
        state = self._state
        if self._count == 0:
            state |= {"best": images, "best_gradient": gradient, "best_loss": loss_N, "loss": loss_N}
            state["size"] = torch.full_like(loss_N, 2.0 * ball.epsilon)
            state["rises"], state["halved"] = torch.zeros_like(loss_N), torch.ones_like(loss_N, dtype=torch.bool)
            state["checkpoint_best"] = loss_N
        else:
            state["rises"] = state["rises"] + (loss_N > state["loss"])
            better_N = loss_N > state["best_loss"]
            better = _as_images(better_N)
            state["best"] = torch.where(better, images, state["best"])
            state["best_gradient"] = torch.where(better, gradient, state["best_gradient"])
            state["best_loss"] = torch.where(better_N, loss_N, state["best_loss"])
            state["loss"] = loss_N
            if self._count in checkpoints(self.num_steps):
                stuck_N = self._stuck()
                state["size"] = torch.where(stuck_N, 0.5 * state["size"], state["size"])
                stuck = _as_images(stuck_N)
                images = torch.where(stuck, state["best"], images)
                gradient = torch.where(stuck, state["best_gradient"], gradient)
                state["loss"] = torch.where(stuck_N, state["best_loss"], loss_N)
        target = ball.project(images + _as_images(state["size"]) * ball.steepest(gradient))
        if self._count > 0:
            drift = images - state["previous"]
            target = ball.project(images + self.alpha * (target - images) + (1.0 - self.alpha) * drift)
        state["previous"] = images
        self._count += 1
        return target

    def _stuck(self) -> Tensor:
        """Return which images go back to their best iterate, and start the next window."""
        state = self._state
        window = self._count - self._last_checkpoint
        too_few_N = state["rises"] < self.rho * window
        still_N = ~state["halved"] & (state["best_loss"] <= state["checkpoint_best"])
        stuck_N = too_few_N | still_N
        self._last_checkpoint = self._count
        state["rises"] = torch.zeros_like(state["rises"])
        state["halved"], state["checkpoint_best"] = stuck_N, state["best_loss"]
        return stuck_N

    def select(self, chosen: Tensor) -> None:
        """Keep what is remembered of the chosen images."""
        self._state = {name: tensor[chosen] for name, tensor in self._state.items()}


def checkpoints(num_steps: int) -> set[int]:
    """Return Auto-PGD's checkpoints: windows of 22 % of all steps, each 3 points shorter, but at least 6 %."""
    shares = [0.0, 0.22]
    while shares[-1] < 1.0:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    steps = {math.ceil(round(share * num_steps, 6)) for share in shares[1:]}  # 0.57 · 100 is not quite 57
    return {step for step in steps if step < num_steps}


def ascend(objective: Objective, ball: Ball, start: Tensor, stepper: Stepper, *, num_steps: int, keep: Keep) -> Tensor:
    """Raise the objective of every image from `start` within the ball.

    Args:
        objective: the function to raise; called on the images that are still worked on.
        ball: the ball to stay in.
        start: first iterate; never changed.
        stepper: decides the steps; use it for one call only.
        num_steps: gradient steps, at least 1.
        keep: which iterate of each image to return.

    Returns:
        Images like `start`, without a gradient.
    """
    result, current = start.clone(), start
    alive = torch.arange(len(start), device=start.device)
    best_loss_N = torch.full((len(start),), -torch.inf, device=start.device)

    def remember(loss_N: Tensor) -> None:
        better = loss_N.detach().float() > best_loss_N
        best_loss_N[better] = loss_N.detach().float()[better]
        result[better] = current[better]

    for _ in range(num_steps):
        images = current.detach().requires_grad_(True)
        loss_N, correct_N = objective(images, alive)
        if keep == "best":
            remember(loss_N)
        if keep == "broken" and not correct_N.any():
            break
        (gradient,) = torch.autograd.grad(loss_N.sum(), images)
        current = stepper.step(images.detach(), gradient, loss_N.detach(), ball)
        if keep == "broken":
            alive, current, ball = alive[correct_N], current[correct_N], ball.select(correct_N)
            stepper.select(correct_N)
        if keep != "best":
            result[alive] = current
    if keep == "best":
        with torch.no_grad():
            remember(objective(current, alive)[0])
    return result


def lengths(delta: Tensor) -> Tensor:
    """Return the L2 norm of each image, (N,)."""
    norm_N: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
    return norm_N


def _as_images(values_N: Tensor) -> Tensor:
    return values_N.view(-1, 1, 1, 1)
