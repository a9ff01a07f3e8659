"""Write a plain CNN as an ONNX graph, which ONNX Runtime and OpenVINO both read.

torch's own exporter takes seconds a network (it traces through torch.export) and wants onnxscript; a plan is made for
every operating point, and a plain CNN has a dozen kinds of operation, so the graph is written node by node.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, fx, nn

from oat_runtime.errors import BackendError
from oat_runtime.fold import ChannelAffine, affines

INPUT, CONSTANTS, OUTPUT = "x_NCHW", "constants_V", "logits_NK"
_OPSET, _IR_VERSION = 17, 9  # read by ONNX Runtime 1.16 and OpenVINO 2023 on

ConstantsForm = Literal["inside", "vector", "inputs"]
"""Where a network has its λ-dependent constants: inside it, or as one more input, `CONSTANTS`, in the order of
`oat_runtime.fold.constants`; or as inputs of their own, (1, C, 1, 1) each, in that order too."""

_BINARY = {operator.add: "Add", operator.sub: "Sub", operator.mul: "Mul", operator.truediv: "Div", torch.add: "Add"}


class _Tracer(fx.Tracer):
    """Steps into blocks, stops at layers and at affines."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, ChannelAffine) or super().is_leaf_module(m, module_qualified_name)


def to_onnx(net: nn.Module, *, input_hw: tuple[int, int], constants: ConstantsForm = "inside") -> bytes:
    """The network as a serialized ONNX model of any batch size.

    Args:
        net: a plain CNN in evaluation mode: convolution, linear, batch norm, affine, ReLU, arithmetic, pooling.
        input_hw: rows and columns of its images.
        constants: where the λ-dependent affines have theirs.

    Raises:
        BackendError: the network holds an operation that has no translation here.
    """
    graph = _Graph(net)
    inputs = [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["N", 3, *input_hw])]
    if constants == "vector":
        inputs.append(helper.make_tensor_value_info(CONSTANTS, TensorProto.FLOAT, [graph.split_constants()]))
    elif constants == "inputs":
        for name, num_channels in graph.name_constants():
            inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, num_channels, 1, 1]))
    for node in _Tracer().trace(net).nodes:
        graph.translate(node)
    output = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["N", None])
    proto = helper.make_graph(graph.nodes, "plain_cnn", inputs, [output], graph.initializers)
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    serialized: bytes = model.SerializeToString()
    return serialized


class _Graph:
    """Nodes and tensors written so far."""

    def __init__(self, net: nn.Module) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._net, self._names = net, dict[fx.Node, str]()
        self._affines: dict[str, tuple[str, str]] = {}

    def name_constants(self) -> list[tuple[str, int]]:
        """Name the affines' constants, which others provide; returns the names, each with its number of channels."""
        named = []
        for name, module in affines(self._net).items():
            self._affines[name] = (f"{name}.scale", f"{name}.bias")
            named += [(part, module.scale.numel()) for part in self._affines[name]]
        return named

    def split_constants(self) -> int:
        """Cut the constants' vector into scale and bias of each affine; returns its length."""
        named = self.name_constants()
        sizes = self._tensor("constants.sizes", np.array([size for _, size in named], np.int64))
        self._node("Split", [CONSTANTS, sizes], [f"{name}.flat" for name, _ in named], axis=0)
        column = self._tensor("column", np.array([1, -1, 1, 1], np.int64))
        for name, _ in named:
            self._node("Reshape", [f"{name}.flat", column], [name])
        return sum(size for _, size in named)

    def translate(self, node: fx.Node) -> None:
        """Write one node of the traced network."""
        if node.op == "placeholder":
            self._names[node] = INPUT
        elif node.op == "get_attr":
            self._names[node] = self._tensor(str(node.target), operator.attrgetter(str(node.target))(self._net))
        elif node.op == "output":
            self._node("Identity", [self._names[_node(node.args[0])]], [OUTPUT])
        elif node.op == "call_module":
            name, x = str(node.target), self._names[_node(node.args[0])]
            self._names[node] = self._layer(name, self._net.get_submodule(name), x)
        else:
            self._names[node] = self._function(node)

    def _layer(self, name: str, layer: nn.Module, x: str) -> str:
        out = f"{name}.out"
        if isinstance(layer, nn.Conv2d):
            padding = layer.padding
            if isinstance(padding, str) or layer.padding_mode != "zeros":
                raise BackendError(f"no translation for the padding of {name}: {layer}")
            self._node(
                "Conv", [x, *self._weights(name, layer)], [out], kernel_shape=layer.kernel_size, strides=layer.stride,
                pads=[*padding, *padding], dilations=layer.dilation, group=layer.groups,
            )  # fmt: skip
        elif isinstance(layer, nn.Linear):
            self._node("Gemm", [x, *self._weights(name, layer)], [out], transB=1)
        elif isinstance(layer, nn.BatchNorm2d) and not layer.training:
            parts = {
                "weight": torch.ones(layer.num_features) if layer.weight is None else layer.weight,
                "bias": torch.zeros(layer.num_features) if layer.bias is None else layer.bias,
                "running_mean": layer.running_mean,
                "running_var": layer.running_var,
            }
            tensors = [self._tensor(f"{name}.{part}", value) for part, value in parts.items() if value is not None]
            self._node("BatchNormalization", [x, *tensors], [out], epsilon=layer.eps)
        elif isinstance(layer, ChannelAffine) and name in self._affines:
            scale, bias = self._affines[name]
            self._node("Mul", [x, scale], [f"{name}.scaled"])
            self._node("Add", [f"{name}.scaled", bias], [out])
        elif isinstance(layer, ChannelAffine):
            # A batch norm of mean 0 and variance 1, which engines know how to fuse: one pass in place of two.
            zeros, ones = np.zeros(layer.scale.numel(), np.float32), np.ones(layer.scale.numel(), np.float32)
            scale, bias = (
                self._tensor(f"{name}.scale", layer.scale.flatten()),
                self._tensor(f"{name}.bias", layer.bias.flatten()),
            )
            mean, variance = self._tensor(f"{name}.mean", zeros), self._tensor(f"{name}.variance", ones)
            self._node("BatchNormalization", [x, scale, bias, mean, variance], [out], epsilon=0.0)
        elif isinstance(layer, nn.ReLU):
            self._node("Relu", [x], [out])
        else:
            raise BackendError(f"no translation for layer {name}: {type(layer).__name__}")
        return out

    def _function(self, node: fx.Node) -> str:
        names = [self._names[arg] for arg in node.args if isinstance(arg, fx.Node)]
        target: str | Callable[..., Any] = node.target
        if target in (F.relu, torch.relu, "relu"):
            self._node("Relu", names, [node.name])
        elif target in _BINARY and len(names) == 2:
            self._node(_BINARY[target], names, [node.name])
        elif target == "mean" and node.kwargs.get("dim") == (2, 3):
            self._node("GlobalAveragePool", names, [f"{node.name}.pooled"])
            self._node("Flatten", [f"{node.name}.pooled"], [node.name], axis=1)
        elif target == F.max_pool2d:
            # torch's dispatcher makes the kernel size positional.
            size, stride, pad = (
                _pair(value) for value in (node.args[1], node.kwargs["stride"], node.kwargs["padding"])
            )
            self._node("MaxPool", names, [node.name], kernel_shape=size, strides=stride, pads=[*pad, *pad])
        else:
            raise BackendError(f"no translation for {node.format_node()}")
        return node.name

    def _weights(self, name: str, layer: nn.Conv2d | nn.Linear) -> list[str]:
        parts = {"weight": layer.weight, "bias": layer.bias}
        return [self._tensor(f"{name}.{part}", value) for part, value in parts.items() if value is not None]

    def _node(self, op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        self.nodes.append(helper.make_node(op, inputs, outputs, name=outputs[0], **attributes))

    def _tensor(self, name: str, value: Tensor | np.ndarray[Any, Any]) -> str:
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name


def _node(value: object) -> fx.Node:
    assert isinstance(value, fx.Node)
    return value


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)
