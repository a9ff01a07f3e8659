"""Validate quickly while a run goes on: is λ used, do attacks agree, do the running statistics fit?"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import torch

from oat_runtime.data import ImageSet
from oat_runtime.operating_point import AttackSpec
from oat_runtime.stress.attacks import perturb
from training.augment import to_unit
from training.config import TrainConfig
from training.network import LambdaBatch, OATNet, frozen, untracked
from training.recipes import pgd

_LOG = logging.getLogger(__name__)
NUM_IMAGES = 256
OVERFITTING_GAP = 0.15
"""False robust accuracy (see `false_robustness`) above which a network counts as fooling its own attack. In sound runs,
RA under seven steps is four fifths of RA under one step (WRN-16-4, CIFAR-10: 0.40 of 0.50) or three quarters (half a
WRN-16-2, GTSRB: 0.52 of 0.70). After catastrophic overfitting it is close to zero."""


def quick_validation(model: OATNet, data: ImageSet, config: TrainConfig) -> dict[str, float]:
    """Return accuracies in [0, 1] on a few validation images, and leave the model as it was.

    `sa_L` is clean accuracy at λ=L and full width; with `_narrow`, at the narrowest width. `sa_L_batch` uses the
    batch's statistics instead of the running ones. `ra_pgd7_L` is under PGD-7, and `ra_one_L` under FGSM-RS: one step
    from a random start within the ball, as long as the training attack's if that takes one step. `overfitting` is the
    `false_robustness` at the largest λ, of the worse width; it is 0 if that λ is 0, which is trained without an attack.
    See `warn`.
    """
    device = model.code_KD.device
    x_NCHW = to_unit(torch.from_numpy(data.images_NHWC[:NUM_IMAGES]).to(device))
    y_N = torch.from_numpy(data.labels_N[:NUM_IMAGES]).to(device)
    knots, widths = model.config.lambdas, model.config.widths
    epsilon = config.attack.epsilon
    one_step = config.attack.step_size if config.attack.num_steps == 1 else 1.25 * epsilon
    figures: dict[str, float] = {}

    def constant(lam: float) -> LambdaBatch:
        return LambdaBatch.constant(lam, len(y_N), knots, device=device)

    def accuracy(images_NCHW: torch.Tensor, lam: float, width: float) -> float:
        with torch.no_grad():
            hit_N = model(images_NCHW, constant(lam), width=width).argmax(dim=1) == y_N
        return float(hit_N.float().mean())

    def robust_accuracy(lam: float, width: float, step_size: float, num_steps: int) -> float:
        logits_fn = model.logits_fn(constant(lam), width=width)
        generator = torch.Generator(device).manual_seed(0)
        # A step of 1 crosses all pixel values, whatever ε is.
        spec = AttackSpec(name=f"pgd-{num_steps}", epsilon=epsilon, step_size=min(step_size, 1.0), num_steps=num_steps)
        return accuracy(perturb(logits_fn, x_NCHW, y_N, spec=spec, generator=generator), lam, width)

    narrow = {} if len(widths) == 1 else {"_narrow": widths[0]}
    with frozen(model):
        for lam in sorted({knots[0], knots[len(knots) // 2], knots[-1]}):
            figures[f"sa_{lam:g}"] = accuracy(x_NCHW, lam, widths[-1])
        for suffix, width in narrow.items():
            for lam in (knots[0], knots[-1]):
                figures[f"sa_{lam:g}{suffix}"] = accuracy(x_NCHW, lam, width)
        at = {"": widths[-1]} | narrow
        points = {(f"{lam:g}{suffix}", lam, width) for lam in (knots[0], knots[-1]) for suffix, width in at.items()}
        for name, lam, width in sorted(points):
            figures[f"ra_one_{name}"] = robust_accuracy(lam, width, one_step, 1)
            figures[f"ra_pgd7_{name}"] = robust_accuracy(lam, width, epsilon / 4, 7)
        with untracked(model):
            model.train()
            figures[f"sa_{knots[-1]:g}_batch"] = accuracy(x_NCHW, knots[-1], widths[-1])
    robust = [f"{knots[-1]:g}{suffix}" for suffix in ("", *narrow)] if knots[-1] > 0.0 else []
    figures["overfitting"] = max(
        (false_robustness(figures[f"ra_one_{name}"], figures[f"ra_pgd7_{name}"]) for name in robust), default=0.0
    )
    return figures


def false_robustness(one: float, seven: float) -> float:
    """Return RA under one attack step minus RA under seven, if seven steps take more than half of it; otherwise 0."""
    return one - seven if seven < one / 2 else 0.0


def score(figures: Mapping[str, float], config: TrainConfig) -> float:
    """Return the figure by which a sweep ranks runs: the mean of SA at the smallest λ and RA (PGD-7) at the largest."""
    low, high = config.model.lambdas[0], config.model.lambdas[-1]
    return 0.5 * (figures[f"sa_{low:g}"] + figures[f"ra_pgd7_{high:g}"])


def warn(figures: Mapping[str, float], step: int, config: TrainConfig, *, num_images: int = NUM_IMAGES) -> bool:
    """Warn of catastrophic overfitting if one attack step looks far weaker than seven (Wong et al. 2020).

    The gap must exceed the limit by two standard errors, because of 8 images two are a quarter and mean nothing.
    """
    gap = figures["overfitting"]
    suspect = gap - 2.0 * math.sqrt(max(gap, 0.0) / num_images) > OVERFITTING_GAP
    if suspect:
        attack = pgd(max(3, 2 * config.attack.num_steps), epsilon=config.attack.epsilon)
        _LOG.warning(
            "CATASTROPHIC OVERFITTING at step %d: robust accuracy under one attack step is %.0f points above that "
            "under PGD-7. The network fools its own attack: stop, and train another run from its weights with more "
            "attack steps: --run NEW --from RUN --set attack.name=%s --set attack.num_steps=%d "
            "--set attack.step_size=%.4f",
            step,
            100.0 * figures["overfitting"],
            attack.name,
            attack.num_steps,
            attack.step_size,
        )
    return suspect
