"""Run networks with OpenVINO on the CPU, the fastest engine on x86 so far."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino

from oat_runtime.backends.int8_graph import refuse_shared, to_int8_onnx
from oat_runtime.backends.onnx_graph import INPUT, ConstantsForm, to_onnx
from oat_runtime.backends.plan import Compiled, Floats, MakeNet, Settings, full_and_rest, powers_of_two
from oat_runtime.backends.trials import bfloat16_works, int8_works
from oat_runtime.errors import BackendError

_CORE = openvino.Core()
_TYPES = {"float32": openvino.Type.f32, "bfloat16": openvino.Type.bf16, "int8": openvino.Type.f32}
"""What is computed in where nothing else is said; an int8 graph says where it rounds."""
_LARGEST_BATCH = 8
"""More images run in pieces of this size. A WRN-16-2 took 1.38 ms an image in pieces of 8 and 1.44 in one of 32, whose
features leave the caches; a shared plan passes over them more often and lost up to 1.2 times at 32."""
_users = set[int]()
"""Processes that compiled with this `_CORE`: this one, and those that it is a fork of."""
MakeGraph = Callable[[ConstantsForm], bytes]
_OPEN = -1
"""Batch size of a network that takes any."""


def compile_network(make_net: MakeNet, settings: Settings, *, shared: bool = False) -> Compiled:
    """Compile for OpenVINO; see `oat_runtime.backends.plan.CompileFn`.

    Raises:
        BackendError: OpenVINO refuses the network, the device or the precision, a precision crashes on this CPU, or
            this process is a fork of one that used OpenVINO.
    """
    if settings.device != "cpu":
        raise BackendError(f"the openvino engine runs on the cpu, got device {settings.device!r}")
    if settings.precision not in _TYPES:
        raise BackendError(f"the openvino engine runs in {sorted(_TYPES)}, got {settings.precision!r}")
    if settings.precision == "bfloat16":
        if not has_bfloat16():
            raise BackendError(
                "OpenVINO has no bfloat16 on this CPU and would compute in float32: use precision='auto' or 'float32'"
            )
        if not bfloat16_works("openvino"):
            raise BackendError("bfloat16 crashes OpenVINO on this CPU: use precision='float32'")
    if settings.precision == "int8":
        refuse_shared(shared)
        if not int8_works():
            raise BackendError("int8 crashes OpenVINO on this CPU: use backend='onnxruntime', or precision='float32'")
    return compile_unchecked(make_net, settings, shared=shared)


def has_bfloat16() -> bool:
    """Return whether OpenVINO computes in bfloat16 on this CPU; otherwise it takes float32 without a word."""
    return "BF16" in _CORE.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def compile_unchecked(make_net: MakeNet, settings: Settings, *, shared: bool = False) -> Compiled:
    """Compile without checking that the precision works here."""
    input_hw, sizes = settings.input_hw, list[int]()
    if shared:
        sizes = [vector.size for site in make_net().affines().values() for vector in (site.scale_C, site.bias_C)]

    def make_graph(form: ConstantsForm) -> bytes:
        if settings.precision == "int8":
            return to_int8_onnx(make_net(), input_hw=input_hw)
        return to_onnx(make_net(), input_hw=input_hw, constants=form)

    network = _Network(make_graph, settings, sizes)
    network.request(1)
    return network


def compile_graph(graph: bytes, settings: Settings) -> Compiled:
    """Compile a graph that says where it rounds to 8 bits; see `oat_runtime.backends.compile_graph`.

    Raises:
        BackendError: OpenVINO refuses it.
    """
    network = _Network(lambda _: graph, settings)
    network.request(1)
    return network


class _Network:
    """One network, compiled for the batch sizes that come, when they first come or before, by `warm`.

    In floating point these are the powers of two. Shapes are fixed, because with an open batch size a shared WRN-16-2
    took 1.9 times as long at batch 32, and a folded one 1.1 times.

    In int8 these are 1, 8, and one open size for what is left. Every point is compiled by itself, so that each further
    size costs 0.2 s a point in the middle of the frames. The open one takes as long as powers of two with 2 to 7
    images, or less, and 1.1 times as long with 8.

    A shared network reads its constants from memory that holds one λ at a time. In float32 this is one vector. In
    bfloat16 OpenVINO would round what is cut out of a vector, so each scale and bias is a separate input. This raises
    top-1 agreement from 99.6 to 99.9 %, and costs 2 to 5 % of the time.
    """

    def __init__(self, make_graph: MakeGraph, settings: Settings, sizes: Sequence[int] = ()) -> None:
        """Compile nothing yet.

        Args:
            make_graph: makes the graph for each batch size.
            settings: of the engine.
            sizes: numbers in each scale and bias of a shared network; empty for any other.
        """
        self._make_graph, self._settings = make_graph, settings
        self._requests: dict[int, openvino.InferRequest] = {}
        # Of a plan only this is held: a plan holds its network, and a circle of the two would stay in memory.
        self._held_V: Floats | None = None
        self._form: ConstantsForm = "inside"
        self._constants_V, self._inputs = np.zeros(0, np.float32), list[openvino.Tensor]()
        if sizes:
            self._form = "vector" if settings.precision == "float32" else "inputs"
            self._constants_V = np.zeros(sum(sizes), np.float32)
            columns = [part.reshape(1, -1, 1, 1) for part in np.split(self._constants_V, np.cumsum(sizes)[:-1])]
            inputs = [self._constants_V] if self._form == "vector" else columns
            self._inputs = [openvino.Tensor(array, shared_memory=True) for array in inputs]

    def request(self, batch: int) -> openvino.InferRequest:
        """Return the inference request for `batch` images; the first call for a size compiles it."""
        shape = _OPEN if self._settings.precision == "int8" and batch not in (1, _LARGEST_BATCH) else batch
        if shape not in self._requests:
            request = self._compile(shape).create_infer_request()
            for index, tensor in enumerate(self._inputs, start=1):
                request.set_input_tensor(index, tensor)
            self._requests[shape] = request
        return self._requests[shape]

    def pieces(self, num: int) -> list[int]:
        """Return the batch sizes in which `num` images run, one after another."""
        if self._settings.precision == "int8":
            return full_and_rest(num, largest=_LARGEST_BATCH)
        return powers_of_two(num, largest=_LARGEST_BATCH)

    def warm(self, max_batch: int) -> None:
        """Compile each size that up to `max_batch` images need."""
        nums = range(1, min(max_batch, _LARGEST_BATCH) + 1)
        for size in sorted({size for num in nums for size in self.pieces(num)}):
            self.request(size)

    def hold(self, constants_V: Floats | None) -> None:
        """Write a plan's constants where the requests read them, which takes some microseconds."""
        if constants_V is not None and self._held_V is not constants_V:
            self._constants_V[:] = constants_V
            self._held_V = constants_V

    def _compile(self, batch: int) -> openvino.CompiledModel:
        settings = self._settings
        if _users - {os.getpid()}:
            raise BackendError(
                "OpenVINO's threads are not there in a fork of the process that used it, and a call would wait for "
                "them: use backend='onnxruntime' there, or start processes with the method 'spawn' or 'forkserver'"
            )
        _users.add(os.getpid())
        # The precision is always set: left to itself, OpenVINO takes bf16 on a CPU with AMX.
        config: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": _TYPES[settings.precision],
            "INFERENCE_NUM_THREADS": settings.num_threads,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }
        try:
            model = _CORE.read_model(self._make_graph(self._form), b"")
            model.reshape({INPUT: [batch, 3, *settings.input_hw]})
            return _CORE.compile_model(model, "CPU", config)
        except RuntimeError as error:
            raise BackendError(f"OpenVINO refused the network ({error}): {settings.remedy}") from error

    def plan(self, constants_V: Floats | None = None) -> OpenVINOPlan:
        return OpenVINOPlan(self, constants_V)


@dataclass(frozen=True, slots=True, eq=False)
class OpenVINOPlan:
    """A compiled network, with the constants of one λ if it is shared."""

    network: _Network
    constants_V: Floats | None

    def __call__(self, x_NCHW: Floats) -> Floats:
        """Return the logits of a batch, as a copy because the request owns its buffers."""
        self.network.hold(self.constants_V)
        num, start, logits = len(x_NCHW), 0, []
        for size in (num,) if num == 1 else self.network.pieces(num):
            request = self.network.request(size)
            request.infer({0: x_NCHW[start : start + size]}, share_inputs=True)
            logits.append(request.get_output_tensor(0).data.copy())
            start += size
        result: Floats = logits[0] if len(logits) == 1 else np.concatenate(logits)
        return result

    def warm(self, max_batch: int) -> None:
        """Compile each batch size; one takes about 0.3 s."""
        self.network.warm(max_batch)

    def bare(self, x_NCHW: Floats) -> Callable[[], object]:
        """Call `InferRequest.infer` for each piece. Use this only while no other plan of the network runs."""
        self.network.hold(self.constants_V)
        calls, start = [], 0
        for size in self.network.pieces(len(x_NCHW)):
            calls.append((self.network.request(size).infer, {0: x_NCHW[start : start + size]}))
            start += size

        def call() -> None:
            for infer, inputs in calls:
                infer(inputs, share_inputs=True)

        return call
