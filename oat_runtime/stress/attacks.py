"""Run gradient attacks by name, on the [0, 1] pixel scale. An attack sees only functions from images to logits."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from oat_runtime.errors import ConfigError
from oat_runtime.operating_point import AttackSpec
from oat_runtime.stress.attack_loop import (
    AdaptiveStep,
    Ball,
    Keep,
    MomentumStep,
    Norm,
    Objective,
    PlainStep,
    Stepper,
    ascend,
)

LogitsFn = Callable[[Tensor], Tensor]

TARGETED_CLASSES = 4
"""Classes that APGD-T needs at least: its loss looks at the four largest logits."""
NUM_TARGETS = 9
"""Number of wrong classes that APGD-T aims at, the most probable first, as in AutoAttack."""

Method = Literal["fgsm", "fgsm-rs", "n-fgsm", "mi-fgsm", "pgd", "apgd-ce", "apgd-t"]
_NAME = re.compile(r"(?P<method>fgsm|fgsm-rs|n-fgsm|mi-fgsm|apgd-ce|apgd-t|pgd(?:-(?P<steps>[0-9]{1,7}))?)(?P<l2>-l2)?")
_FROM_THE_IMAGE = ("fgsm", "mi-fgsm")
_ONE_STEP = ("fgsm", "fgsm-rs", "n-fgsm")


@dataclass(frozen=True, slots=True)
class Kind:
    """The meaning of an attack's name."""

    method: Method
    norm: Norm

    @property
    def random_start(self) -> bool:
        """Whether the attack starts at a random image in the ball."""
        return self.method not in _FROM_THE_IMAGE


def kind_of(spec: AttackSpec) -> Kind:
    """Return method and norm of the name of `spec`: `METHOD`, then `-l2` for an L2 ball instead of an L∞ ball.

    | name | attack |
    |---|---|
    | `fgsm` | one signed step from the image (Goodfellow et al. 2015) |
    | `fgsm-rs` | one step from a uniform start, projected (Wong et al. 2020) |
    | `n-fgsm` | one step from noise of 2 ε, up to 3 ε away (de Jorge et al. 2022); for training only |
    | `pgd-N` | N projected steps from a uniform start (Madry et al. 2018) |
    | `mi-fgsm` | projected steps along a momentum of 1, from the image (Dong et al. 2018) |
    | `apgd-ce` | Auto-PGD on the cross-entropy (Croce and Hein 2020); chooses its steps by itself |
    | `apgd-t` | Auto-PGD towards each of the 9 likeliest wrong classes, on the targeted difference-of-logits ratio |

    Raises:
        ConfigError: unknown name, or a number of steps that is not the name's.
    """
    match = _NAME.fullmatch(spec.name)
    if match is None:
        raise ConfigError(
            f"unknown attack {spec.name!r}: expected fgsm, fgsm-rs, n-fgsm, mi-fgsm, pgd-N, apgd-ce or apgd-t, "
            "with -l2 at the end for an L2 ball"
        )
    steps = match["steps"] or ("1" if match["method"] in _ONE_STEP else None)
    if steps is not None and int(steps) != spec.num_steps:
        raise ConfigError(f"{spec.name} takes {steps} steps, got num_steps={spec.num_steps}: make them agree")
    method: Method = "pgd" if match["method"].startswith("pgd") else match["method"]  # type: ignore[assignment]
    return Kind(method, "l2" if match["l2"] else "linf")


def perturb(
    victims: LogitsFn | Sequence[LogitsFn],
    x_NCHW: Tensor,
    y_N: Tensor,
    *,
    spec: AttackSpec,
    generator: torch.Generator,
    keep: Keep = "last",
    draws: int | None = None,
) -> Tensor:
    """Run the attack that `spec` names.

    Args:
        victims: images (N, 3, H, W) float32 in [0, 1] to logits (N, K), its modes and parameters being the caller's
            business (see `training.network.frozen`). Several: a joint attack on all of them at once, say one for each
            operating point, which raises their mean loss and counts an image as broken only when all are wrong.
        x_NCHW: clean images, float32 in [0, 1]; never changed.
        y_N: true labels, int64.
        spec: name, ε, step size and number of steps (`apgd-*` ignores the step size).
        generator: on the images' device; draws random starts, and victims where `draws` is given.
        keep: which iterate to return. `apgd-t` always returns the first broken one.
        draws: number of victims drawn anew for each step, instead of all: an expectation (Athalye et al. 2018).

    Returns:
        Adversarial images like `x_NCHW`, within ε of it and within [0, 1].

    Raises:
        ConfigError: unknown attack, `n-fgsm`, or options that do not go together.
    """
    kind = kind_of(spec)
    if kind.method == "n-fgsm":
        raise ConfigError(f"{spec.name} leaves the ball of ε and is for training only: use fgsm-rs")
    functions = [victims] if callable(victims) else list(victims)
    if draws is not None and (keep != "last" or kind.method in ("apgd-ce", "apgd-t")):
        raise ConfigError("an expectation over drawn victims has a noisy loss: use a plain attack with keep='last'")
    x_NCHW = x_NCHW.detach()
    ball = Ball(x_NCHW, spec.epsilon, kind.norm)
    if kind.method == "apgd-t":
        if len(functions) > 1:
            raise ConfigError("apgd-t aims at one victim's classes: use apgd-ce for a joint attack")
        return _apgd_targeted(functions[0], ball, y_N, num_steps=spec.num_steps, generator=generator)
    objective = cross_entropy(functions, y_N, draws=draws, generator=generator)
    start = ball.random_start(generator) if kind.random_start else x_NCHW
    stepper: Stepper = PlainStep(spec.step_size)
    if kind.method == "mi-fgsm":
        stepper = MomentumStep(spec.step_size)
    elif kind.method == "apgd-ce":
        stepper = AdaptiveStep(spec.num_steps)
    return ascend(objective, ball, start, stepper, num_steps=spec.num_steps, keep=keep)


def as_bytes(x_NCHW: Tensor) -> NDArray[np.uint8]:
    """Return images in [0, 1] as a camera delivers them: uint8 (N, H, W, C).

    Rounding weakens an attack on a robot, too. It stays in the ball if ε is a whole number of grey levels.
    """
    return np.ascontiguousarray((x_NCHW * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy())


def cross_entropy(
    functions: Sequence[LogitsFn],
    y_N: Tensor,
    *,
    draws: int | None = None,
    generator: torch.Generator | None = None,
) -> Objective:
    """Return the mean cross-entropy over several functions; an image counts as correct while any of them is correct.

    With `draws`, each call uses that many functions, drawn without replacement.
    """

    def objective(images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        labels = y_N[rows]
        chosen = functions
        if draws is not None:
            device = "cpu" if generator is None else generator.device
            order = torch.randperm(len(functions), generator=generator, device=device)
            chosen = [functions[index] for index in order[:draws].tolist()]
        loss_n = torch.zeros(len(rows), device=images.device)
        correct_n = torch.zeros(len(rows), dtype=torch.bool, device=images.device)
        for function in chosen:
            logits = function(images).float()
            loss_n = loss_n + F.cross_entropy(logits, labels, reduction="none") / len(chosen)
            correct_n |= logits.argmax(dim=1) == labels
        return loss_n, correct_n

    return objective


def targeted_dlr(function: LogitsFn, y_N: Tensor, target_N: Tensor) -> Objective:
    """Return the targeted difference-of-logits ratio (Croce and Hein 2020, Eq. 7), which ignores the logits' scale."""

    def objective(images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        logits = function(images).float()
        labels, targets = y_N[rows], target_N[rows]
        top = logits.sort(dim=1, descending=True).values
        spread_n = top[:, 0] - 0.5 * (top[:, 2] + top[:, 3])
        correct_z = logits.gather(1, labels[:, None])[:, 0]
        target_z = logits.gather(1, targets[:, None])[:, 0]
        return (target_z - correct_z) / spread_n.clamp_min(1e-12), logits.argmax(dim=1) == labels

    return objective


def _apgd_targeted(
    function: LogitsFn, ball: Ball, y_N: Tensor, *, num_steps: int, generator: torch.Generator
) -> Tensor:
    """Run APGD-T: once for each likely wrong class, on the images that no earlier run has broken."""
    with torch.no_grad():
        logits = function(ball.x_NCHW)
    num_classes = logits.shape[1]
    if num_classes < TARGETED_CLASSES:
        raise ConfigError(f"apgd-t needs {TARGETED_CLASSES} classes or more, got {num_classes}: use apgd-ce")
    correct_N = logits.argmax(dim=1) == y_N
    others = logits.scatter(1, y_N[:, None], -torch.inf)
    ranking_NK = others.argsort(dim=1, descending=True)
    result = ball.x_NCHW.clone()
    alive = correct_N.nonzero()[:, 0]
    for rank in range(min(NUM_TARGETS, num_classes - 1)):
        if not len(alive):
            break
        part = ball.select(alive)
        objective = targeted_dlr(function, y_N[alive], ranking_NK[alive, rank])
        start = part.random_start(generator)
        found = ascend(objective, part, start, AdaptiveStep(num_steps), num_steps=num_steps, keep="broken")
        result[alive] = found
        with torch.no_grad():
            alive = alive[function(found).argmax(dim=1) == y_N[alive]]
    return result
