"""Write a plain network as an ONNX graph in 8 bits: numbers, and where they are rounded. Both engines fuse it to int8.

Convolutions within the blocks, their ReLUs and the additions run in int8. Pixel normalization, the first convolution,
the affine in front of a pre-activation block, the mean and the classifier stay in float32. Weights are symmetric with
one scale a channel. Activations are unsigned with one scale and zero point a tensor; behind a ReLU the zero point is 0.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from oat_runtime.backends.onnx_graph import Graph, serialized
from oat_runtime.errors import BackendError
from oat_runtime.plain_net import Convolution, Floats, PlainNet
from oat_runtime.quantization import Range, Ranges

_LARGEST_BIAS = 2.0**30


def to_int8_onnx(net: PlainNet, *, input_hw: tuple[int, int]) -> bytes:
    """Return a folded network as a serialized ONNX model of any batch size, in 8 bits.

    Args:
        net: the network, with the ranges of its activations.
        input_hw: rows and columns of its images.

    Raises:
        BackendError: the network has no ranges.
    """
    if net.ranges is None:
        raise BackendError("int8 needs activation ranges, and this network has none: use precision='float32'")
    return serialized(_Int8Graph(net, net.ranges), net, input_hw)


def refuse_shared(shared: bool) -> None:
    """Refuse a network that gets its constants at run time.

    Raises:
        BackendError: it is one.
    """
    if shared:
        raise BackendError("int8 has one network for each point, because its weights hold the norms: compile it folded")


def scale_and_zero(of: Range) -> tuple[np.float32, np.uint8]:
    """Return the step between two of the 256 values of an activation, and which of them stands for zero."""
    low, high = of
    scale = np.float32((high - low) / 255.0)
    return scale, np.uint8(np.clip(np.rint(-low / scale), 0, 255))


def quantized_weights(
    conv: Convolution, input_scale: np.float32
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int32] | None, Floats]:
    """Return weights (O, I, kH, kW), biases (O,) and the scale of each output channel (O,), rounded to the nearest.

    A bias counts steps of input scale times weight scale. Of a channel whose weights are next to nothing the scale is
    made larger, so that the bias fits in 32 bits.
    """
    weight_OIHW = conv.weight_OIHW.astype(np.float64)
    scale_O = np.maximum(np.abs(weight_OIHW).max(axis=(1, 2, 3)) / 127.0, 1e-20)
    if conv.bias_O is not None:
        scale_O = np.maximum(scale_O, np.abs(conv.bias_O.astype(np.float64)) / (float(input_scale) * _LARGEST_BIAS))
    scale_O = scale_O.astype(np.float32)
    rounded = np.clip(np.rint(weight_OIHW / scale_O[:, None, None, None]), -127, 127).astype(np.int8)
    if conv.bias_O is None:
        return rounded, None, scale_O
    bias_O = np.rint(conv.bias_O / (scale_O.astype(np.float64) * float(input_scale))).astype(np.int32)
    return rounded, bias_O, scale_O


class _Int8Graph(Graph):
    """A graph in which every site rounds, and every convolution whose input was rounded has rounded weights."""

    def __init__(self, net: PlainNet, ranges: Ranges) -> None:
        super().__init__(net, "inside")
        self._ranges = ranges
        self._scales = dict[str, np.float32]()

    def _site(self, name: str, x: str) -> str:
        scale, zero = scale_and_zero(self._ranges[name])
        parts = [self._tensor(f"{name}.scale", np.array(scale)), self._tensor(f"{name}.zero", np.array(zero))]
        rounded = self._node("QuantizeLinear", [x, *parts], [f"{name}.int8"])
        out = self._node("DequantizeLinear", [rounded, *parts], [f"{name}.rounded"])
        self._scales[out] = scale
        return out

    def _weights(self, name: str, conv: Convolution, x: str) -> list[str]:
        if x not in self._scales:
            return super()._weights(name, conv, x)
        weight_OIHW, bias_O, scale_O = quantized_weights(conv, self._scales[x])
        tensors = [self._dequantized(f"{name}.weight", weight_OIHW, scale_O)]
        if bias_O is not None:
            tensors.append(self._dequantized(f"{name}.bias", bias_O, scale_O * self._scales[x]))
        return tensors

    def _dequantized(self, name: str, rounded: npt.NDArray[np.int8] | npt.NDArray[np.int32], scale_O: Floats) -> str:
        tensors = {"int": rounded, "scale": scale_O, "zero": np.zeros(len(scale_O), rounded.dtype)}
        inputs = [self._tensor(f"{name}.{part}", array) for part, array in tensors.items()]
        return self._node("DequantizeLinear", inputs, [name], axis=0)
