"""Build the network that the benchmark compares with: written for one purpose, with the shapes of an OATNet."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from oat_runtime.architecture import ModelConfig
from training.network import OATNet
from training.network.layers import Route
from training.network.norm import SwitchableNorm


class OrdinaryNorm(nn.BatchNorm2d):
    """Torch's batch norm, with the interface of an OATNet's norm."""

    def forward(  # type: ignore[override]
        self, x_NCHW: Tensor, route: Route, *, relu: bool = False, skip_NCHW: Tensor | None = None
    ) -> Tensor:
        """Normalize, add the skip, ReLU; the route changes nothing."""
        out: Tensor = super().forward(x_NCHW)
        out = out if skip_NCHW is None else out + skip_NCHW
        return F.relu(out) if relu else out


def single(config: ModelConfig) -> OATNet:
    """Return an OATNet of these shapes for λ = 0 at full width alone, with fresh weights."""
    return OATNet(ModelConfig(**(dict(config) | {"lambdas": (0.0,), "widths": (1.0,)})))


def ordinary_net(config: ModelConfig) -> OATNet:
    """Return the same with ordinary batch norm."""
    net = single(config)
    for name, site in list(net.named_modules()):
        if isinstance(site, SwitchableNorm):
            parent, _, attribute = name.rpartition(".")
            setattr(net.get_submodule(parent), attribute, OrdinaryNorm(len(next(site.parameters()))))
    return net
