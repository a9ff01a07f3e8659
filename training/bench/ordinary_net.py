"""The benchmark's yardstick: a network as one would write it for one purpose."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oat_runtime.architecture import ModelConfig
from training.network import OATNet
from training.network.oat_net import Block


def single(config: ModelConfig) -> OATNet:
    """Return an OATNet of these shapes for λ = 0 at full width alone, with fresh weights."""
    return OATNet(ModelConfig(**(dict(config) | {"lambdas": (0.0,), "widths": (1.0,)})))


class OrdinaryNet(nn.Module):
    """A network as one would write it for one purpose: the shapes of an OATNet at full width, ordinary batch norm."""

    def __init__(self, config: ModelConfig) -> None:
        """Build with fresh weights."""
        super().__init__()
        like = single(config)
        self.pre = config.family == "wide_resnet"
        self.like, self.mean, self.std = like, like.mean, like.std
        self.norms = nn.ModuleDict()
        for name, site in like.named_modules():
            if hasattr(site, "film"):
                self.norms[name.replace(".", "_")] = nn.BatchNorm2d(site.film.gamma_KC.shape[1])
        self.names = {id(site): name.replace(".", "_") for name, site in like.named_modules()}

    def norm(self, site: nn.Module | None, x_NCHW: Tensor) -> Tensor:
        """Ordinary batch norm at a site."""
        out: Tensor = x_NCHW if site is None else self.norms[self.names[id(site)]](x_NCHW)
        return out

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Logits of a batch in the dtype of the convolutions."""
        net = self.like
        x_NCHW = ((x_NCHW - self.mean) / self.std).to(net.compute_dtype, memory_format=torch.channels_last)
        x_NCHW = net.stem(x_NCHW)
        if net.stem_norm is not None:
            x_NCHW = F.relu(self.norm(net.stem_norm, x_NCHW))
        for block in net.blocks:
            assert isinstance(block, Block)
            x_NCHW = self.block(block, x_NCHW)
        if net.final_norm is not None:
            x_NCHW = F.relu(self.norm(net.final_norm, x_NCHW))
        logits: Tensor = net.classifier(x_NCHW.mean(dim=(2, 3)))
        return logits

    def block(self, block: Block, x_NCHW: Tensor) -> Tensor:
        """One residual block."""
        if self.pre:
            active = F.relu(self.norm(block.norm1, x_NCHW))
            skip = x_NCHW if block.shortcut is None else block.shortcut(active)
            hidden = block.conv1(active)
            out: Tensor = block.conv2(F.relu(self.norm(block.norm2, hidden))) + skip
            return out
        skip = x_NCHW if block.shortcut is None else self.norm(block.shortcut_norm, block.shortcut(x_NCHW))
        hidden = F.relu(self.norm(block.norm1, block.conv1(x_NCHW)))
        return F.relu(self.norm(block.norm2, block.conv2(hidden)) + skip)
