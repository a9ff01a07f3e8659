"""Define OATNet, a ResNet (post-activation) or WideResNet (pre-activation) with λ and width as inputs."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oat_runtime.architecture import BlockShape, ConvShape, ModelConfig, layout, scaled
from oat_runtime.errors import OperatingPointError
from training.network.layers import LambdaBatch, Route, SlimmableConv2d, SlimmableLinear, encode_knots
from training.network.norm import FiLMTable, SwitchableNorm, modulate, normalize_batch


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut; `pre_activation` puts norm and ReLU before each (WideResNet) or after."""

    def __init__(self, shape: BlockShape, *, config: ModelConfig, pre_activation: bool) -> None:
        super().__init__()
        self.pre_activation = pre_activation
        self.norm1 = _norm(shape.conv1.inputs if pre_activation else shape.conv1.outputs, config)
        self.norm2 = _norm(shape.conv2.outputs, config)
        self.conv1, self.conv2 = _convolution(shape.conv1), _convolution(shape.conv2)
        self.shortcut: SlimmableConv2d | None = None
        self.shortcut_norm: SwitchableNorm | None = None
        if shape.shortcut is not None:
            self.shortcut = _convolution(shape.shortcut)
            self.shortcut_norm = None if pre_activation else _norm(shape.shortcut.outputs, config)

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
    return SwitchableNorm(
        channels,
        config.widths,
        code_size=config.code_size,
        num_branches=config.num_branches,
        film=len(config.lambdas) > 1,
    )


def _convolution(shape: ConvShape) -> SlimmableConv2d:
    return SlimmableConv2d(shape.inputs, shape.outputs, shape.size, shape.stride, shape.padding, bias=False)


class OATNet(nn.Module):
    """The once-for-all network: images in [0, 1], a λ for each, and a width, to logits.

    Normalization lives inside, so attacks and ε are on the [0, 1] pixel scale. Convolutions run in
    `compute_dtype` (float32, or bfloat16 to train); normalization of pixels, FiLM and logits stay in float32.
    """

    mean: Tensor
    std: Tensor
    code_KD: Tensor

    def __init__(self, config: ModelConfig) -> None:
        """Build with fresh weights from torch's global generator; the λ codes have their own seed."""
        super().__init__()
        self.config = config
        self.compute_dtype = torch.float32
        parts = layout(config)
        self.stem, self.pool = _convolution(parts.stem), parts.pool
        self.stem_norm = None if parts.pre_activation else _norm(parts.stem.outputs, config)
        self.blocks = nn.ModuleList(
            Block(shape, config=config, pre_activation=parts.pre_activation) for shape in parts.blocks
        )
        self.final_norm = _norm(parts.num_features, config) if parts.pre_activation else None
        self.classifier: nn.Module
        if config.classifier_per_width:
            features = (scaled(parts.num_features, width) for width in config.widths)
            self.classifier = nn.ModuleList(SlimmableLinear(num, config.num_classes) for num in features)
        else:
            self.classifier = SlimmableLinear(parts.num_features, config.num_classes)
        generator = torch.Generator().manual_seed(config.encoding_seed)
        code = encode_knots(config.lambdas, encoding=config.encoding, size=config.encoding_size, generator=generator)
        self.register_buffer("code_KD", code)
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1), persistent=False)
        for module in self.modules():
            if isinstance(module, SlimmableConv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def route(self, lam: LambdaBatch, width: float) -> Route:
        """Return how a batch with these λ runs at `width`.

        Raises:
            OperatingPointError: the network was not built for this width.
        """
        return Route(lam, width, self.config.width_index(width), self.code_KD)

    def forward(self, x_NCHW: Tensor, lam: LambdaBatch, *, width: float) -> Tensor:
        """Return logits (N, num_classes) float32 of images (N, 3, H, W) float32 in [0, 1].

        Convolutions see the whole batch; each batch norm sees its own part of it, λ=0 or the rest.

        Raises:
            OperatingPointError: unknown width, or not one λ per image.
        """
        if len(lam.weights_NK) != len(x_NCHW):
            raise OperatingPointError(f"expected one lambda per image: {len(x_NCHW)}, got {len(lam.weights_NK)}")
        return self._logits(x_NCHW, self.route(lam, width))

    def logits_fn(self, lam: LambdaBatch, *, width: float) -> Callable[[Tensor], Tensor]:
        """Return the network at these λ and width as a function of images: for an attack, within `frozen`.

        Scale and bias of every norm are computed in the first call and used again, so weights must not change between
        calls.
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
        classifier = self.get_submodule(self.config.classifier(route.width))
        logits: Tensor = classifier(x_NCHW.mean(dim=(2, 3)))
        return logits

    def norms(self) -> list[SwitchableNorm]:
        """Return every norm site, in the order of construction."""
        return [module for module in self.modules() if isinstance(module, SwitchableNorm)]

    def classifiers(self) -> list[SlimmableLinear]:
        """Return the classifier of each width, narrowest first; one stands for all of them if they share it."""
        modules = [self.get_submodule(self.config.classifier(width)) for width in self.config.widths]
        return [module for module in modules if isinstance(module, SlimmableLinear)]

    def compile_norms(self) -> None:
        """Compile normalization, FiLM and ReLU into fused kernels, one for each shape of batches."""
        torch._dynamo.config.recompile_limit = max(128, torch._dynamo.config.recompile_limit)
        # Backward computes ReLU's mask again: to write it in bytes takes the vectorized kernels 3 to 30 times as long.
        torch._functorch.config.activation_memory_budget = 0.0
        batch_form = torch.compile(normalize_batch, dynamic=False)
        fixed_form = torch.compile(modulate, dynamic=False)
        for site in self.norms():
            site.batch_form, site.fixed_form = batch_form, fixed_form

    @torch.no_grad()
    def with_film_tables(self) -> OATNet:
        """Return a copy that stores γ and β at the knots in place of their MLPs: the form that is shipped."""
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
    """Within the `with` block, the model is in evaluation mode and no parameter takes a gradient."""
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
    """Within the `with` block, batch norms in training mode leave the running statistics unchanged."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
