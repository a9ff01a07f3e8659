"""Compute the loss of one width in one step: attack, one joint forward pass, weighted terms. Tensors in and out.

Nothing here draws at random, waits for the device or depends on values, so a step can be recorded as a CUDA graph.
Shapes: N samples of this process, A clean terms, B adversarial terms, M = A + B joint images, K knots or classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from oat_runtime.operating_point import AttackSpec
from training.config import TrainConfig
from training.network import LambdaBatch, OATNet, frozen
from training.sampling import StepDraw

_N_FGSM_NOISE = 2.0
"""Half-width of N-FGSM's noise, in ε (de Jorge et al. 2022, section 4)."""


@dataclass(frozen=True, slots=True)
class Terms:
    """The loss terms of some samples: their images, λ and weights.

    Clean and adversarial images run through the network in one pass, clean ones first, so that images that share a
    batch norm are normalized together. With separate passes, the running statistics mix two distributions that training
    never saw mixed (SA at λ=0.1 fell from 83 % to 62 %).

    Attributes:
        x_NCHW: float32 images in [0, 1].
        y_N: int64 labels.
        clean_A: index of the sample of each clean term.
        adversarial_B: the same of each adversarial term.
        lam_M: λ of all terms, clean ones first.
        lam_B: λ of the adversarial terms.
        weight_M: weight of each term; a step's loss is their weighted sum over the number of samples in the batch.
    """

    x_NCHW: Tensor
    y_N: Tensor
    clean_A: Tensor
    adversarial_B: Tensor
    lam_M: LambdaBatch
    lam_B: LambdaBatch
    weight_M: Tensor

    @classmethod
    def of(cls, draw: StepDraw, x_NCHW: Tensor, y_N: Tensor, config: TrainConfig) -> Terms:
        """Return the terms of a draw, on the device of the images."""
        device, knots = x_NCHW.device, config.model.lambdas
        clean = [draw.lam_N[n] for n in draw.clean]
        adversarial = [draw.lam_N[n] for n in draw.adversarial]
        if config.terms == "sampled":
            weights = [1.0] * (len(clean) + len(adversarial))
        elif config.adversarial_loss == "trades":
            weights = [1.0] * len(clean) + [config.trades_beta * lam for lam in adversarial]
        else:
            weights = [1.0 - lam for lam in clean] + adversarial
        lam_M = LambdaBatch.from_values([*clean, *adversarial], knots, device=device)
        return cls(
            x_NCHW=x_NCHW,
            y_N=y_N,
            clean_A=torch.tensor(draw.clean, dtype=torch.int64, device=device),
            adversarial_B=torch.tensor(draw.adversarial, dtype=torch.int64, device=device),
            lam_M=lam_M,
            lam_B=LambdaBatch(lam_M.weights_NK[len(clean) :], 0),
            weight_M=torch.tensor(weights, device=device),
        )


def attack_terms(
    model: OATNet, terms: Terms, noise_NCHW: Tensor, *, width: float, attack: AttackSpec, against: str
) -> Tensor:
    """Return the images of the adversarial terms, each attacked at its own λ and at `width`, (B, 3, H, W).

    Meanwhile the network is frozen and in evaluation mode. Images, perturbation and projection stay in float32.

    Args:
        model: the network; its modes and statistics are as before afterwards.
        terms: what to attack.
        noise_NCHW: uniform in [-1, 1]: the start, in units of ε (of 2 ε for N-FGSM).
        width: of the network that is attacked.
        attack: `fgsm`, `fgsm-rs`, `n-fgsm` or `pgd-N`. N-FGSM is not projected (de Jorge et al. 2022).
        against: `labels` raises the cross-entropy; `prediction` the divergence from the clean prediction (TRADES).
    """
    clean = terms.x_NCHW[terms.adversarial_B]
    if not len(clean):
        return clean
    reach = {"n-fgsm": _N_FGSM_NOISE, "fgsm": 0.0}.get(attack.name, 1.0) * attack.epsilon
    projected = attack.name != "n-fgsm"
    low, high = clean - attack.epsilon, clean + attack.epsilon
    images = (clean + reach * noise_NCHW[terms.adversarial_B]).clamp_(0.0, 1.0)
    with frozen(model):
        logits_fn = model.logits_fn(terms.lam_B, width=width)
        objective = _objective(logits_fn, clean, terms.y_N[terms.adversarial_B], against)
        for _ in range(attack.num_steps):
            images.requires_grad_(True)
            (gradient,) = torch.autograd.grad(objective(images), images)
            images = images.detach() + attack.step_size * gradient.sign()
            images = torch.min(torch.max(images, low), high) if projected else images
            images = images.clamp_(0.0, 1.0)
    return images


def attacked(
    model: OATNet, terms: Terms, noise: Tensor, *, widths: Sequence[float], config: TrainConfig
) -> Iterator[Tensor]:
    """Yield what each width learns from its adversarial terms, each attacked only when it is asked for.

    Args:
        model: the network.
        terms: what to attack.
        noise: (W, N, 3, H, W) uniform in [-1, 1], the start of each width's attack.
        widths: W widths. With an `attack_width` other than `own`, the first attack serves all of them.
        config: the attack, its width and its objective.
    """
    against = "prediction" if config.adversarial_loss == "trades" else "labels"
    shared_width = {"widest": max(widths), "narrowest": min(widths), "own": None}[config.attack_width]
    images: Tensor | None = None
    for width, starts in zip(widths, noise, strict=True):
        if images is None or shared_width is None:
            images = attack_terms(
                model, terms, starts, width=shared_width or width, attack=config.attack, against=against
            )
        yield images


def _objective(
    logits_fn: Callable[[Tensor], Tensor], clean: Tensor, y_B: Tensor, against: str
) -> Callable[[Tensor], Tensor]:
    if against == "labels":
        return lambda images: F.cross_entropy(logits_fn(images), y_B, reduction="sum")
    with torch.no_grad():
        target_BK = logits_fn(clean).softmax(dim=1)
    return lambda images: F.kl_div(logits_fn(images).log_softmax(dim=1), target_BK, reduction="sum")


def weighted_sum(
    model: OATNet,
    terms: Terms,
    adversarial: Tensor,
    *,
    width: float,
    config: TrainConfig,
    teacher_MK: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return (weighted sum of all terms' losses, logits_MK) at one width, in the model's present mode.

    Args:
        model: the network.
        terms: what to learn.
        adversarial: images (B, 3, H, W) of the adversarial terms.
        width: the width that learns.
        config: the run's.
        teacher_MK: probabilities that a wider width gives the same terms, for `width_distillation`; None: labels alone.
    """
    joint = torch.cat([terms.x_NCHW[terms.clean_A], adversarial])
    logits_MK = model(joint, terms.lam_M, width=width)
    num_clean_terms = len(terms.clean_A)
    if config.adversarial_loss == "trades":
        clean_AK, robust_BK = logits_MK[:num_clean_terms], logits_MK[num_clean_terms:]
        cross_N = F.cross_entropy(clean_AK, terms.y_N, reduction="none", label_smoothing=config.label_smoothing)
        target_BK = clean_AK[terms.adversarial_B].log_softmax(dim=1)  # every sample has a clean term, in order
        divergence_B = F.kl_div(robust_BK.log_softmax(dim=1), target_BK, reduction="none", log_target=True).sum(dim=1)
        losses_M = torch.cat([cross_N, divergence_B])
    else:
        y_M = torch.cat([terms.y_N[terms.clean_A], terms.y_N[terms.adversarial_B]])
        losses_M = F.cross_entropy(logits_MK, y_M, reduction="none", label_smoothing=config.label_smoothing)
        if teacher_MK is not None:
            taught_M = F.cross_entropy(logits_MK, teacher_MK, reduction="none")
            losses_M = torch.lerp(losses_M, taught_M, config.width_distillation)
    return (terms.weight_M * losses_M).sum(), logits_MK
