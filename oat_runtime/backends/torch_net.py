"""Make a torch module of a `PlainNet`, for the torch engine and for gradient attacks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oat_runtime.plain_net import Affine, Block, Convolution, Floats, PlainNet
from oat_runtime.quantization import Range, as_range, union

AtSite = Callable[[str, Tensor], Tensor]
"""Gets the name of a site and the activation there, and returns what the network goes on with."""


def _as_it_is(site: str, x_NCHW: Tensor) -> Tensor:
    return x_NCHW


class ChannelAffine(nn.Module):
    """x · scale + bias per channel."""

    scale: Tensor
    bias: Tensor

    def __init__(self, affine: Affine) -> None:
        super().__init__()
        self.register_buffer("scale", _copy(affine.scale_C).view(1, -1, 1, 1))
        self.register_buffer("bias", _copy(affine.bias_C).view(1, -1, 1, 1))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Scale and shift every channel."""
        return torch.addcmul(self.bias, x_NCHW, self.scale)


class TorchBlock(nn.Module):
    """One residual block; see `oat_runtime.plain_net.Block`."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.pre = None if block.pre is None else ChannelAffine(block.pre)
        self.conv1, self.conv2 = _convolution(block.conv1), _convolution(block.conv2)
        self.shortcut = None if block.shortcut is None else _convolution(block.shortcut)

    def forward(self, x_NCHW: Tensor, name: str, at_site: AtSite) -> Tensor:
        """Run the block, whose sites have names that start with `name`."""
        active = x_NCHW if self.pre is None else at_site(f"{name}.pre", F.relu(self.pre(x_NCHW)))
        skip = x_NCHW if self.shortcut is None else at_site(f"{name}.shortcut", self.shortcut(active))
        hidden = at_site(f"{name}.conv1", F.relu(self.conv1(active)))
        out = at_site(f"{name}.conv2", self.conv2(hidden)) + skip
        return out if self.pre is not None else F.relu(out)


class TorchNet(nn.Module):
    """The same network in torch: images (N, 3, H, W) float32 in [0, 1] to logits (N, K), in evaluation mode.

    Weights are copies of the plain network's, channels last; they take no gradient, and the images may.
    """

    def __init__(self, net: PlainNet) -> None:
        super().__init__()
        self.normalize = ChannelAffine(net.normalize)
        self.stem = _convolution(net.stem)
        self.pool = net.pool
        self.blocks = nn.ModuleList(TorchBlock(block) for block in net.blocks)
        self.final = None if net.final is None else ChannelAffine(net.final)
        num_classes, num_features = net.weight_KC.shape
        self.classifier = nn.Linear(num_features, num_classes, device="meta")
        self.classifier.weight = nn.Parameter(_copy(net.weight_KC))
        self.classifier.bias = nn.Parameter(_copy(net.bias_K))
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x_NCHW: Tensor, at_site: AtSite = _as_it_is) -> Tensor:
        """Return the logits of a batch; `at_site` is called at each of `oat_runtime.quantization.activation_sites`."""
        x_NCHW = self.stem(self.normalize(x_NCHW))
        if self.final is None:
            x_NCHW = F.relu(x_NCHW)
        if self.pool:
            x_NCHW = F.max_pool2d(x_NCHW, kernel_size=3, stride=2, padding=1)
        x_NCHW = at_site("stem", x_NCHW)
        for index, block in enumerate(self.blocks):
            x_NCHW = block(x_NCHW, f"blocks.{index}", at_site)
            if index + 1 < len(self.blocks):
                x_NCHW = at_site(f"blocks.{index}", x_NCHW)
        if self.final is not None:
            x_NCHW = F.relu(self.final(x_NCHW))
        logits: Tensor = self.classifier(x_NCHW.mean(dim=(2, 3)))
        return logits

    def constants(self) -> list[Tensor]:
        """Return scale and bias of every affine that depends on λ, in the order of `PlainNet.constants`."""
        affines = [*self.stem.modules(), self.final, *self.blocks.modules()]
        found = [module for module in affines if isinstance(module, ChannelAffine)]
        return [vector for affine in found for vector in (affine.scale, affine.bias)]


@torch.inference_mode()
def activation_ranges(net: TorchNet, batches: Iterable[Tensor]) -> dict[str, Range]:
    """Return the range of each activation over images: what `oat_runtime.quantization.Quantization` holds of a point.

    The range is that of all values. Leaving out one value in ten thousand made the logits six times as wrong, because
    the largest activations are those that decide.

    Args:
        net: the float32 network of one operating point.
        batches: images (N, 3, H, W) float32 in [0, 1]: clean ones, and ones that were attacked at this point.

    Raises:
        ValueError: there is no image, or an activation is not finite.
    """
    found = dict[str, Range]()

    def watch(site: str, x_NCHW: Tensor) -> Tensor:
        low, high = (float(end) for end in x_NCHW.aminmax())  # both are NaN where one value is
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(f"expected finite activations, got {low:g} to {high:g} at {site}: check the weights")
        seen = as_range(low, high)
        found.update(union({site: found.get(site, seen)}, {site: seen}))
        return x_NCHW

    for x_NCHW in batches:
        net(x_NCHW, watch)
    if not found:
        raise ValueError("expected images, got none")
    return found


def _convolution(conv: Convolution) -> nn.Module:
    num_out, num_in, size, _ = conv.weight_OIHW.shape
    bias = conv.bias_O is not None
    plain = nn.Conv2d(num_in, num_out, size, conv.stride, conv.padding, bias=bias, device="meta")
    plain.weight = nn.Parameter(_copy(conv.weight_OIHW))
    if conv.bias_O is not None:
        plain.bias = nn.Parameter(_copy(conv.bias_O))
    return plain if conv.affine is None else nn.Sequential(plain, ChannelAffine(conv.affine))


def _copy(array: Floats) -> Tensor:
    return torch.from_numpy(np.array(array, np.float32))
