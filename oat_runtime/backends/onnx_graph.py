"""Write a plain network as an ONNX graph, which ONNX Runtime and OpenVINO both read.

The graph is written node by node, because a plain network has only half a dozen kinds of operation.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from oat_runtime.plain_net import Affine, Block, Convolution, PlainNet

INPUT, CONSTANTS, OUTPUT = "x_NCHW", "constants_V", "logits_NK"
_OPSET, _IR_VERSION = 17, 9  # read by ONNX Runtime 1.16 and OpenVINO 2023 on

ConstantsForm = Literal["inside", "vector", "inputs"]
"""Where a network has its λ-dependent constants: inside it, or as one more input, `CONSTANTS`, in the order of
`oat_runtime.plain_net.constants`; or as inputs of their own, (1, C, 1, 1) each, in that order too."""


def to_onnx(net: PlainNet, *, input_hw: tuple[int, int], constants: ConstantsForm = "inside") -> bytes:
    """Return the network as a serialized ONNX model of any batch size.

    Args:
        net: the network.
        input_hw: rows and columns of its images.
        constants: where the λ-dependent affines have theirs.
    """
    return serialized(Graph(net, constants), net, input_hw)


def serialized(graph: Graph, net: PlainNet, input_hw: tuple[int, int]) -> bytes:
    """Write a network into an empty graph, and return the model."""
    inputs = [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["N", 3, *input_hw]), *graph.constant_inputs()]
    graph.network(net)
    output = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["N", len(net.bias_K)])
    proto = helper.make_graph(graph.nodes, "plain_net", inputs, [output], graph.initializers)
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    content: bytes = model.SerializeToString()
    return content


class Graph:
    """Nodes and tensors written so far. Every method that writes a layer returns the name of its output."""

    def __init__(self, net: PlainNet, constants: ConstantsForm) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._form = constants
        self._outside = {} if constants == "inside" else net.affines()

    def constant_inputs(self) -> list[onnx.ValueInfoProto]:
        """Declare the inputs that bring the constants; one vector is cut into the parts of each affine."""
        sizes = {
            f"{name}.affine.{part}": affine.scale_C.size
            for name, affine in self._outside.items()
            for part in ("scale", "bias")
        }
        if self._form != "vector":
            return [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size, 1, 1]) for name, size in sizes.items()
            ]
        lengths = self._tensor("constants.sizes", np.array(list(sizes.values()), np.int64))
        self._node("Split", [CONSTANTS, lengths], [f"{name}.flat" for name in sizes], axis=0)
        column = self._tensor("column", np.array([1, -1, 1, 1], np.int64))
        for name in sizes:
            self._node("Reshape", [f"{name}.flat", column], [name])
        return [helper.make_tensor_value_info(CONSTANTS, TensorProto.FLOAT, [sum(sizes.values())])]

    def network(self, net: PlainNet) -> None:
        """Write everything from the images to the logits."""
        x = self._convolution("stem", net.stem, self._affine("normalize", net.normalize, INPUT))
        if net.final is None:
            x = self._relu("stem", x)
        if net.pool:
            pooling: dict[str, Any] = {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}
            x = self._node("MaxPool", [x], ["pool.out"], **pooling)
        x = self._site("stem", x)
        for index, block in enumerate(net.blocks):
            x = self._block(f"blocks.{index}", block, x)
            if index + 1 < len(net.blocks):
                x = self._site(f"blocks.{index}", x)
        if net.final is not None:
            x = self._relu("final", self._affine("final", net.final, x))
        x = self._node("GlobalAveragePool", [x], ["mean.out"])
        x = self._node("Flatten", [x], ["features.out"], axis=1)
        weight, bias = self._tensor("classifier.weight", net.weight_KC), self._tensor("classifier.bias", net.bias_K)
        self._node("Gemm", [x, weight, bias], [OUTPUT], transB=1)

    def _block(self, name: str, block: Block, x: str) -> str:
        active = x
        if block.pre is not None:
            active = self._site(f"{name}.pre", self._relu(f"{name}.pre", self._affine(f"{name}.pre", block.pre, x)))
        skip = x
        if block.shortcut is not None:
            skip = self._site(f"{name}.shortcut", self._convolution(f"{name}.shortcut", block.shortcut, active))
        hidden = self._relu(f"{name}.conv1", self._convolution(f"{name}.conv1", block.conv1, active))
        out = self._convolution(f"{name}.conv2", block.conv2, self._site(f"{name}.conv1", hidden))
        total = self._node("Add", [self._site(f"{name}.conv2", out), skip], [f"{name}.sum"])
        return total if block.pre is not None else self._relu(name, total)

    def _site(self, name: str, x: str) -> str:
        """Round an activation to 8 bits, in a graph that does; see `oat_runtime.quantization.activation_sites`."""
        return x

    def _convolution(self, name: str, conv: Convolution, x: str) -> str:
        out = self._node(
            "Conv", [x, *self._weights(name, conv, x)], [f"{name}.out"], kernel_shape=conv.weight_OIHW.shape[2:],
            strides=[conv.stride] * 2, pads=[conv.padding] * 4,
        )  # fmt: skip
        return out if conv.affine is None else self._affine(name, conv.affine, out)

    def _weights(self, name: str, conv: Convolution, x: str) -> list[str]:
        tensors = [self._tensor(f"{name}.weight", conv.weight_OIHW)]
        return tensors if conv.bias_O is None else [*tensors, self._tensor(f"{name}.bias", conv.bias_O)]

    def _affine(self, name: str, affine: Affine, x: str) -> str:
        scale, bias = f"{name}.affine.scale", f"{name}.affine.bias"
        if name in self._outside:
            self._node("Mul", [x, scale], [f"{name}.scaled"])
            return self._node("Add", [f"{name}.scaled", bias], [f"{name}.affine"])
        # A batch norm of mean 0 and variance 1, which engines know how to fuse: one pass in place of two.
        parts = {
            scale: affine.scale_C,
            bias: affine.bias_C,
            f"{name}.affine.mean": np.zeros_like(affine.scale_C),
            f"{name}.affine.variance": np.ones_like(affine.scale_C),
        }
        tensors = [self._tensor(part, values) for part, values in parts.items()]
        return self._node("BatchNormalization", [x, *tensors], [f"{name}.affine"], epsilon=0.0)

    def _relu(self, name: str, x: str) -> str:
        return self._node("Relu", [x], [f"{name}.relu"])

    def _node(self, op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, outputs, name=outputs[0], **attributes))
        return outputs[0]

    def _tensor(self, name: str, array: npt.NDArray[Any]) -> str:
        self.initializers.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name
