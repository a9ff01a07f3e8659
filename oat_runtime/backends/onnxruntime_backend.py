"""Run networks with ONNX Runtime: on CPUs, and with its CUDA and TensorRT providers on NVIDIA machines."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from oat_runtime.backends.int8_graph import refuse_shared, to_int8_onnx
from oat_runtime.backends.onnx_graph import CONSTANTS, INPUT, to_onnx
from oat_runtime.backends.plan import Compiled, Device, Floats, MakeNet, Settings
from oat_runtime.errors import BackendError, one_line
from oat_runtime.plain_net import PlainNet

_LOG = logging.getLogger(__name__)
_OFFSET = 2**20
"""Offset of the marker numbers: float32 holds integers up to 2^24 exactly, and no trained weight is that large."""
_LARGEST_INT8_BATCH = 8
"""More images run in pieces of this size in int8. At batch 32 a WRN-16-4 takes 5 % less so at full width, 21 % less at
half, because features stay in the caches. In float32 it makes no difference."""

Provider = tuple[str, dict[str, Any]]


def providers(engine: str, device: Device, *, precision: str = "float32") -> list[Provider]:
    """Return the execution providers of an engine on a device, if this ONNX Runtime was built with them; else none.

    Operations that a GPU provider does not support run on the CPU.
    """
    wanted: dict[tuple[str, Device], Provider] = {
        ("onnxruntime", "cpu"): ("CPUExecutionProvider", {}),
        ("onnxruntime", "cuda"): ("CUDAExecutionProvider", {"use_tf32": "0"}),
        ("tensorrt", "cuda"): (
            "TensorrtExecutionProvider",
            {"trt_fp16_enable": str(precision == "float16"), "trt_bf16_enable": str(precision == "bfloat16")},
        ),
    }
    provider = wanted.get((engine, device))
    if provider is None or provider[0] not in onnxruntime.get_available_providers():
        return []
    return [provider] if device == "cpu" else [provider, ("CPUExecutionProvider", {})]


def compile_network(make_net: MakeNet, settings: Settings, *, shared: bool = False) -> Compiled:
    """Compile in float32, or on the CPU in int8; see `oat_runtime.backends.plan.CompileFn`.

    Raises:
        BackendError: the provider is missing, or ONNX Runtime refuses network or precision.
    """
    offered = ("float32", "int8") if settings.device == "cpu" else ("float32",)
    if settings.precision not in offered:
        raise BackendError(
            f"the onnxruntime engine runs in {' or '.join(offered)} on {settings.device}, got "
            f"{settings.precision!r}: use another engine for it"
        )
    if settings.precision == "int8":
        refuse_shared(shared)
    return _compile("onnxruntime", make_net, settings, shared)


def compile_tensorrt(make_net: MakeNet, settings: Settings, *, shared: bool = False) -> Compiled:
    """Compile for the TensorRT provider; see `oat_runtime.backends.plan.CompileFn`.

    Raises:
        BackendError: the provider is missing, or ONNX Runtime refuses the network.
    """
    return _compile("tensorrt", make_net, settings, shared)


def compile_graph(graph: bytes, settings: Settings) -> Compiled:
    """Compile a graph that says where it rounds to 8 bits; see `oat_runtime.backends.compile_graph`.

    Raises:
        BackendError: ONNX Runtime refuses it.
    """
    session = _session(graph, settings, providers("onnxruntime", "cpu"))
    return _Network(session, largest_batch=_LARGEST_INT8_BATCH)


def _compile(engine: str, make_net: MakeNet, settings: Settings, shared: bool) -> Compiled:
    chosen = providers(engine, settings.device, precision=settings.precision)
    if not chosen:
        raise BackendError(
            f"this ONNX Runtime has no provider for {engine} on {settings.device}, only "
            f"{onnxruntime.get_available_providers()}: install onnxruntime-gpu, or {settings.remedy}"
        )
    net = make_net()
    if settings.precision == "int8":
        return compile_graph(to_int8_onnx(net, input_hw=settings.input_hw), settings)
    if shared and settings.device == "cpu" and (network := _optimized(net, settings, chosen)) is not None:
        return network
    graph = to_onnx(net, input_hw=settings.input_hw, constants="vector" if shared else "inside")
    session = _session(graph, settings, chosen)
    if session.get_providers()[0] != chosen[0][0]:
        raise BackendError(f"{chosen[0][0]} did not start, only {session.get_providers()}: check its libraries")
    return _Network(session)


def _options(settings: Settings) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = settings.num_threads, 1
    options.log_severity_level = 3
    # By default a session's threads spin for good: at 30 images a second 37 ms of CPU an image in place of 3, and those
    # of another plan's session wait for a core (p99 17 ms in place of 2). 20 µs last from one layer to the next.
    options.add_session_config_entry("session.intra_op.spin_duration_us", "20")
    return options


def _session(
    graph: bytes,
    settings: Settings,
    chosen: list[Provider],
    options: onnxruntime.SessionOptions | None = None,
    without: Sequence[str] = (),
) -> onnxruntime.InferenceSession:
    options = options or _options(settings)
    try:
        return onnxruntime.InferenceSession(graph, options, providers=chosen, disabled_optimizers=list(without))
    except Exception as error:  # its exceptions share no base but this
        raise BackendError(f"ONNX Runtime refused the network ({error}): {settings.remedy}") from error


def _optimized(net: PlainNet, settings: Settings, chosen: list[Provider]) -> _SlottedNetwork | None:
    """Return a shared network that is nearly as fast as a folded one, because its constants can be rewritten in place.

    ONNX Runtime stores features in blocks of channels, and turns a batch norm with fixed constants into a convolution
    in that layout. If the constants come at run time, it leaves the layout before each norm and returns to it
    afterwards, which takes 1.2 to 1.6 times the static network's time. So we let it optimize the network with marker
    numbers 1, 2, … (plus an offset that no weight has) in place of the constants. Then we find where it put those
    numbers, and write the constants of one λ at a time there. Separate inputs, two for each norm, would take 8 % of a
    small network's time.

    Returns:
        The network; None if a marker is missing because ONNX Runtime computed with it, or if the optimized network
        could not be written and read again. Then use the plain graph.
    """
    num = net.constants().size
    numbered = net.with_constants(np.arange(_OFFSET + 1, _OFFSET + num + 1, dtype=np.float32))
    graph = to_onnx(numbered, input_hw=settings.input_hw)
    try:
        with open(os.memfd_create("optimized.onnx"), "rb") as file:  # a file in memory wants no folder and no disk
            options = _options(settings)
            options.optimized_model_filepath = f"/proc/self/fd/{file.fileno()}"
            _session(graph, settings, chosen, options, without=("ConvBNFusion", "ConvMulFusion", "ConvAddFusion"))
            model = onnx.load_model_from_string(file.read())
    except (OSError, BackendError, DecodeError) as error:
        _LOG.info("plans of one network are slower, because it could not be optimized: %s", one_line(error))
        return None
    options = _options(settings)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # it is optimized already
    numbers = (0.0, *range(_OFFSET + 1, _OFFSET + num + 1))
    slots = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.any() and np.isin(values, numbers).all():
            place = np.maximum(values.astype(np.int64) - _OFFSET, 0)  # blocks are filled up with zeros
            slots.append(_Slot(np.zeros(values.shape, np.float32), place))
            options.add_initializer(tensor.name, slots[-1].value)
    found = np.concatenate([slot.place_V[slot.place_V > 0] for slot in slots]) if slots else np.zeros(0)
    if not np.array_equal(np.sort(found), np.arange(1, num + 1)):
        _LOG.info("ONNX Runtime's optimizer used %d of %d constants up", num - len(found), num)
        return None
    return _SlottedNetwork(_session(model.SerializeToString(), settings, chosen, options), slots)


class _Network:
    """A session. Several threads could call it at once, but they would share its threads."""

    def __init__(self, session: onnxruntime.InferenceSession, *, largest_batch: int | None = None) -> None:
        self._session, self._largest_batch = session, largest_batch

    def plan(self, constants_V: Floats | None = None) -> ONNXRuntimePlan:
        return ONNXRuntimePlan(self._session, constants_V, self._largest_batch)


class ONNXRuntimePlan:
    """A session, with the constants of one λ if its network is shared."""

    def __init__(
        self, session: onnxruntime.InferenceSession, constants_V: Floats | None, largest_batch: int | None
    ) -> None:
        self._session, self._largest_batch = session, largest_batch
        self._constants = {} if constants_V is None else {CONSTANTS: np.ascontiguousarray(constants_V)}

    def __call__(self, x_NCHW: Floats) -> Floats:
        """Logits of a batch, which runs in pieces if it is larger than the largest one."""
        logits: list[Floats] = [self._session.run(None, feeds)[0] for feeds in self._feeds(x_NCHW)]
        return logits[0] if len(logits) == 1 else np.concatenate(logits)

    def warm(self, max_batch: int) -> None:
        """Do nothing: a session takes any number of images."""

    def bare(self, x_NCHW: Floats) -> Callable[[], object]:
        """`InferenceSession.run` for each piece."""
        feeds_of_all = self._feeds(x_NCHW)
        return lambda: [self._session.run(None, feeds) for feeds in feeds_of_all]

    def _feeds(self, x_NCHW: Floats) -> list[dict[str, Floats]]:
        size = self._largest_batch or len(x_NCHW)
        return [{INPUT: x_NCHW[at : at + size], **self._constants} for at in range(0, len(x_NCHW), size)]


class _Slot:
    """The memory of one initializer, and which constant goes to each place: counted from 1, with 0 for none."""

    def __init__(self, memory: Floats, place_V: npt.NDArray[np.int64]) -> None:
        self.memory, self.place_V = memory, place_V
        self.value = onnxruntime.OrtValue.ortvalue_from_numpy(memory)  # shares the memory


class _SlottedNetwork:
    """An optimized session whose constants lie in memory that we write."""

    def __init__(self, session: onnxruntime.InferenceSession, slots: list[_Slot]) -> None:
        self.session, self._slots = session, slots
        # Of a plan only this is held: a plan holds its network, and a circle of the two would stay in memory.
        self._held_V: Floats | None = None

    def hold(self, constants_V: Floats) -> None:
        """Write a plan's constants into their places, which takes some microseconds."""
        if self._held_V is not constants_V:
            for slot in self._slots:
                np.take(constants_V, slot.place_V, out=slot.memory, mode="clip")
            self._held_V = constants_V

    def plan(self, constants_V: Floats | None = None) -> SlottedPlan:
        assert constants_V is not None
        return SlottedPlan(self, np.concatenate([np.zeros(1, np.float32), constants_V]))


@dataclass(frozen=True, slots=True, eq=False)
class SlottedPlan:
    """The constants of one λ, for a session that it shares with others.

    Attributes:
        network: the session.
        constants_V: a zero, and the constants.
    """

    network: _SlottedNetwork
    constants_V: Floats

    def __call__(self, x_NCHW: Floats) -> Floats:
        """Logits of a batch."""
        self.network.hold(self.constants_V)
        logits_NK: Floats = self.network.session.run(None, {INPUT: x_NCHW})[0]
        return logits_NK

    def warm(self, max_batch: int) -> None:
        """Do nothing: a session takes any number of images."""

    def bare(self, x_NCHW: Floats) -> Callable[[], object]:
        """One `InferenceSession.run`, as long as no other plan of the network runs."""
        self.network.hold(self.constants_V)
        feeds = {INPUT: x_NCHW}
        return lambda: self.network.session.run(None, feeds)
