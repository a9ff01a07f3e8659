"""Slimmable layers, dual switchable batch norm, FiLM, and how λ reaches them.

Shapes: N batch, C channels, H and W image size, K knots (the λ that the network is trained on), D encoding size.
Method: Wang et al., "Once-for-All Adversarial Training", NeurIPS 2020, sections 3.1 and 3.3 ("the paper").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oat_runtime.errors import OperatingPointError

Encoding = Literal["none", "dct", "orthogonal"]

CLEAN, ADVERSARIAL = 0, 1
"""The two batch-norm branches: λ=0 runs through CLEAN, every other λ through ADVERSARIAL."""


def scaled(channels: int, width: float) -> int:
    """Number of channels that `width` keeps of `channels`; at least one."""
    return max(1, round(channels * width))


def effective_lambda(lam: float, knots: Sequence[float]) -> float:
    """The λ that a network trained on `knots` really runs when asked for `lam`.

    Any λ between two trained neighbours is itself; one between 0 and the smallest trained λ > 0 runs at that
    smallest one, because λ=0 has a batch norm of its own and there is nothing to interpolate towards.

    Raises:
        OperatingPointError: λ lies outside the trained range.
    """
    if not knots[0] <= lam <= knots[-1]:
        raise OperatingPointError(f"lambda must be in [{knots[0]:g}, {knots[-1]:g}] for this network, got {lam}")
    if lam == 0.0:
        return lam
    return max(lam, next(knot for knot in knots if knot > 0.0))


def knot_weights(lam: float, knots: Sequence[float]) -> list[float]:
    """Linear interpolation weights of one λ on the knots: at most two are nonzero, and they sum to 1."""
    lam = effective_lambda(lam, knots)
    weights = [0.0] * len(knots)
    upper = next(k for k, knot in enumerate(knots) if knot >= lam)
    if knots[upper] == lam:
        weights[upper] = 1.0
    else:
        share = (lam - knots[upper - 1]) / (knots[upper] - knots[upper - 1])
        weights[upper - 1], weights[upper] = 1.0 - share, share
    return weights


@dataclass(frozen=True, slots=True)
class LambdaBatch:
    """The λ of each sample of one batch, in the form the network uses.

    Attributes:
        weights_NK: float32 interpolation weights of each sample's λ on the knots.
        num_clean: how many samples at the front of the batch have λ=0; the rest have λ>0.
    """

    weights_NK: Tensor
    num_clean: int

    @classmethod
    def from_values(
        cls, lam_N: Sequence[float], knots: Sequence[float], *, device: str | torch.device = "cpu"
    ) -> LambdaBatch:
        """Encode one λ per sample. The batch must be ordered with all λ=0 first.

        Raises:
            OperatingPointError: a λ is out of range, or a λ=0 follows a λ>0.
        """
        num_clean = sum(lam == 0.0 for lam in lam_N)
        if any(lam == 0.0 for lam in lam_N[num_clean:]):
            raise OperatingPointError("samples with lambda 0 must come first: sort the batch by lambda")
        rows = {lam: knot_weights(lam, knots) for lam in set(lam_N)}
        return cls(torch.tensor([rows[lam] for lam in lam_N], device=device).view(-1, len(knots)), num_clean)

    @classmethod
    def constant(
        cls, lam: float, num: int, knots: Sequence[float], *, device: str | torch.device = "cpu"
    ) -> LambdaBatch:
        """The same λ for `num` samples."""
        weights_K = torch.tensor(knot_weights(lam, knots), device=device)
        return cls(weights_K.expand(num, -1), num if lam == 0.0 else 0)

    def branches(self) -> list[tuple[int, slice, Tensor]]:
        """The non-empty parts of the batch: (batch-norm branch, slice of the batch, its weights)."""
        parts = [(CLEAN, slice(0, self.num_clean)), (ADVERSARIAL, slice(self.num_clean, len(self.weights_NK)))]
        return [(branch, part, self.weights_NK[part]) for branch, part in parts if part.stop > part.start]


@dataclass(frozen=True, slots=True)
class Route:
    """How one part of a batch runs through the network: which batch norm, which width, which λ."""

    branch: int
    width_index: int
    width: float
    weights_NK: Tensor
    code_KD: Tensor


def encode_knots(knots: Sequence[float], *, encoding: Encoding, size: int, generator: torch.Generator) -> Tensor:
    """One code a knot, (K, D) float32: λ itself, a DCT-II basis, or random orthonormal rows (the paper, section 3.1).

    Raises:
        OperatingPointError: `size` cannot hold one independent code a knot.
    """
    if encoding == "none":
        return torch.tensor(knots, dtype=torch.float32).view(-1, 1)
    if size < len(knots):
        raise OperatingPointError(f"encoding size must be at least the number of knots ({len(knots)}), got {size}")
    if encoding == "dct":
        row_K1 = torch.arange(len(knots)).view(-1, 1)
        code_KD = torch.cos(math.pi / size * (torch.arange(size) + 0.5) * row_K1) * math.sqrt(2.0 / size)
        code_KD[0] /= math.sqrt(2.0)
        return code_KD
    return nn.init.orthogonal_(torch.empty(len(knots), size), generator=generator)


class FiLM(nn.Module):
    """γ and β at every knot, each from its own two-layer, C-wide MLP; both start near the identity.

    The last layers start from N(0, 0.02²): from exactly zero, the middle λ collapse into one network
    (measured on a WRN-16-2: SA within 0.2 points for λ = 0.1 … 0.4).
    """

    def __init__(self, channels: int, code_size: int) -> None:
        """Make both MLPs for `channels` channels at full width and codes of `code_size`."""
        super().__init__()
        self.gamma = self._mlp(channels, code_size)
        self.beta = self._mlp(channels, code_size)

    @staticmethod
    def _mlp(channels: int, code_size: int) -> nn.Sequential:
        last = nn.Linear(channels, channels)
        nn.init.normal_(last.weight, std=0.02)
        nn.init.zeros_(last.bias)
        return nn.Sequential(nn.Linear(code_size, channels), nn.LeakyReLU(0.1), last)

    def forward(self, code_KD: Tensor) -> tuple[Tensor, Tensor]:
        """(γ_KC, β_KC) at every knot."""
        return 1.0 + self.gamma(code_KD), self.beta(code_KD)


class FiLMTable(nn.Module):
    """γ and β at the knots as plain numbers: what a bundle stores in place of the MLPs."""

    gamma_KC: Tensor
    beta_KC: Tensor

    def __init__(self, channels: int, num_knots: int) -> None:
        """An identity table for `channels` channels at `num_knots` knots."""
        super().__init__()
        self.register_buffer("gamma_KC", torch.ones(num_knots, channels))
        self.register_buffer("beta_KC", torch.zeros(num_knots, channels))

    def forward(self, code_KD: Tensor) -> tuple[Tensor, Tensor]:
        """(γ_KC, β_KC) as stored; the code is not needed any more."""
        return self.gamma_KC, self.beta_KC


def normalize_batch(
    x_NCHW: Tensor, scale_NC: Tensor, bias_NC: Tensor, eps: float, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize by the batch's own statistics, then scale and shift: (result like x, mean_C, biased variance_C).

    Written in float32 and in plain formulas for a compiler to fuse: on a CPU in bfloat16, compiled, it takes a third of
    the time of batch norm, scale and ReLU in a row.
    """
    x = x_NCHW.float()
    mean_C = x.mean(dim=(0, 2, 3))
    var_C = ((x * x).mean(dim=(0, 2, 3)) - mean_C * mean_C).clamp_min(0.0)
    scale_NC = scale_NC * torch.rsqrt(var_C + eps)
    bias_NC = bias_NC - scale_NC * mean_C
    return modulate(x_NCHW, scale_NC, bias_NC, relu), mean_C.detach(), var_C.detach()


def modulate(x_NCHW: Tensor, scale_NC: Tensor, bias_NC: Tensor, relu: bool) -> Tensor:
    """Scale and shift per sample and channel, rectify if asked to; float32 inside, the dtype of x outside."""
    out = x_NCHW.float() * scale_NC[:, :, None, None] + bias_NC[:, :, None, None]
    return (F.relu(out) if relu else out).to(x_NCHW.dtype)


class SwitchableNorm(nn.Module):
    """Batch norm followed by FiLM: one batch norm per width and branch, one FiLM for all (the paper, Figs. 2 and 4)."""

    def __init__(self, channels: int, widths: Sequence[float], *, code_size: int, dual: bool) -> None:
        """Make the norms for `channels` channels at full width; `dual=False` gives both branches the same one."""
        super().__init__()
        self.norms = nn.ModuleList(
            nn.ModuleList(nn.BatchNorm2d(scaled(channels, width)) for _ in range(2 if dual else 1)) for width in widths
        )
        self.film: FiLM | FiLMTable = FiLM(channels, code_size)
        self.batch_form, self.fixed_form = normalize_batch, modulate

    def norm(self, route: Route) -> nn.BatchNorm2d:
        """The batch norm that `route` uses."""
        of_width = self.norms[route.width_index]
        assert isinstance(of_width, nn.ModuleList)
        norm = of_width[min(route.branch, len(of_width) - 1)]
        assert isinstance(norm, nn.BatchNorm2d)
        return norm

    def affine(self, route: Route) -> tuple[Tensor, Tensor]:
        """Scale and bias after normalization, batch norm's own and FiLM's in one: (scale_NC, bias_NC) float32."""
        norm = self.norm(route)
        gamma_KC, beta_KC = self.film(route.code_KD)
        channels = norm.num_features
        gamma_NC = route.weights_NK @ gamma_KC[:, :channels]
        beta_NC = route.weights_NK @ beta_KC[:, :channels]
        return gamma_NC * norm.weight, gamma_NC * norm.bias + beta_NC

    def forward(self, x_NCHW: Tensor, route: Route, *, relu: bool = False) -> Tensor:
        """Normalize with the route's batch norm, modulate each sample by its γ(λ), β(λ), and rectify if asked to."""
        norm = self.norm(route)
        assert norm.running_mean is not None and norm.running_var is not None
        scale_NC, bias_NC = self.affine(route)
        if norm.training:
            out, mean_C, var_C = self.batch_form(x_NCHW, scale_NC, bias_NC, norm.eps, relu)
            momentum, num = norm.momentum or 0.0, x_NCHW.numel() // x_NCHW.shape[1]
            with torch.no_grad():
                norm.running_mean.lerp_(mean_C, momentum)
                norm.running_var.lerp_(var_C * (num / max(num - 1, 1)), momentum)
            return out
        # Running statistics are constants, so normalization joins the same scale and bias: one pass over the image.
        scale_NC = scale_NC * torch.rsqrt(norm.running_var + norm.eps)
        bias_NC = bias_NC - scale_NC * norm.running_mean
        return self.fixed_form(x_NCHW, scale_NC, bias_NC, relu)


class SlimmableConv2d(nn.Conv2d):
    """A convolution that uses the first channels of its weight: inputs as they come, outputs by width."""

    def slice_weight(self, num_in: int, width: float) -> Tensor:
        """The weight of one width, (scaled(C_out), num_in, k, k); a view."""
        return self.weight[: scaled(self.out_channels, width), :num_in]

    def forward(self, x_NCHW: Tensor, width: float = 1.0) -> Tensor:
        """Convolve at `width`, in the dtype of `x_NCHW`."""
        weight = self.slice_weight(x_NCHW.shape[1], width).to(x_NCHW.dtype)
        return F.conv2d(x_NCHW, weight, None, self.stride, self.padding)


class SlimmableLinear(nn.Linear):
    """A classifier that uses the first features of its weight; all outputs, always in float32."""

    def slice_weight(self, num_in: int) -> Tensor:
        """The weight of one width, (K_out, num_in); a view."""
        return self.weight[:, :num_in]

    def forward(self, x_NC: Tensor) -> Tensor:
        """Map features (N, c ≤ C) to logits."""
        return F.linear(x_NC.float(), self.slice_weight(x_NC.shape[1]), self.bias)
