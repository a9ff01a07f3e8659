"""Describe a network: its configuration, the shapes of its layers and tensors, its input, and the λ it offers.

Method: Wang et al., "Once-for-All Adversarial Training", NeurIPS 2020 ("the paper").
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from oat_runtime.compat import Self
from oat_runtime.errors import OperatingPointError
from oat_runtime.operating_point import StrictModel

Encoding = Literal["none", "dct", "orthogonal"]
Resize = Literal["stretch", "center_crop", "letterbox"]
Stem = Literal["3x3", "3x3-stride2", "7x7-stride2-pool"]

CLEAN, ADVERSARIAL = 0, 1
"""The two batch-norm branches: λ=0 runs through CLEAN, every other λ through ADVERSARIAL."""
NORM_EPS: Final = 1e-5
"""The number that every batch norm adds to the variance."""
_SAME = 1e-7
"""Share by which two λ or widths may differ and still be the same: twice what float32 rounds away."""

_STEMS: dict[Stem, tuple[int, int]] = {"3x3": (3, 1), "3x3-stride2": (3, 2), "7x7-stride2-pool": (7, 2)}
"""(kernel size, stride) of the first convolution."""
_RESNET_BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


Mean = Annotated[float, Field(ge=0, le=1)]
Deviation = Annotated[float, Field(ge=1e-4, le=1)]


class InputSpec(StrictModel):
    """The input of a network. A frame of exactly this size is never resampled."""

    height: int = Field(default=32, ge=1, le=4096)
    """Rows, in pixels."""
    width: int = Field(default=32, ge=1, le=4096)
    """Columns, in pixels."""
    color_order: Literal["rgb"] = "rgb"
    """Order of the channels, in the frame and in the input."""
    resize: Resize = "center_crop"
    """How a frame of another shape is fitted: `stretch` keeps all and changes the aspect ratio, `center_crop` keeps
    the largest centred window of the right aspect ratio, `letterbox` keeps all and pads with black."""
    interpolation: Literal["area", "linear"] = "area"
    """`area` averages when shrinking (no aliasing) and is linear when enlarging; `linear` is linear always."""
    region_margin: float | None = Field(default=None, ge=0, le=1)
    """Of a network that was trained on boxes: the share of a box's size that is added on each side before a region of a
    frame is cut out; see `oat_runtime.image.enlarged`. None cuts regions out as they are."""

    @model_serializer(mode="wrap")
    def _without_what_says_nothing(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out a margin that is None: manifests of networks without one stay as they are, byte for byte."""
        fields: dict[str, Any] = handler(self)
        return {name: value for name, value in fields.items() if name != "region_margin" or value is not None}


class ModelConfig(StrictModel):
    """Architecture of a network; with the weights, it is all that is needed to rebuild the network."""

    family: Literal["resnet", "wide_resnet"] = "wide_resnet"
    """`resnet` puts norm and ReLU after each convolution, `wide_resnet` before it (pre-activation)."""
    depth: int = Field(default=16, le=200)
    """ResNet: 10, 18 or 34. WideResNet: 6 n + 4."""
    widen_factor: int = Field(default=2, ge=1, le=64)
    """WideResNet only: multiple of 16, 32, 64 channels."""
    stem: Stem = "3x3"
    """First layers: `3x3` for images around 32x32, `3x3-stride2` for 64x64 and 96x96, `7x7-stride2-pool` (a max pool of
    stride 2 follows) for 224x224. The network takes any size; the last feature map is averaged."""
    num_classes: int = Field(default=10, ge=2, le=32_768)
    """Number of classes; `fit_to_data` takes it from the data."""
    widths: tuple[float, ...] = Field(default=(0.5, 0.75, 1.0), max_length=8)
    """Width factors, ascending; each has its own batch norms."""
    classifier_per_width: bool = False
    """Whether each width has a classifier of its own, as in SOLAR (arXiv 2509.16833); else all use the first features
    of one."""
    lambdas: tuple[float, ...] = Field(default=(0.0, 0.1, 0.2, 0.3, 0.4, 1.0), max_length=32)
    """The λ that the network is trained on, ascending. S1 of the paper by default. With a single one there is
    nothing to condition on, so there is no FiLM: the plain baseline of adversarial training at a fixed λ."""
    encoding: Encoding = "orthogonal"
    """How λ enters the FiLM layers: `none` as itself, `dct` or `orthogonal` as a row of such a matrix (paper, 3.2)."""
    encoding_size: int = Field(default=128, ge=1, le=4096)
    """Length of such a row."""
    encoding_seed: int = Field(default=0, ge=-(2**63), lt=2**63)
    """Seed of the matrix that `orthogonal` draws."""
    dual_bn: bool = True
    """False: the ablation with one batch norm for all λ."""
    mean: tuple[Mean, Mean, Mean] = (0.4914, 0.4822, 0.4465)
    """Per-channel means of the training pixels in [0, 1]; subtracted inside the network."""
    std: tuple[Deviation, Deviation, Deviation] = (0.2470, 0.2435, 0.2616)
    """Per-channel standard deviations of the training pixels in [0, 1]; divided by inside the network."""

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

    def classifier(self, width: float) -> str:
        """Return the name of the classifier of `width`, whose weight and bias are tensors under it.

        Raises:
            OperatingPointError: the network was not built for this width.
        """
        index = self.width_index(width)
        return f"classifier.{index}" if self.classifier_per_width else "classifier"

    @property
    def num_branches(self) -> int:
        """Number of batch norms of each norm site and width: two if λ=0 has its own, otherwise one."""
        return 2 if self.dual_bn and len(self.lambdas) > 1 and self.lambdas[0] == 0.0 else 1

    @property
    def code_size(self) -> int:
        """Length of a λ code."""
        return 1 if self.encoding == "none" else self.encoding_size

    def width_index(self, width: float) -> int:
        """Return the position of `width` among the widths.

        Raises:
            OperatingPointError: the network was not built for this width.
        """
        for index, own in enumerate(self.widths):
            if math.isclose(width, own, rel_tol=_SAME):
                return index
        raise OperatingPointError(f"width must be one of {list(self.widths)}, got {width}")


@dataclass(frozen=True, slots=True)
class ConvShape:
    """One convolution at full width: square kernel, no bias, padded so that only its stride changes the image size."""

    inputs: int
    outputs: int
    size: int = 3
    stride: int = 1

    @property
    def padding(self) -> int:
        """Zero padding on each side of the image, in pixels."""
        return self.size // 2


@dataclass(frozen=True, slots=True)
class BlockShape:
    """Two convolutions and a shortcut; without a shortcut, the block's input is added unchanged."""

    conv1: ConvShape
    conv2: ConvShape
    shortcut: ConvShape | None


@dataclass(frozen=True, slots=True)
class Layout:
    """The layers of a network at full width, in the order in which an image passes them.

    Attributes:
        stem: the first convolution.
        pool: whether a 3x3 max pool of stride 2 follows it.
        pre_activation: whether norm and ReLU stand before the convolutions of a block (WideResNet) and not after them.
        blocks: the residual blocks.
        num_features: channels that the classifier averages over the image.
    """

    stem: ConvShape
    pool: bool
    pre_activation: bool
    blocks: tuple[BlockShape, ...]
    num_features: int

    def norms(self) -> Iterator[tuple[str, int]]:
        """Yield the name of each norm site and its number of channels."""
        if not self.pre_activation:
            yield "stem_norm", self.stem.outputs
        for index, block in enumerate(self.blocks):
            conv = block.conv1
            yield f"blocks.{index}.norm1", conv.inputs if self.pre_activation else conv.outputs
            yield f"blocks.{index}.norm2", block.conv2.outputs
            if block.shortcut is not None and not self.pre_activation:
                yield f"blocks.{index}.shortcut_norm", block.shortcut.outputs
        if self.pre_activation:
            yield "final_norm", self.num_features

    def convolutions(self) -> Iterator[tuple[str, ConvShape]]:
        """Yield the name of each convolution and its shape."""
        yield "stem", self.stem
        for index, block in enumerate(self.blocks):
            yield f"blocks.{index}.conv1", block.conv1
            yield f"blocks.{index}.conv2", block.conv2
            if block.shortcut is not None:
                yield f"blocks.{index}.shortcut", block.shortcut


def layout(config: ModelConfig) -> Layout:
    """Return the layers of a network of this architecture."""
    pre_activation = config.family == "wide_resnet"
    if pre_activation:
        channels, base = 16, 16 * config.widen_factor
        blocks_per_stage: tuple[int, ...] = (((config.depth - 4) // 6),) * 3
    else:
        channels = base = 64
        blocks_per_stage = _RESNET_BLOCKS[config.depth]
    size, stride = _STEMS[config.stem]
    stem = ConvShape(3, channels, size, stride)
    blocks = []
    for stage, num_blocks in enumerate(blocks_per_stage):
        outputs = base << stage
        for index in range(num_blocks):
            stride = 2 if stage > 0 and index == 0 else 1
            changes = stride != 1 or channels != outputs
            blocks.append(
                BlockShape(
                    conv1=ConvShape(channels, outputs, stride=stride),
                    conv2=ConvShape(outputs, outputs),
                    shortcut=ConvShape(channels, outputs, size=1, stride=stride) if changes else None,
                )
            )
            channels = outputs
    return Layout(stem, config.stem.endswith("-pool"), pre_activation, tuple(blocks), channels)


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every tensor of a network's weights file.

    Convolutions are stored at full width, and so is the classifier unless each width has one of its own. Each
    normalization site has γ and β at every knot (at one of them where there is a single λ), and for each width and
    branch a batch norm of its own. All are float32 but `num_batches_tracked`, which is int64 and not read.
    """
    parts, num_knots = layout(config), len(config.lambdas)
    shapes: dict[str, tuple[int, ...]] = {
        f"{name}.weight": (conv.outputs, conv.inputs, conv.size, conv.size) for name, conv in parts.convolutions()
    }
    for site, channels in parts.norms():
        shapes[f"{site}.film.gamma_KC"] = shapes[f"{site}.film.beta_KC"] = (num_knots, channels)
        for index, width in enumerate(config.widths):
            for branch in range(config.num_branches):
                norm = f"{site}.norms.{index}.{branch}"
                for name in ("weight", "bias", "running_mean", "running_var"):
                    shapes[f"{norm}.{name}"] = (scaled(channels, width),)
                shapes[f"{norm}.num_batches_tracked"] = ()
    for width in config.widths:
        features = scaled(parts.num_features, width) if config.classifier_per_width else parts.num_features
        shapes[f"{config.classifier(width)}.weight"] = (config.num_classes, features)
        shapes[f"{config.classifier(width)}.bias"] = (config.num_classes,)
    shapes["code_KD"] = (num_knots, config.code_size)
    return shapes


def scaled(channels: int, width: float) -> int:
    """Return how many of `channels` a width keeps; at least one."""
    return max(1, round(channels * width))


def effective_lambda(lam: float, knots: Sequence[float]) -> float:
    """Return the λ that a network trained on `knots` really runs when asked for `lam`.

    A λ between two knots above 0 runs as it is. A λ between 0 and the smallest knot above 0 runs at that knot, because
    λ=0 has its own batch norm, so there is nothing to interpolate towards. What differs from a knot by rounding alone,
    as 0.1 + 0.2 does or a float32, is that knot.

    Raises:
        OperatingPointError: λ lies outside the trained range.
    """
    for knot in knots:
        if math.isclose(lam, knot, rel_tol=_SAME):
            return knot
    if not knots[0] <= lam <= knots[-1]:
        raise OperatingPointError(f"lambda must be in [{knots[0]:g}, {knots[-1]:g}] for this network, got {lam}")
    return max(lam, next(knot for knot in knots if knot > 0.0))


def knot_weights(lam: float, knots: Sequence[float]) -> list[float]:
    """Return the linear interpolation weights of one λ on the knots: at most two are nonzero, and they sum to 1.

    Raises:
        OperatingPointError: λ lies outside the trained range.
    """
    lam = effective_lambda(lam, knots)
    weights = [0.0] * len(knots)
    upper = next(k for k, knot in enumerate(knots) if knot >= lam)
    if knots[upper] == lam:
        weights[upper] = 1.0
    else:
        share = (lam - knots[upper - 1]) / (knots[upper] - knots[upper - 1])
        weights[upper - 1], weights[upper] = 1.0 - share, share
    return weights
