"""Fold an OATNet at one (λ, width) into a plain CNN: the same logits, no batch norm, no FiLM, no slicing.

Two forms from one assembly: `fold` multiplies every norm into the convolution before it, for one λ; `share` leaves it a
scale and a bias per channel, so that one network serves all λ of its width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oat_runtime.layers import LambdaBatch, Route, SlimmableConv2d, scaled
from oat_runtime.model import Block, OATNet
from oat_runtime.norm import SwitchableNorm


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
        return torch.addcmul(self.bias, x_NCHW, self.scale)


class PlainBlock(nn.Module):
    """Two convolutions and a shortcut. With `pre`, the pre-activation order; without, the post-activation one."""

    def __init__(
        self, pre: ChannelAffine | None, conv1: nn.Module, conv2: nn.Module, shortcut: nn.Module | None
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
        stem: nn.Module,
        blocks: list[PlainBlock],
        final: ChannelAffine | None,
        classifier: nn.Linear,
        pool: bool = False,
    ) -> None:
        """Take the folded parts; `final` is the last norm of a pre-activation network, `pool` halves after the stem."""
        super().__init__()
        self.pool = pool
        self.normalize, self.stem, self.final, self.classifier = normalize, stem, final, classifier
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Logits of a batch."""
        x_NCHW = self.stem(self.normalize(x_NCHW))
        if self.final is None:
            x_NCHW = F.relu(x_NCHW)
        if self.pool:
            x_NCHW = F.max_pool2d(x_NCHW, kernel_size=3, stride=2, padding=1)
        for block in self.blocks:
            x_NCHW = block(x_NCHW)
        if self.final is not None:
            x_NCHW = F.relu(self.final(x_NCHW))
        logits: Tensor = self.classifier(x_NCHW.mean(dim=(2, 3)))
        return logits


_Convolve = Callable[[SlimmableConv2d, int, Route, SwitchableNorm | None], nn.Module]
"""Makes a convolution with so many inputs, and the norm that follows it where there is one."""


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
    plain = _assemble(model, lam, width, _fused)
    plain.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return plain


def share(model: OATNet, *, width: float, lam: float | None = None) -> PlainNet:
    """The same network with each norm left as a `ChannelAffine` behind its convolution.

    Only the affines depend on λ, so one compiled network serves every λ of a width: see `constants`. Convolutions hold
    views of the model's weights, not copies; do not write to them.

    Args:
        model: any OATNet, in any mode.
        width: one of the model's widths.
        lam: the λ whose constants its affines hold; the largest knot by default.

    Raises:
        OperatingPointError: λ or width is not offered.
    """
    return _assemble(model, model.config.lambdas[-1] if lam is None else lam, width, _scaled)


def affines(net: nn.Module) -> dict[str, ChannelAffine]:
    """The affines that depend on λ, by name, in the order in which `constants` lists them."""
    found = {name: module for name, module in net.named_modules() if isinstance(module, ChannelAffine)}
    found.pop("normalize", None)
    return found


def constants(model: OATNet, *, lam: float, width: float) -> Tensor:
    """All that λ changes at one width: scale and bias of every affine of `share`, one after another, (V,) float32.

    Raises:
        OperatingPointError: λ or width is not offered.
    """
    sites = affines(share(model, width=width, lam=lam)).values()
    return torch.cat([vector.flatten() for site in sites for vector in (site.scale, site.bias)])


@torch.no_grad()
def _assemble(model: OATNet, lam: float, width: float, convolve: _Convolve) -> PlainNet:
    """The plain network at one operating point; `convolve` decides what becomes of a norm after a convolution."""
    batch = LambdaBatch.constant(lam, 1, model.config.lambdas, device=model.code_KD.device)
    route = model.route(batch, width)
    std_C, mean_C = model.std.flatten(), model.mean.flatten()
    blocks = [_block(block, route, convolve) for block in model.blocks if isinstance(block, Block)]
    num_features = scaled(model.classifier.in_features, width)
    classifier = nn.Linear(num_features, model.config.num_classes, device="meta")
    classifier.weight = nn.Parameter(model.classifier.slice_weight(num_features).clone())
    classifier.bias = nn.Parameter(model.classifier.bias.clone())
    plain = PlainNet(
        normalize=ChannelAffine(1.0 / std_C, -mean_C / std_C),
        stem=convolve(model.stem, 3, route, model.stem_norm),
        blocks=blocks,
        final=None if model.final_norm is None else ChannelAffine(*_norm_constants(model.final_norm, route)),
        classifier=classifier,
        pool=model.pool,
    )
    return plain.eval().requires_grad_(False)


def _block(block: Block, route: Route, convolve: _Convolve) -> PlainBlock:
    """One block; the first norm of a pre-activation block follows an addition, so it stays an affine of its own."""
    num_in = scaled(block.conv1.in_channels, route.width)
    num_hidden = scaled(block.conv1.out_channels, route.width)
    after1, after2 = (block.norm2, None) if block.pre_activation else (block.norm1, block.norm2)
    shortcut = None
    if block.shortcut is not None:
        shortcut = convolve(block.shortcut, num_in, route, block.shortcut_norm)
    return PlainBlock(
        pre=ChannelAffine(*_norm_constants(block.norm1, route)) if block.pre_activation else None,
        conv1=convolve(block.conv1, num_in, route, after1),
        conv2=convolve(block.conv2, num_hidden, route, after2),
        shortcut=shortcut,
    )


def _norm_constants(site: SwitchableNorm, route: Route) -> tuple[Tensor, Tensor]:
    """Scale and bias of batch norm (running statistics) and FiLM together, (C,) float64."""
    ((norm, _),) = site.parts(route)
    assert norm.running_mean is not None and norm.running_var is not None
    scale_1C, bias_1C = site.affine(route)
    scale_C = scale_1C[0].double() / torch.sqrt(norm.running_var.double() + norm.eps)
    return scale_C, bias_1C[0].double() - scale_C * norm.running_mean.double()


def _fused(conv: SlimmableConv2d, num_in: int, route: Route, site: SwitchableNorm | None) -> nn.Module:
    """Norm multiplied into the convolution."""
    weight = conv.slice_weight(num_in, route.width)
    if site is None:
        return _convolution(conv, weight.clone())
    scale_C, bias_C = _norm_constants(site, route)
    return _convolution(conv, (weight.double() * scale_C.view(-1, 1, 1, 1)).float(), bias_C.float())


def _scaled(conv: SlimmableConv2d, num_in: int, route: Route, site: SwitchableNorm | None) -> nn.Module:
    """Norm as an affine behind the convolution, whose weight is the model's own."""
    plain = _convolution(conv, conv.slice_weight(num_in, route.width))
    return plain if site is None else nn.Sequential(plain, ChannelAffine(*_norm_constants(site, route)))


def _convolution(like: SlimmableConv2d, weight: Tensor, bias_C: Tensor | None = None) -> nn.Conv2d:
    """A convolution of the geometry of `like` around the given tensors, which are not copied."""
    num_out, num_in = weight.shape[:2]
    assert not isinstance(like.padding, str)
    (size, _), (stride, _), (padding, _) = like.kernel_size, like.stride, like.padding
    plain = nn.Conv2d(num_in, num_out, size, stride, padding, bias=bias_C is not None, device="meta")
    plain.weight = nn.Parameter(weight, requires_grad=False)
    if bias_C is not None:
        plain.bias = nn.Parameter(bias_C, requires_grad=False)
    return plain
