"""Re-estimate batch-norm statistics on a robot's last frames, as others adapt a network without a policy.

Schneider et al., "Improving robustness against common corruptions by covariate shift adaptation", NeurIPS 2020: the
statistics are a mean of the trained ones, which count as 16 images, and of those of the images at hand.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from oat_runtime.architecture import ADVERSARIAL, CLEAN, NORM_EPS, ModelConfig
from oat_runtime.backends.torch_net import ChannelAffine, TorchBlock, TorchNet
from oat_runtime.plain_net import Tensors, share

_TRAINED_COUNTS = 16.0


class _Renormalized(nn.Module):
    """The affine of a norm that takes its mean and variance from the images at hand, as far as they are many."""

    def __init__(self, affine: ChannelAffine, mean_C: Tensor, var_C: Tensor) -> None:
        super().__init__()
        self._mean, self._var = (values.view(1, -1, 1, 1) for values in (mean_C, var_C))
        self._gain = affine.scale * torch.sqrt(self._var + NORM_EPS)
        self._bias = affine.bias + affine.scale * self._mean

    def forward(self, x_NCHW: Tensor) -> Tensor:
        share_of_batch = len(x_NCHW) / (len(x_NCHW) + _TRAINED_COUNTS)
        var, mean = torch.var_mean(x_NCHW, dim=(0, 2, 3), keepdim=True, correction=0)
        mean = torch.lerp(self._mean, mean, share_of_batch)
        var = torch.lerp(self._var, var, share_of_batch)
        return (x_NCHW - mean) * torch.rsqrt(var + NORM_EPS) * self._gain + self._bias


def renormalized(tensors: Tensors, config: ModelConfig, *, lam: float, width: float) -> TorchNet:
    """Return the network of one operating point, which normalizes each batch by the batch's own statistics too."""
    net = TorchNet(share(tensors, config, lam=lam, width=width))
    branch = min(CLEAN if lam == 0.0 else ADVERSARIAL, config.num_branches - 1)

    def norm(affine: nn.Module | None, site: str) -> _Renormalized:
        assert isinstance(affine, ChannelAffine)
        name = f"{site}.norms.{config.width_index(width)}.{branch}"
        mean_C, var_C = (torch.from_numpy(tensors[f"{name}.running_{of}"].copy()) for of in ("mean", "var"))
        return _Renormalized(affine, mean_C, var_C)

    if isinstance(net.stem, nn.Sequential):
        net.stem[1] = norm(net.stem[1], "stem_norm")
    for index, block in enumerate(net.blocks):
        assert isinstance(block, TorchBlock)
        site = f"blocks.{index}"
        behind = ("norm1", "norm2", "shortcut_norm") if block.pre is None else ("norm2", "", "")
        if block.pre is not None:
            block.pre = norm(block.pre, f"{site}.norm1")  # type: ignore[assignment]
        for conv, name in zip((block.conv1, block.conv2, block.shortcut), behind, strict=True):
            if isinstance(conv, nn.Sequential):
                conv[1] = norm(conv[1], f"{site}.{name}")
    if net.final is not None:
        net.final = norm(net.final, "final_norm")  # type: ignore[assignment]
    return net
