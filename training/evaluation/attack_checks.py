"""Warn of suspect robustness figures, with checks like AutoAttack's (Croce and Hein 2020).

A warning needs more than chance: the figure must exceed its limit by two standard errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from oat_runtime.operating_point import Proportion
from oat_runtime.stress.attacks import LogitsFn
from training.evaluation.counting import Bools, surely_above
from training.evaluation.inspection import saliency

STRONGER = (
    ("clean", "fgsm"), ("fgsm", "pgd-7"), ("fgsm", "pgd-20"), ("pgd-7", "pgd-20"), ("mi-fgsm", "apgd-ce"),
    ("pgd-20", "apgd-ce"), ("apgd-ce", "apgd-t"), ("pgd-20", "apgd-t"), ("pgd-20-l2", "apgd-ce-l2"),
)  # fmt: skip
"""Pairs in which the second attack should break at least as many images as the first."""

MAX_INVERSION = 0.01
"""Share of images by which a weaker attack may beat a stronger one without being suspect."""
MAX_ONE_STEP_GAP = 0.20
"""Accuracy under FGSM above that under PGD beyond which gradients look masked, or training overfitted to one step."""
MAX_ZERO_GRADIENTS = 0.05
"""Share of images with a gradient of exactly zero beyond which gradient attacks say little."""
_LEAST_SPAN = 0.01
"""Accuracy by which some λ must differ from another to count as used."""
_LEAST_FOR_LAMBDA = 100
"""Images from which equal accuracies of all λ mean something: of twenty, two λ are often correct on equally many."""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """One reason for doubt.

    Attributes:
        kind: what was looked at, in a word.
        value: what was found.
        text: the same for people, with what to do.
    """

    kind: str
    value: float
    text: str


def inspect_network(logits_fn: LogitsFn, x_NCHW: Tensor, y_N: Tensor) -> list[Suspicion]:
    """Look at the network itself: is it random, does it return probabilities, do its gradients vanish?"""
    found = []
    with torch.no_grad():
        first, second = logits_fn(x_NCHW), logits_fn(x_NCHW)
    spread = float((first - second).abs().max())
    if spread > 0.0:
        text = f"the same images gave logits up to {spread:.2g} apart: attack its expectation (`draws`), not one draw"
        found.append(Suspicion("randomness", spread, text))
    sums_N = first.sum(dim=1)
    if float(first.min()) >= 0.0 and bool(((sums_N - 1.0).abs() < 1e-3).all()):
        text = "the outputs look like probabilities: give the attack the logits, or its gradients vanish"
        found.append(Suspicion("probabilities", 1.0, text))
    is_zero_N = saliency(logits_fn, x_NCHW, y_N).flatten(1).abs().amax(dim=1) == 0.0
    zero = float(is_zero_N.float().mean())
    if Proportion(int(is_zero_N.sum()), len(is_zero_N)).interval()[0] > MAX_ZERO_GRADIENTS:
        text = f"the loss of {100 * zero:.1f} % of the images has no gradient: use apgd-t, which does not saturate"
        found.append(Suspicion("zero gradients", zero, text))
    return found


def inspect_outcomes(outcomes: Mapping[str, Bools]) -> list[Suspicion]:
    """Look at several attacks on one network: does a weaker one beat a stronger, is one step enough?

    Args:
        outcomes: by condition (`clean`, `fgsm`, `pgd-7`, ...), all on the same images.
    """
    found = []
    for weak, strong in STRONGER:
        if weak not in outcomes or strong not in outcomes:
            continue
        standing = outcomes[strong].mean() - outcomes[weak].mean()
        if surely_above(outcomes[strong], outcomes[weak]) > MAX_INVERSION:
            text = (
                f"{strong} left {100 * standing:.1f} points more images standing than the weaker {weak}: "
                "more steps or restarts are needed, or gradients are masked"
            )
            found.append(Suspicion("weaker beats stronger", float(standing), text))
    if "fgsm" in outcomes and "pgd-20" in outcomes:
        gap = float(outcomes["fgsm"].mean() - outcomes["pgd-20"].mean())
        if surely_above(outcomes["fgsm"], outcomes["pgd-20"]) > MAX_ONE_STEP_GAP:
            text = (
                f"accuracy under one step is {100 * gap:.1f} points above that under twenty: catastrophic overfitting "
                "to one-step attacks, or masked gradients; trust the stronger attacks only"
            )
            found.append(Suspicion("one-step gap", gap, text))
    return found


def worst_case(outcomes: Mapping[str, Bools]) -> Bools:
    """Return the images that no attack broke."""
    return np.asarray(np.logical_and.reduce(list(outcomes.values())), dtype=np.bool_)


def inspect_lambdas(rates: Mapping[float, tuple[float, float]], *, num_images: int) -> list[Suspicion]:
    """Is λ used at all? `rates` holds (clean, attacked) accuracy of each λ at one width, on `num_images` images."""
    if len(rates) < 2 or num_images < _LEAST_FOR_LAMBDA:
        return []
    span = max(max(column) - min(column) for column in zip(*rates.values(), strict=True))
    if span >= _LEAST_SPAN:
        return []
    text = f"over all λ neither clean nor robust accuracy moves by more than {100 * span:.2f} points: λ seems unused"
    return [Suspicion("λ without effect", float(span), text)]
