"""Make networks with random weights, for benchmarks and trials, because weights do not change the time.

`static_net` is the network that benchmarks compare with, as if it had been trained for one purpose. It shares no
code with what is compared with it (`oat_runtime.plain_net.fold` and `share`).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from oat_runtime.architecture import ConvShape, ModelConfig, layout, scaled, tensor_shapes
from oat_runtime.plain_net import Affine, Block, Convolution, Floats, PlainNet
from oat_runtime.quantization import activation_sites


def untrained_tensors(config: ModelConfig, *, seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """Return the weights of an untrained network: He et al.'s for convolutions, the identity for norms and FiLM."""
    rng, tensors = np.random.default_rng(seed), dict[str, npt.NDArray[Any]]()
    for name, shape in tensor_shapes(config).items():
        if name.endswith("num_batches_tracked"):
            tensors[name] = np.zeros(shape, np.int64)
        elif len(shape) > 1 and "film" not in name:
            tensors[name] = _random(rng, shape)
        else:
            is_one = name.endswith(("gamma_KC", "running_var", ".weight"))
            tensors[name] = np.full(shape, float(is_one), np.float32)
    return tensors


def static_net(config: ModelConfig, width: float) -> PlainNet:
    """Return a plain network of these shapes at one width, with its batch norms folded; the same one at every call."""
    rng, parts = np.random.default_rng(0), layout(config)
    pre = parts.pre_activation

    def conv(shape: ConvShape, *, norm_behind: bool) -> Convolution:
        num_out, num_in = scaled(shape.outputs, width), scaled(shape.inputs, width)
        if shape is parts.stem:
            num_in = shape.inputs
        weight_OIHW = _random(rng, (num_out, num_in, shape.size, shape.size))
        return Convolution(
            weight_OIHW, np.zeros(num_out, np.float32) if norm_behind else None, shape.stride, shape.padding
        )

    def norm(channels: int) -> Affine:
        return Affine(np.ones(scaled(channels, width), np.float32), np.zeros(scaled(channels, width), np.float32))

    std_C, mean_C = np.array(config.std, np.float32), np.array(config.mean, np.float32)
    return PlainNet(
        normalize=Affine(np.float32(1.0) / std_C, -mean_C / std_C),
        stem=conv(parts.stem, norm_behind=not pre),
        pool=parts.pool,
        blocks=tuple(
            Block(
                pre=norm(block.conv1.inputs) if pre else None,
                conv1=conv(block.conv1, norm_behind=True),
                conv2=conv(block.conv2, norm_behind=not pre),
                shortcut=None if block.shortcut is None else conv(block.shortcut, norm_behind=not pre),
            )
            for block in parts.blocks
        ),
        final=norm(parts.num_features) if pre else None,
        weight_KC=_random(rng, (config.num_classes, scaled(parts.num_features, width))),
        bias_K=np.zeros(config.num_classes, np.float32),
    )


def untrained_int8_net(config: ModelConfig, width: float) -> PlainNet:
    """Return `static_net` with a range for each activation, for int8: as wide as most have, from 0 behind a ReLU."""
    signed = (".conv2", ".shortcut")
    ranges = {
        site: (0.0 if site.endswith((".pre", ".conv1")) else -8.0, 8.0)
        if layout(config).pre_activation
        else (-8.0 if site.endswith(signed) else 0.0, 8.0)
        for site in activation_sites(config)
    }
    return dataclasses.replace(static_net(config, width), ranges=ranges)


def _random(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Return weights (outputs, inputs, ...) that keep the variance of what passes a ReLU (He et al. 2015)."""
    fan_in = int(np.prod(shape[1:]))
    weights: Floats = (rng.standard_normal(shape) * np.sqrt(2.0 / fan_in)).astype(np.float32)
    return weights
