"""OpenVINO on the CPU: the fastest engine measured on x86 so far."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from oat_runtime.backends.bfloat16 import bfloat16_works
from oat_runtime.backends.plan import Plan, Precision
from oat_runtime.errors import BackendError

# openvino reports its use over the network where nobody has objected; with this it takes its own empty stand-in.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino  # noqa: E402

_CORE = openvino.Core()
_TYPES = {"float32": openvino.Type.f32, "bfloat16": openvino.Type.bf16}


class OpenVINOPlan:
    """A compiled network with one inference request of its own."""

    def __init__(self, compiled: openvino.CompiledModel) -> None:
        """Make the request."""
        self._request = compiled.create_infer_request()

    def __call__(self, x_NCHW: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits of a batch; the result is copied because the request owns its buffers."""
        self._request.infer([x_NCHW], share_inputs=True)
        return np.array(self._request.get_output_tensor(0).data, dtype=np.float32)


def compile_plan(net: nn.Module, *, input_hw: tuple[int, int], precision: Precision, num_threads: int) -> Plan:
    """Convert and compile `net`; see `oat_runtime.backends.plan.CompileFn`.

    Raises:
        BackendError: OpenVINO refuses the network, or bfloat16 does not work on this CPU.
    """
    if precision == "bfloat16" and not bfloat16_works("openvino"):
        raise BackendError("bfloat16 crashes OpenVINO on this CPU: use precision='float32'")
    return compile_unchecked(net, input_hw=input_hw, precision=precision, num_threads=num_threads)


def compile_unchecked(net: nn.Module, *, input_hw: tuple[int, int], precision: Precision, num_threads: int) -> Plan:
    """Compile without asking whether the precision works here.

    The precision is always set: left to itself, OpenVINO takes bf16 on a CPU with AMX.
    """
    config: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": _TYPES[precision],
        "INFERENCE_NUM_THREADS": num_threads,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }
    try:
        with torch.no_grad():
            model = openvino.convert_model(net, example_input=torch.zeros(2, 3, *input_hw))
        model.reshape([-1, 3, *input_hw])
        plan = OpenVINOPlan(_CORE.compile_model(model, "CPU", config))
    except RuntimeError as error:
        raise BackendError(f"OpenVINO refused the network ({error}): use backend='torch'") from error
    plan(np.zeros((1, 3, *input_hw), np.float32))
    return plan
