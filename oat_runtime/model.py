"""OATNet: one network whose λ and width are inputs; in a ResNet (post-activation) and a WideResNet (pre-) family."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from oat_runtime.errors import OperatingPointError
from oat_runtime.layers import (
    Encoding,
    LambdaBatch,
    Route,
    SlimmableConv2d,
    SlimmableLinear,
    encode_knots,
)
from oat_runtime.norm import FiLMTable, SwitchableNorm, modulate, normalize_batch
from oat_runtime.operating_point import StrictModel

Stem = Literal["3x3", "3x3-stride2", "7x7-stride2-pool"]
_STEMS: dict[Stem, tuple[int, int]] = {"3x3": (3, 1), "3x3-stride2": (3, 2), "7x7-stride2-pool": (7, 2)}
"""(kernel size, stride) of the first convolution."""
_RESNET_BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


class ModelConfig(StrictModel):
    """Architecture of an OATNet; together with the weights it is all that is needed to rebuild one."""

    family: Literal["resnet", "wide_resnet"] = "wide_resnet"
    depth: int = 16
    """ResNet: 10, 18 or 34. WideResNet: 6 n + 4."""
    widen_factor: int = Field(default=2, ge=1)
    """WideResNet only: multiple of 16, 32, 64 channels."""
    stem: Stem = "3x3"
    """First layers: `3x3` for images around 32x32, `3x3-stride2` for 64x64 and 96x96, `7x7-stride2-pool` (a max pool of
    stride 2 follows) for 224x224. The network takes any size; the last feature map is averaged."""
    num_classes: int = Field(default=10, ge=2)
    widths: tuple[float, ...] = (0.5, 0.75, 1.0)
    """Width factors with batch norms of their own, ascending."""
    lambdas: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 1.0)
    """The knots: λ that the network is trained on, ascending. S1 of the paper by default. With a single one there is
    nothing to condition on, so there is no FiLM: the plain baseline of adversarial training at a fixed λ."""
    encoding: Encoding = "orthogonal"
    encoding_size: int = Field(default=128, ge=1)
    encoding_seed: int = 0
    dual_bn: bool = True
    """False: the ablation with one batch norm for all λ."""
    mean: tuple[float, float, float] = (0.4914, 0.4822, 0.4465)
    std: tuple[float, float, float] = (0.2470, 0.2435, 0.2616)
    """Per-channel statistics of the training pixels in [0, 1]; applied inside the network."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.family == "resnet" and self.depth not in _RESNET_BLOCKS:
            raise ValueError(f"depth of a resnet must be one of {sorted(_RESNET_BLOCKS)}, got {self.depth}")
        if self.family == "wide_resnet" and (self.depth < 10 or (self.depth - 4) % 6):
            raise ValueError(f"depth of a wide_resnet must be 6 n + 4 with n >= 1, got {self.depth}")
        for name, values in (("widths", self.widths), ("lambdas", self.lambdas)):
            if not values or list(values) != sorted(set(values)):
                raise ValueError(f"{name} must be ascending without repeats, got {values}")
        if not self.widths[0] > 0.0 or self.widths[-1] > 1.0:
            raise ValueError(f"widths must be in (0, 1], got {self.widths}")
        if self.lambdas[0] < 0.0 or self.lambdas[-1] > 1.0:
            raise ValueError(f"lambdas must be in [0, 1], got {self.lambdas}")
        return self

    @property
    def name(self) -> str:
        """Short name, as in `wrn-16-2` or `resnet-18`."""
        return f"resnet-{self.depth}" if self.family == "resnet" else f"wrn-{self.depth}-{self.widen_factor}"


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut; `pre_activation` puts norm and ReLU before each (WideResNet) or after."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, config: ModelConfig, pre_activation: bool) -> None:
        """Make a block from `inputs` to `outputs` channels (at full width)."""
        super().__init__()
        self.pre_activation = pre_activation
        self.norm1 = _norm(inputs if pre_activation else outputs, config)
        self.norm2 = _norm(outputs, config)
        self.conv1 = SlimmableConv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = SlimmableConv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut: SlimmableConv2d | None = None
        self.shortcut_norm: SwitchableNorm | None = None
        if stride != 1 or inputs != outputs:
            self.shortcut = SlimmableConv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut_norm = None if pre_activation else _norm(outputs, config)

    def forward(self, x_NCHW: Tensor, route: Route) -> Tensor:
        """Run the block."""
        if self.pre_activation:
            active = self.norm1(x_NCHW, route, relu=True)
            skip = self.shortcut(active, route.width) if self.shortcut is not None else x_NCHW
            hidden = self.norm2(self.conv1(active, route.width), route, relu=True)
            out: Tensor = self.conv2(hidden, route.width) + skip
            return out
        skip = x_NCHW
        if self.shortcut is not None and self.shortcut_norm is not None:
            skip = self.shortcut_norm(self.shortcut(x_NCHW, route.width), route)
        hidden = self.norm1(self.conv1(x_NCHW, route.width), route, relu=True)
        return self.norm2(self.conv2(hidden, route.width), route, relu=True, skip_NCHW=skip)  # type: ignore[no-any-return]


def _norm(channels: int, config: ModelConfig) -> SwitchableNorm:
    many = len(config.lambdas) > 1
    return SwitchableNorm(
        channels,
        config.widths,
        code_size=1 if config.encoding == "none" else config.encoding_size,
        dual=config.dual_bn and many and config.lambdas[0] == 0.0,
        film=many,
    )


def _stages(config: ModelConfig) -> tuple[int, list[tuple[int, int, int]]]:
    """(stem channels, [(channels, blocks, first stride) of each stage])."""
    if config.family == "resnet":
        blocks = _RESNET_BLOCKS[config.depth]
        return 64, [(64 << stage, blocks[stage], 1 if stage == 0 else 2) for stage in range(4)]
    blocks_per_stage = (config.depth - 4) // 6
    base = 16 * config.widen_factor
    return 16, [(base << stage, blocks_per_stage, 1 if stage == 0 else 2) for stage in range(3)]


class OATNet(nn.Module):
    """The once-for-all network: images in [0, 1], a λ for each, and a width, to logits.

    Normalization lives inside, so attacks and ε are on the [0, 1] pixel scale. Convolutions run in
    `compute_dtype` (float32, or bfloat16 to train); normalization of pixels, FiLM and logits stay in float32.
    """

    mean: Tensor
    std: Tensor
    code_KD: Tensor

    def __init__(self, config: ModelConfig) -> None:
        """Build with fresh weights; draws from torch's global generator, but the λ encoding from its own seed."""
        super().__init__()
        self.config = config
        self.compute_dtype = torch.float32
        stem, stages = _stages(config)
        pre_activation = config.family == "wide_resnet"
        size, stride = _STEMS[config.stem]
        self.stem = SlimmableConv2d(3, stem, size, stride, size // 2, bias=False)
        self.pool = config.stem.endswith("-pool")
        self.stem_norm = None if pre_activation else _norm(stem, config)
        blocks: list[Block] = []
        channels = stem
        for outputs, count, first_stride in stages:
            for index in range(count):
                stride = first_stride if index == 0 else 1
                blocks.append(Block(channels, outputs, stride, config=config, pre_activation=pre_activation))
                channels = outputs
        self.blocks = nn.ModuleList(blocks)
        self.final_norm = _norm(channels, config) if pre_activation else None
        self.classifier = SlimmableLinear(channels, config.num_classes)
        generator = torch.Generator().manual_seed(config.encoding_seed)
        code = encode_knots(config.lambdas, encoding=config.encoding, size=config.encoding_size, generator=generator)
        self.register_buffer("code_KD", code)
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1), persistent=False)
        for module in self.modules():
            if isinstance(module, SlimmableConv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def width_index(self, width: float) -> int:
        """Position of `width` in the configuration.

        Raises:
            OperatingPointError: the network was not built for this width.
        """
        if width not in self.config.widths:
            raise OperatingPointError(f"width must be one of {list(self.config.widths)}, got {width}")
        return self.config.widths.index(width)

    def route(self, lam: LambdaBatch, width: float) -> Route:
        """How a batch of these λ runs at `width`.

        Raises:
            OperatingPointError: the network was not built for this width.
        """
        return Route(lam, width, self.width_index(width), self.code_KD)

    def forward(self, x_NCHW: Tensor, lam: LambdaBatch, *, width: float) -> Tensor:
        """Logits (N, num_classes) float32 of images (N, 3, H, W) float32 in [0, 1].

        Convolutions see the whole batch; each batch norm sees its own part of it, λ=0 or the rest.

        Raises:
            OperatingPointError: unknown width, or not one λ per image.
        """
        if len(lam.weights_NK) != len(x_NCHW):
            raise OperatingPointError(f"expected one lambda per image: {len(x_NCHW)}, got {len(lam.weights_NK)}")
        return self._logits(x_NCHW, self.route(lam, width))

    def logits_fn(self, lam: LambdaBatch, *, width: float) -> Callable[[Tensor], Tensor]:
        """The network at these λ and width as a function of images alone: for an attack, within `frozen`.

        Scale and bias of every norm are computed in the first call and kept, so weights must not change between calls.
        """
        return partial(self._logits, route=dataclasses.replace(self.route(lam, width), constants={}))

    def _logits(self, x_NCHW: Tensor, route: Route) -> Tensor:
        x_NCHW = ((x_NCHW - self.mean) / self.std).to(self.compute_dtype, memory_format=torch.channels_last)
        x_NCHW = self.stem(x_NCHW, route.width)
        if self.stem_norm is not None:
            x_NCHW = self.stem_norm(x_NCHW, route, relu=True)
        if self.pool:
            x_NCHW = F.max_pool2d(x_NCHW, kernel_size=3, stride=2, padding=1)
        for block in self.blocks:
            x_NCHW = block(x_NCHW, route)
        if self.final_norm is not None:
            x_NCHW = self.final_norm(x_NCHW, route, relu=True)
        logits: Tensor = self.classifier(x_NCHW.mean(dim=(2, 3)))
        return logits

    def norms(self) -> list[SwitchableNorm]:
        """Every normalization site, in the order of the forward pass's construction."""
        return [module for module in self.modules() if isinstance(module, SwitchableNorm)]

    def compile_norms(self) -> None:
        """Compile normalization, FiLM and ReLU into fused kernels, one for each shape; wants batches of one shape."""
        torch._dynamo.config.recompile_limit = max(128, torch._dynamo.config.recompile_limit)
        # Backward computes ReLU's mask again: to write it in bytes takes the vectorized kernels 3 to 30 times as long.
        torch._functorch.config.activation_memory_budget = 0.0
        batch_form = torch.compile(normalize_batch, dynamic=False)
        fixed_form = torch.compile(modulate, dynamic=False)
        for site in self.norms():
            site.batch_form, site.fixed_form = batch_form, fixed_form

    @torch.no_grad()
    def with_film_tables(self) -> OATNet:
        """A copy with γ and β stored at the knots in place of the MLPs that make them: the form that is shipped."""
        twin = copy.deepcopy(self)
        for site in twin.norms():
            gamma_KC, beta_KC = site.film(self.code_KD)
            table = FiLMTable(gamma_KC.shape[1], len(self.config.lambdas)).to(gamma_KC.device)
            table.gamma_KC.copy_(gamma_KC)
            table.beta_KC.copy_(beta_KC)
            site.film = table
        return twin


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Within the block: evaluation mode, no parameter takes a gradient. Afterwards all is as it was."""
    modes = [(module, module.training) for module in model.modules()]
    grads = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval()
    for parameter, _ in grads:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in grads:
            parameter.requires_grad_(requires_grad)


@contextmanager
def untracked(model: nn.Module) -> Iterator[None]:
    """Within the block: batch norms in training mode use the batch's statistics and leave the running ones alone."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
