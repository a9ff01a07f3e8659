"""Attack the benchmark's network: with plain PGD, with PGD that also deceives the estimator, or for high confidence.

All attacks are white-box, L∞ with ε = 8/255, step 2/255 and ten steps, on the network at the active operating point.
N images, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from oat_runtime.stress.attack_loop import Ball, Objective, PlainStep, ascend
from oat_runtime.stress.attacks import cross_entropy

EPSILON, STEP_SIZE, NUM_STEPS = 8 / 255, 2 / 255, 10
FLOORS = (0.0, 0.1, 0.4, 1.0)
"""`lambda_floor` of the policies that are attacked."""
_MU = 1.0
"""Weight of the score that deceives the estimator, against the cross-entropy."""
_NOISE_KERNEL = torch.tensor([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]]) / 6

Network = Callable[[Tensor], Tensor]
Goal = Callable[[Network, Network, Tensor, Tensor], Objective]
"""From (active network, network at the λ of the probe, clean images, true labels) to the objective that is raised."""


def plain(net: Network, other: Network, x_NCHW: Tensor, y_N: Tensor) -> Objective:
    """Return the cross-entropy (Madry et al. 2018), which ignores the estimator."""
    return cross_entropy([net], y_N)


def monitor_aware(net: Network, other: Network, x_NCHW: Tensor, y_N: Tensor) -> Objective:
    """Return the cross-entropy minus μ times a score of what the estimator notices.

    The score has two parts. One is the disagreement of the probe: its cross-entropy to the label that the attack has
    reached. The other is the noise that the attack adds to luma and colour differences. The score is scaled for each
    image, so that at μ = 1 both terms pull equally hard at a noisy start. Unscaled, the noise would win and the attack
    would do nothing.
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
        loss, score, correct = terms(images, rows)
        return loss - weight_N[rows] * score, correct

    return objective


def targeted(net: Network, other: Network, x_NCHW: Tensor, y_N: Tensor) -> Objective:
    """Return the objective that raises the confidence in the most probable wrong class."""
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
    """Return attacked images in the ball around `x_NCHW`, from a random start."""
    ball = Ball(x_NCHW, EPSILON, "linf")
    objective = goal(net, other, x_NCHW, y_N)
    return ascend(objective, ball, ball.random_start(generator), PlainStep(STEP_SIZE), num_steps=NUM_STEPS, keep="last")


def _likeliest_wrong(logits_NK: Tensor, y_N: Tensor) -> Tensor:
    return logits_NK.scatter(1, y_N[:, None], float("-inf")).argmax(dim=1)


def _noise(x_NCHW: Tensor) -> Tensor:
    """Return the mean noise of luma and two colour differences, (N, 3); it is smooth, unlike the estimator's median."""
    red, green, blue = x_NCHW.unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    planes = torch.stack([luma, red - luma, blue - luma], dim=1)
    return F.conv2d(planes, _NOISE_KERNEL.expand(3, 1, 3, 3), groups=3).abs().mean(dim=(2, 3))
