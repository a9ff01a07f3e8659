"""Fold an OATNet at one (λ, width) into a plain CNN: the same logits, no λ, no batch norm, no FiLM, no slicing."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oat_runtime.layers import LambdaBatch, Route, SlimmableConv2d, SwitchableNorm, scaled
from oat_runtime.model import Block, OATNet


class ChannelAffine(nn.Module):
    """x · scale + bias per channel: pixel normalization, and a norm that follows an addition and cannot be folded."""

    scale: Tensor
    bias: Tensor

    def __init__(self, scale_C: Tensor, bias_C: Tensor) -> None:
        """Keep float32 copies of `scale_C` and `bias_C`."""
        super().__init__()
        self.register_buffer("scale", scale_C.detach().float().view(1, -1, 1, 1).clone())
        self.register_buffer("bias", bias_C.detach().float().view(1, -1, 1, 1).clone())

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Scale and shift every channel."""
        return x_NCHW * self.scale + self.bias


class PlainBlock(nn.Module):
    """Two convolutions and a shortcut. With `pre`, the pre-activation order; without, the post-activation one."""

    def __init__(
        self, pre: ChannelAffine | None, conv1: nn.Conv2d, conv2: nn.Conv2d, shortcut: nn.Conv2d | None
    ) -> None:
        """Take the folded parts."""
        super().__init__()
        self.pre, self.conv1, self.conv2, self.shortcut = pre, conv1, conv2, shortcut

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Run the block."""
        active = x_NCHW if self.pre is None else F.relu(self.pre(x_NCHW))
        skip = x_NCHW if self.shortcut is None else self.shortcut(active)
        out: Tensor = self.conv2(F.relu(self.conv1(active))) + skip
        return out if self.pre is not None else F.relu(out)


class PlainNet(nn.Module):
    """A plain residual CNN: images (N, 3, H, W) float32 in [0, 1] to logits (N, K)."""

    def __init__(
        self,
        normalize: ChannelAffine,
        stem: nn.Conv2d,
        blocks: list[PlainBlock],
        final: ChannelAffine | None,
        classifier: nn.Linear,
    ) -> None:
        """Take the folded parts; `final` is the last norm of a pre-activation network."""
        super().__init__()
        self.normalize, self.stem, self.final, self.classifier = normalize, stem, final, classifier
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Logits of a batch."""
        x_NCHW = self.stem(self.normalize(x_NCHW))
        if self.final is None:
            x_NCHW = F.relu(x_NCHW)
        for block in self.blocks:
            x_NCHW = block(x_NCHW)
        if self.final is not None:
            x_NCHW = F.relu(self.final(x_NCHW))
        logits: Tensor = self.classifier(x_NCHW.mean(dim=(2, 3)))
        return logits


@torch.no_grad()
def fold(model: OATNet, *, lam: float, width: float) -> PlainNet:
    """The plain network that computes what `model` computes at one operating point, in evaluation mode.

    At fixed λ and width, batch norm and FiLM are constants, so they join the convolution before them. The products
    are taken in float64 and rounded once, so logits agree to float32 rounding. `model` is not touched.

    Args:
        model: any OATNet, in any mode.
        lam: λ within the trained range; see `oat_runtime.layers.effective_lambda` for λ between 0 and the next knot.
        width: one of the model's widths.

    Raises:
        OperatingPointError: λ or width is not offered.
    """
    batch = LambdaBatch.constant(lam, 1, model.config.lambdas, device=model.code_KD.device)
    ((branch, _, weights_1K),) = batch.branches()
    route = model.route(branch, weights_1K, width)
    std_C, mean_C = model.std.flatten(), model.mean.flatten()
    blocks = [_fold_block(block, route) for block in model.blocks if isinstance(block, Block)]
    classifier = nn.Linear(blocks[-1].conv2.out_channels, model.config.num_classes, device=std_C.device)
    classifier.weight.copy_(model.classifier.slice_weight(classifier.in_features))
    classifier.bias.copy_(model.classifier.bias)
    plain = PlainNet(
        normalize=ChannelAffine(1.0 / std_C, -mean_C / std_C),
        stem=_fold_conv(model.stem, 3, route, model.stem_norm),
        blocks=blocks,
        final=None if model.final_norm is None else ChannelAffine(*_constants(model.final_norm, route)),
        classifier=classifier,
    )
    plain.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return plain.eval().requires_grad_(False)


def _constants(site: SwitchableNorm, route: Route) -> tuple[Tensor, Tensor]:
    """Scale and bias of batch norm (running statistics) and FiLM together, (C,) float64."""
    norm = site.norm(route)
    assert norm.running_mean is not None and norm.running_var is not None
    scale_1C, bias_1C = site.affine(route)
    scale_C = scale_1C[0].double() / torch.sqrt(norm.running_var.double() + norm.eps)
    return scale_C, bias_1C[0].double() - scale_C * norm.running_mean.double()


def _fold_conv(conv: SlimmableConv2d, num_in: int, route: Route, site: SwitchableNorm | None) -> nn.Conv2d:
    """The convolution at the route's width, with the norm that follows it where there is one."""
    weight = conv.slice_weight(num_in, route.width).double()
    bias_C = None
    if site is not None:
        scale_C, bias_C = _constants(site, route)
        weight = weight * scale_C.view(-1, 1, 1, 1)
    num_out, _, size, _ = weight.shape
    has_bias = bias_C is not None
    plain = nn.Conv2d(num_in, num_out, size, conv.stride[0], size // 2, bias=has_bias, device=weight.device)
    plain.weight.copy_(weight)
    if bias_C is not None and plain.bias is not None:
        plain.bias.copy_(bias_C)
    return plain


def _fold_block(block: Block, route: Route) -> PlainBlock:
    """One block; the first norm of a pre-activation block follows an addition, so it stays an affine of its own."""
    num_in = scaled(block.conv1.in_channels, route.width)
    num_hidden = scaled(block.conv1.out_channels, route.width)
    after1, after2 = (block.norm2, None) if block.pre_activation else (block.norm1, block.norm2)
    shortcut = None
    if block.shortcut is not None:
        shortcut = _fold_conv(block.shortcut, num_in, route, block.shortcut_norm)
    return PlainBlock(
        pre=ChannelAffine(*_constants(block.norm1, route)) if block.pre_activation else None,
        conv1=_fold_conv(block.conv1, num_in, route, after1),
        conv2=_fold_conv(block.conv2, num_hidden, route, after2),
        shortcut=shortcut,
    )
