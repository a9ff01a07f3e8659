"""White-box attacks for the benchmark: plain PGD, PGD that also deceives the monitor, and one for high confidence.

All are L∞ with ε = 8/255, step 2/255, ten steps, on the network at the point in force. N images (n of them), K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from oat_runtime.stress.attack_loop import Ball, Objective, PlainStep, ascend
from oat_runtime.stress.attacks import cross_entropy

EPSILON, STEP_SIZE, NUM_STEPS = 8 / 255, 2 / 255, 10
_MU = 1.0
"""Weight of the monitor's score against the cross-entropy."""
_NOISE_KERNEL = torch.tensor([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]]) / 6

Network = Callable[[Tensor], Tensor]
Goal = Callable[[Network, Network, Tensor, Tensor], Objective]
"""(network in force, network at the λ that the monitor probes, clean images, true labels) to what is raised."""


def plain(net: Network, other: Network, x_NCHW: Tensor, y_N: Tensor) -> Objective:
    """The cross-entropy (Madry et al. 2018); knows of no monitor."""
    return cross_entropy([net], y_N)


def monitor_aware(net: Network, other: Network, x_NCHW: Tensor, y_N: Tensor) -> Objective:
    """Cross-entropy less μ times the monitor's score.

    The score is what the estimator listens to: disagreement of the probed λ (its cross-entropy to the label that the
    attack has reached) and the noise that the attack adds to luma and colour differences. It is scaled, image by image,
    so that at μ = 1 both pull equally hard on a noisy start; by itself the noise would win, and nothing be attacked.
    """
    noise_N3 = _noise(x_NCHW)

    def terms(images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, labels = net(images), y_N[rows]
        disagreement = F.cross_entropy(other(images), _likeliest_wrong(logits.detach(), labels), reduction="none")
        added = torch.log(_noise(images) + 1e-3) - torch.log(noise_N3[rows] + 1e-3)
        score = disagreement + added.clamp(min=0).sum(dim=1)
        return F.cross_entropy(logits, labels, reduction="none"), score, logits.argmax(dim=1) == labels

    noisy = Ball(x_NCHW, EPSILON, "linf").random_start(torch.Generator().manual_seed(0)).requires_grad_(True)
    loss, score, _ = terms(noisy, torch.arange(len(y_N)))
    pull, counter_pull = (
        torch.autograd.grad(term.sum(), noisy, retain_graph=True)[0].abs().mean(dim=(1, 2, 3)) for term in (loss, score)
    )
    weight_N = _MU * pull / counter_pull.clamp_min(1e-12)

    def objective(images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        loss, score, right = terms(images, rows)
        return loss - weight_N[rows] * score, right

    return objective


def targeted(net: Network, other: Network, x_NCHW: Tensor, y_N: Tensor) -> Objective:
    """The likeliest wrong class, with as much confidence as it can get."""
    with torch.no_grad():
        wanted_N = _likeliest_wrong(net(x_NCHW), y_N)

    def objective(images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        logits = net(images)
        return -F.cross_entropy(logits, wanted_N[rows], reduction="none"), logits.argmax(dim=1) == y_N[rows]

    return objective


ATTACKS: dict[str, Goal] = {"pgd-10": plain, "monitor-aware-pgd-10": monitor_aware, "targeted-pgd-10": targeted}


def attack(
    goal: Goal, net: Network, other: Network, x_NCHW: Tensor, y_N: Tensor, *, generator: torch.Generator
) -> Tensor:
    """Images in the ball around `x_NCHW`, raised towards the goal from a random start."""
    ball = Ball(x_NCHW, EPSILON, "linf")
    objective = goal(net, other, x_NCHW, y_N)
    return ascend(objective, ball, ball.random_start(generator), PlainStep(STEP_SIZE), num_steps=NUM_STEPS, keep="last")


def _likeliest_wrong(logits_NK: Tensor, y_N: Tensor) -> Tensor:
    return logits_NK.scatter(1, y_N[:, None], float("-inf")).argmax(dim=1)


def _noise(x_NCHW: Tensor) -> Tensor:
    """Mean noise of luma and of two colour differences, (N, 3); smooth where the estimator takes medians."""
    red, green, blue = x_NCHW.unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    planes = torch.stack([luma, red - luma, blue - luma], dim=1)
    return F.conv2d(planes, _NOISE_KERNEL.expand(3, 1, 3, 3), groups=3).abs().mean(dim=(2, 3))
