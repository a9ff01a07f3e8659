"""Bring λ and width into a network: λ codes, batches of λ, and slimmable layers.

Shapes: N batch, C channels, H and W image size, K knots (the λ that the network is trained on), D encoding size.
Method: the paper, sections 3.1 and 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oat_runtime.architecture import ADVERSARIAL, CLEAN, Encoding, knot_weights, scaled
from oat_runtime.errors import OperatingPointError


@dataclass(frozen=True, slots=True)
class LambdaBatch:
    """The λ of each sample of one batch, in the form the network uses.

    Attributes:
        weights_NK: float32 interpolation weights of each sample's λ on the knots.
        num_clean: number of samples with λ=0, at the front of the batch; the rest have λ>0.
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
        """Return the same λ for `num` samples."""
        weights_K = torch.tensor(knot_weights(lam, knots), device=device)
        return cls(weights_K.expand(num, -1), num if lam == 0.0 else 0)

    def parts(self) -> list[tuple[int, slice]]:
        """Return the non-empty parts of the batch: (batch-norm branch, slice of the batch)."""
        parts = [(CLEAN, slice(0, self.num_clean)), (ADVERSARIAL, slice(self.num_clean, len(self.weights_NK)))]
        return [(branch, part) for branch, part in parts if part.stop > part.start]


@dataclass(frozen=True, slots=True)
class Route:
    """How a batch runs through the network: each sample's λ, the width, and the input for γ and β."""

    lam: LambdaBatch
    width: float
    width_index: int
    code_KD: Tensor
    constants: dict[int, tuple[Tensor, Tensor]] | None = None
    """Where each site keeps its scale and bias, for many passes in evaluation mode over weights that stay as they are;
    None computes them in every pass."""


def encode_knots(knots: Sequence[float], *, encoding: Encoding, size: int, generator: torch.Generator) -> Tensor:
    """Return a code for each knot, (K, D) float32: λ, a DCT-II basis, or orthonormal rows (the paper, section 3.1).

    Raises:
        OperatingPointError: `size` is too small for independent codes of all knots.
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


class SlimmableConv2d(nn.Conv2d):
    """A convolution that uses the first channels of its weight: as many inputs as come, outputs by width."""

    def slice_weight(self, num_in: int, width: float) -> Tensor:
        """Return the weight of one width, (scaled(C_out), num_in, k, k); a view."""
        return self.weight[: scaled(self.out_channels, width), :num_in]

    def forward(self, x_NCHW: Tensor, width: float = 1.0) -> Tensor:
        """Convolve at `width`, in the dtype of `x_NCHW`."""
        weight = self.slice_weight(x_NCHW.shape[1], width).to(x_NCHW.dtype)
        if self.kernel_size == (1, 1) and self.stride != (1, 1) and x_NCHW.shape[1] < 16:
            # The same result without oneDNN's weight gradient of such a convolution, which writes past its memory
            # (uxlfoundation/oneDNN issue 6035). 16 channels and more are safe, and faster with the stride inside.
            return F.conv2d(x_NCHW[:, :, :: self.stride[0], :: self.stride[1]], weight)
        return F.conv2d(x_NCHW, weight, None, self.stride, self.padding)


class SlimmableLinear(nn.Linear):
    """A classifier that uses the first features of its weight, with all outputs, always in float32."""

    def slice_weight(self, num_in: int) -> Tensor:
        """Return the weight of one width, (K_out, num_in); a view."""
        return self.weight[:, :num_in]

    def forward(self, x_NC: Tensor) -> Tensor:
        """Map features (N, c ≤ C) to logits."""
        return F.linear(x_NC.float(), self.slice_weight(x_NC.shape[1]), self.bias)
