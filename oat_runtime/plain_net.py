"""The deployed network: a plain residual CNN with NumPy weights, without batch norm, FiLM or slicing.

At a fixed λ and width, batch norm and FiLM are one scale and one bias per channel. `fold` multiplies them into the
convolution before them, for one λ. `share` leaves them behind it as an affine, so that one network serves all λ of its
width, and `constants` lists what λ changes then. Engines compile a `PlainNet`; nothing here needs torch.

Shapes: O output channels, I input channels, K classes, V all that λ changes at one width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from oat_runtime.architecture import (
    ADVERSARIAL,
    CLEAN,
    NORM_EPS,
    BlockShape,
    ConvShape,
    ModelConfig,
    knot_weights,
    layout,
    scaled,
)
from oat_runtime.operating_point import OperatingPoint
from oat_runtime.quantization import Quantization, Ranges

Floats = npt.NDArray[np.float32]
Tensors = Mapping[str, npt.NDArray[Any]]
"""A network's weights by name, float32, as `oat_runtime.architecture.tensor_shapes` lists them."""


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """x · scale + bias per channel: pixel normalization, or a norm that stays beside its convolution."""

    scale_C: Floats
    bias_C: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Convolution:
    """A convolution with a square kernel, and the affine behind it where its norm was not multiplied in."""

    weight_OIHW: Floats
    bias_O: Floats | None
    stride: int
    padding: int
    affine: Affine | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Two convolutions and a shortcut.

    With `pre`, the pre-activation order: affine and ReLU, then the convolutions with a ReLU between them, then the
    addition. Without, the post-activation one: the convolutions with a ReLU between them, the addition, then a ReLU.
    """

    pre: Affine | None
    conv1: Convolution
    conv2: Convolution
    shortcut: Convolution | None


@dataclass(frozen=True, slots=True, eq=False)
class PlainNet:
    """A plain residual CNN: images (N, 3, H, W) float32 in [0, 1] to logits (N, K).

    Attributes:
        normalize: pixel normalization.
        stem: the first convolution; a ReLU follows it where there is no `final` affine.
        pool: whether a 3x3 max pool of stride 2 and padding 1 comes next.
        blocks: the residual blocks.
        final: the last norm of a pre-activation network; a ReLU follows it.
        weight_KC: classifier weights, applied to the mean of each channel over the image.
        bias_K: classifier biases.
        ranges: of the activations, by site, where the network is to run in int8; see `oat_runtime.quantization`.
    """

    normalize: Affine
    stem: Convolution
    pool: bool
    blocks: tuple[Block, ...]
    final: Affine | None
    weight_KC: Floats
    bias_K: Floats
    ranges: Ranges | None = None

    def affines(self) -> dict[str, Affine]:
        """Return the affines that depend on λ, by name, in the order in which `constants` lists them."""
        found: dict[str, Affine | None] = {"stem": self.stem.affine, "final": self.final}
        for index, block in enumerate(self.blocks):
            found |= {
                f"blocks.{index}.pre": block.pre,
                f"blocks.{index}.conv1": block.conv1.affine,
                f"blocks.{index}.conv2": block.conv2.affine,
                f"blocks.{index}.shortcut": None if block.shortcut is None else block.shortcut.affine,
            }
        return {name: affine for name, affine in found.items() if affine is not None}

    def constants(self) -> Floats:
        """Return scale and bias of each of `affines`, one after another, (V,) float32."""
        vectors = [vector for affine in self.affines().values() for vector in (affine.scale_C, affine.bias_C)]
        return np.concatenate(vectors) if vectors else np.zeros(0, np.float32)

    def with_constants(self, constants_V: Floats) -> PlainNet:
        """Return the same network, around the same weights, with other numbers in its affines.

        Raises:
            ValueError: there are not as many numbers as `constants` has.
        """
        sizes = [affine.scale_C.size for affine in self.affines().values()]
        if constants_V.shape != (2 * sum(sizes),):
            raise ValueError(f"expected {2 * sum(sizes)} constants, got shape {constants_V.shape}")
        ends = np.cumsum([size for size in sizes for _ in range(2)])
        parts: Iterator[Floats] = iter(np.split(constants_V, ends[:-1]))

        def affine(old: Affine | None) -> Affine | None:
            return None if old is None else Affine(next(parts), next(parts))

        def convolution(old: Convolution) -> Convolution:
            return dataclasses.replace(old, affine=affine(old.affine))

        stem, final = convolution(self.stem), affine(self.final)
        blocks = tuple(
            Block(
                affine(block.pre),
                convolution(block.conv1),
                convolution(block.conv2),
                None if block.shortcut is None else convolution(block.shortcut),
            )
            for block in self.blocks
        )
        return dataclasses.replace(self, stem=stem, blocks=blocks, final=final)

    @property
    def num_weights(self) -> int:
        """Numbers in convolutions and classifier."""
        shortcuts = [block.shortcut for block in self.blocks if block.shortcut is not None]
        convolutions = [self.stem, *(conv for block in self.blocks for conv in (block.conv1, block.conv2)), *shortcuts]
        arrays = [conv.weight_OIHW for conv in convolutions]
        arrays += [conv.bias_O for conv in convolutions if conv.bias_O is not None]
        return sum(array.size for array in (*arrays, self.weight_KC, self.bias_K))


def fold(
    tensors: Tensors, config: ModelConfig, *, lam: float, width: float, quantization: Quantization | None = None
) -> PlainNet:
    """Return the plain network of one operating point, with every norm multiplied into its convolution.

    γ, β and their products with the batch norm's weight and bias are taken in float32, as in training. All else is in
    float64 and rounded once, so logits agree with the trained network's to float32 rounding. Nothing is changed.

    Args:
        tensors: the weights.
        config: their architecture.
        lam: λ in the trained range; one between 0 and the smallest trained λ > 0 runs at that one, see
            `oat_runtime.architecture.effective_lambda`.
        width: one of the architecture's widths.
        quantization: what int8 needs, from which the network takes the ranges of its activations.

    Raises:
        OperatingPointError: λ or width is not offered.
    """
    net = _assemble(tensors, config, lam, width, _fused)
    if quantization is None:
        return net
    return dataclasses.replace(net, ranges=quantization.at(OperatingPoint(lam, width), config))


def share(tensors: Tensors, config: ModelConfig, *, width: float, lam: float | None = None) -> PlainNet:
    """Return the plain network of one width, with each norm left as an affine behind its convolution.

    Only the affines depend on λ. Convolutions hold views of `tensors`, not copies: do not write to them.

    Args:
        tensors: the weights.
        config: their architecture.
        width: one of the architecture's widths.
        lam: the λ whose constants its affines hold; the largest knot by default.

    Raises:
        OperatingPointError: λ or width is not offered.
    """
    return _assemble(tensors, config, config.lambdas[-1] if lam is None else lam, width, _beside)


def constants(tensors: Tensors, config: ModelConfig, *, lam: float, width: float) -> Floats:
    """Return all that λ changes at one width: scale and bias of every affine of `share`, (V,) float32.

    Raises:
        OperatingPointError: λ or width is not offered.
    """
    return share(tensors, config, width=width, lam=lam).constants()


@dataclass(frozen=True, slots=True, eq=False)
class _Norms:
    """The norms of one operating point, as scale and bias in float64."""

    tensors: Tensors
    weights_K: Floats
    branch: int
    width_index: int

    def __call__(self, site: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return scale and bias (C,) of batch norm (running statistics) and FiLM together."""
        norm = f"{site}.norms.{self.width_index}.{self.branch}"
        weight_C, bias_C, mean_C, var_C = (
            self.tensors[f"{norm}.{name}"] for name in ("weight", "bias", "running_mean", "running_var")
        )
        gamma_C, beta_C = (self._at_lambda(self.tensors[f"{site}.film.{name}"], len(weight_C)) for name in _FILM)
        scale_C = (gamma_C * weight_C).astype(np.float64) / np.sqrt(var_C.astype(np.float64) + NORM_EPS)
        return scale_C, (gamma_C * bias_C + beta_C).astype(np.float64) - scale_C * mean_C.astype(np.float64)

    def _at_lambda(self, rows_KC: Floats, channels: int) -> Floats:
        """Return the rows' mean at this λ, of the first channels: one row as it is, or two neighbours weighted."""
        used = np.flatnonzero(self.weights_K)
        if len(used) == 1:
            return rows_KC[used[0], :channels]
        mean_C: Floats = self.weights_K @ rows_KC[:, :channels]
        return mean_C


_FILM = ("gamma_KC", "beta_KC")
_Convolve = Callable[[Floats, ConvShape, _Norms, str | None], Convolution]
"""Makes a convolution of these weights and this shape, with the norm of a site behind it where one is named."""


def _assemble(tensors: Tensors, config: ModelConfig, lam: float, width: float, convolve: _Convolve) -> PlainNet:
    """Return the plain network of one operating point; `convolve` decides what becomes of a norm."""
    parts, classifier = layout(config), config.classifier(width)
    weights_K = np.array(knot_weights(lam, config.lambdas), np.float32)
    branch = min(CLEAN if lam == 0.0 else ADVERSARIAL, config.num_branches - 1)
    norms = _Norms(tensors, weights_K, branch, config.width_index(width))

    def conv(name: str, shape: ConvShape, site: str | None) -> Convolution:
        num_in = shape.inputs if name == "stem" else scaled(shape.inputs, width)
        return convolve(tensors[f"{name}.weight"][: scaled(shape.outputs, width), :num_in], shape, norms, site)

    def block(name: str, shape: BlockShape) -> Block:
        norm1, norm2, shortcut_norm = f"{name}.norm1", f"{name}.norm2", f"{name}.shortcut_norm"
        # The first norm of a pre-activation block follows an addition, so it stays an affine of its own.
        behind = (norm2, None, None) if parts.pre_activation else (norm1, norm2, shortcut_norm)
        return Block(
            pre=_affine(*norms(norm1)) if parts.pre_activation else None,
            conv1=conv(f"{name}.conv1", shape.conv1, behind[0]),
            conv2=conv(f"{name}.conv2", shape.conv2, behind[1]),
            shortcut=None if shape.shortcut is None else conv(f"{name}.shortcut", shape.shortcut, behind[2]),
        )

    std_C, mean_C = np.array(config.std, np.float32), np.array(config.mean, np.float32)
    return PlainNet(
        normalize=Affine(np.float32(1.0) / std_C, -mean_C / std_C),
        stem=conv("stem", parts.stem, None if parts.pre_activation else "stem_norm"),
        pool=parts.pool,
        blocks=tuple(block(f"blocks.{index}", shape) for index, shape in enumerate(parts.blocks)),
        final=_affine(*norms("final_norm")) if parts.pre_activation else None,
        weight_KC=np.ascontiguousarray(tensors[f"{classifier}.weight"][:, : scaled(parts.num_features, width)]),
        bias_K=tensors[f"{classifier}.bias"],
    )


def _affine(scale_C: npt.NDArray[np.float64], bias_C: npt.NDArray[np.float64]) -> Affine:
    return Affine(scale_C.astype(np.float32), bias_C.astype(np.float32))


def _fused(weight_OIHW: Floats, shape: ConvShape, norms: _Norms, site: str | None) -> Convolution:
    """Multiply the norm into the convolution."""
    if site is None:
        return Convolution(np.ascontiguousarray(weight_OIHW), None, shape.stride, shape.padding)
    scale_C, bias_C = norms(site)
    weight_OIHW = (weight_OIHW.astype(np.float64) * scale_C.reshape(-1, 1, 1, 1)).astype(np.float32)
    return Convolution(weight_OIHW, bias_C.astype(np.float32), shape.stride, shape.padding)


def _beside(weight_OIHW: Floats, shape: ConvShape, norms: _Norms, site: str | None) -> Convolution:
    """Leave the norm as an affine behind the convolution."""
    affine = None if site is None else _affine(*norms(site))
    return Convolution(weight_OIHW, None, shape.stride, shape.padding, affine)
