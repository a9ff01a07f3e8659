"""Inspect a network: batch-norm statistics by λ, Jacobian saliency, and cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oat_runtime.architecture import scaled
from oat_runtime.backends.torch_net import ChannelAffine
from oat_runtime.operating_point import AttackSpec
from oat_runtime.stress.attack_loop import lengths
from oat_runtime.stress.attacks import LogitsFn, perturb
from training.network import LambdaBatch, OATNet, folded

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class NormStatistics:
    """Mean and variance of each channel before the last batch norm at one λ, over images and pixels."""

    lam: float
    images: str
    """`clean`, or `mixed` (clean and adversarial images in equal number, as training mixes them at λ>0)."""
    mean_C: Floats
    var_C: Floats


def norm_statistics(
    model: OATNet, x_NCHW: Tensor, y_N: Tensor, *, lambdas: Sequence[float], width: float, attack: AttackSpec
) -> list[NormStatistics]:
    """Return statistics at the last norm for each λ (the paper, Fig. 2): of clean images, and of mixed ones for λ>0."""
    site = model.norms()[-1] if model.final_norm is None else model.final_norm
    seen: list[Tensor] = []
    handle = site.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().double()))
    found = []
    try:
        for lam in lambdas:
            plain = folded(model, lam=lam, width=width)
            generator = torch.Generator(x_NCHW.device).manual_seed(attack.seed)
            sets = {"clean": x_NCHW}
            if lam > 0.0:
                adversarial = perturb(plain, x_NCHW, y_N, spec=attack, generator=generator)
                sets["mixed"] = torch.cat([x_NCHW, adversarial])
            for name, images in sets.items():
                seen.clear()
                batch = LambdaBatch.constant(lam, len(images), model.config.lambdas, device=x_NCHW.device)
                with torch.no_grad():
                    model(images, batch, width=width)
                axes = (0, 2, 3)
                mean_C, var_C = seen[0].mean(dim=axes), seen[0].var(dim=axes, unbiased=False)
                found.append(NormStatistics(lam, name, mean_C.cpu().numpy(), var_C.cpu().numpy()))
    finally:
        handle.remove()
    return found


def saliency(logits_fn: LogitsFn, x_NCHW: Tensor, y_N: Tensor) -> Tensor:
    """Return the gradient of the cross-entropy with respect to the pixels (the paper, section 4.5), (N, 3, H, W)."""
    images = x_NCHW.detach().clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits_fn(images), y_N, reduction="sum"), images)
    return gradient


def alignment(gradient_NCHW: Tensor, x_NCHW: Tensor) -> Tensor:
    """Return how much each image's saliency looks like the image: |cosine| of the two in [0, 1], (N,).

    Etmann et al. 2019 ("On the connection between adversarial robustness and saliency map interpretability") compare a
    gradient with the image by its inner product; here both are scaled to length 1 and the image has its channel means
    taken off, so that brightness does not count. NaN where a gradient or an image is constant zero.
    """
    centred = x_NCHW - x_NCHW.mean(dim=(2, 3), keepdim=True)
    product_N = (centred * gradient_NCHW).flatten(1).sum(dim=1)
    lengths_N = lengths(centred) * lengths(gradient_NCHW)
    cosine_N: Tensor = product_N / lengths_N
    return cosine_N.abs()


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one image at one width, in multiply-adds, and the size of the network.

    Attributes:
        width: the width.
        convolutions: multiply-adds of convolutions and classifier. This is what "FLOPs" means in the paper, whose
            1.16 G are a plain ResNet-34 at 32×32 pixels.
        norms: one multiply-add for each value that passes a batch norm, unfolded.
        film: unfolded, one for each value that γ and β modulate, and those of the MLPs that make γ and β.
        folded: multiply-adds of the folded network as deployed, whatever λ: convolutions, classifier and what scales
            and shifts by channel could not be folded.
        parameters: numbers stored by the folded network.
    """

    width: float
    convolutions: int
    norms: int
    film: int
    folded: int
    parameters: int


def cost(model: OATNet, *, width: float, height: int, columns: int) -> Cost:
    """Count the multiply-adds of one image of `height` × `columns` pixels."""
    config = model.config
    device = model.code_KD.device
    x_NCHW = torch.zeros(1, 3, height, columns, device=device)
    plain = folded(model, lam=config.lambdas[-1], width=width)
    convolutions = affine = 0

    def count(module: nn.Module, _: object, out: Tensor) -> None:
        nonlocal convolutions, affine
        if isinstance(module, nn.Conv2d):
            convolutions += out.numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            convolutions += module.weight.numel()
        elif isinstance(module, ChannelAffine):
            affine += out.numel()

    norms = film = 0
    has_film = len(config.lambdas) > 1  # with one λ, γ and β would be constants

    def count_norm(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal norms, film
        norms += inputs[0].numel()
        if has_film:
            film += inputs[0].numel()

    handles = [module.register_forward_hook(count) for module in plain.modules()]
    handles += [site.register_forward_pre_hook(count_norm) for site in model.norms()]
    try:
        with torch.no_grad():
            plain(x_NCHW)
            batch = LambdaBatch.constant(config.lambdas[-1], 1, config.lambdas, device=device)
            model(x_NCHW, batch, width=width)
    finally:
        for handle in handles:
            handle.remove()
    if has_film:
        code_size = 1 if config.encoding == "none" else config.encoding_size
        for site in model.norms():
            channels = site.norm(0, len(config.widths) - 1).num_features  # the MLPs are not slimmed inside
            full = round(channels / config.widths[-1])
            film += 2 * full * (code_size + scaled(full, width))
    stored = [*plain.parameters(), *plain.buffers()]
    return Cost(width, convolutions, norms, film, convolutions + affine, sum(tensor.numel() for tensor in stored))
