"""ONNX Runtime: on the CPU without OpenVINO, and with its CUDA and TensorRT providers on NVIDIA machines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime

from oat_runtime.backends.onnx_graph import CONSTANTS, INPUT, to_onnx
from oat_runtime.backends.plan import Compiled, Device, Floats, MakeNet, Settings
from oat_runtime.errors import BackendError

Provider = tuple[str, dict[str, Any]]


def providers(engine: str, device: Device, *, precision: str = "float32") -> list[Provider]:
    """The execution providers of an engine on a device that this ONNX Runtime was built with; empty where it has none.

    What a GPU provider leaves over runs on the CPU's.
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
    """Compile for the CPU or CUDA provider, in float32; see `oat_runtime.backends.plan.CompileFn`.

    Raises:
        BackendError: the provider is missing, or ONNX Runtime refuses network or precision.
    """
    if settings.precision != "float32":
        raise BackendError(
            f"the onnxruntime back end runs in float32, got {settings.precision!r}: use another back end for it"
        )
    return _compile("onnxruntime", make_net, settings, shared)


def compile_tensorrt(make_net: MakeNet, settings: Settings, *, shared: bool = False) -> Compiled:
    """Compile for the TensorRT provider; see `oat_runtime.backends.plan.CompileFn`.

    Raises:
        BackendError: the provider is missing, or ONNX Runtime refuses the network.
    """
    return _compile("tensorrt", make_net, settings, shared)


def _compile(engine: str, make_net: MakeNet, settings: Settings, shared: bool) -> Compiled:
    chosen = providers(engine, settings.device, precision=settings.precision)
    if not chosen:
        raise BackendError(
            f"this ONNX Runtime has no provider for {engine} on {settings.device}, only "
            f"{onnxruntime.get_available_providers()}: install onnxruntime-gpu, or use backend='torch'"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = settings.num_threads, 1
    options.log_severity_level = 3
    graph = to_onnx(make_net(), input_hw=settings.input_hw, shared=shared)
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=chosen)
    except Exception as error:  # its exceptions share no base but this
        raise BackendError(f"ONNX Runtime refused the network ({error}): use backend='torch'") from error
    if session.get_providers()[0] != chosen[0][0]:
        raise BackendError(f"{chosen[0][0]} did not start, only {session.get_providers()}: check its libraries")
    return _Network(session)


class _Network:
    """A session. It would take calls from several threads at once, but they would share its threads."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session

    def plan(self, constants_V: Floats | None = None) -> ONNXRuntimePlan:
        return ONNXRuntimePlan(self._session, constants_V)


class ONNXRuntimePlan:
    """A session, with the constants of one λ where it is a shared one."""

    def __init__(self, session: onnxruntime.InferenceSession, constants_V: Floats | None) -> None:
        """Keep both."""
        self._session = session
        self._constants = {} if constants_V is None else {CONSTANTS: np.ascontiguousarray(constants_V)}

    def __call__(self, x_NCHW: Floats) -> Floats:
        """Logits of a batch."""
        logits_NK: Floats = self._session.run(None, {INPUT: x_NCHW, **self._constants})[0]
        return logits_NK

    def bare(self, x_NCHW: Floats) -> Callable[[], object]:
        """One `InferenceSession.run`."""
        feeds = {INPUT: x_NCHW, **self._constants}
        return lambda: self._session.run(None, feeds)
