"""Plain torch on the CPU: the reference engine."""

from __future__ import annotations

import copy

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from oat_runtime.backends.plan import Plan, Precision
from oat_runtime.errors import BackendError


class TorchPlan:
    """A folded network in inference mode, channels last."""

    def __init__(self, net: nn.Module, num_threads: int) -> None:
        """Take the network as it is to run."""
        self._net = net
        self._num_threads = num_threads

    @torch.inference_mode()
    def __call__(self, x_NCHW: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits of a batch; sets torch's thread count, which belongs to the whole process."""
        if torch.get_num_threads() != self._num_threads:
            torch.set_num_threads(self._num_threads)
        logits = self._net(torch.from_numpy(x_NCHW).to(memory_format=torch.channels_last))
        array: npt.NDArray[np.float32] = logits.float().numpy()
        return array


def compile_plan(net: nn.Module, *, input_hw: tuple[int, int], precision: Precision, num_threads: int) -> Plan:
    """Prepare `net` for torch; see `oat_runtime.backends.plan.CompileFn`.

    Raises:
        BackendError: torch offers float32 only here.
    """
    if precision != "float32":
        raise BackendError(f"the torch back end runs in float32, got {precision!r}: use openvino for bfloat16")
    plan = TorchPlan(copy.deepcopy(net).eval(), num_threads)
    plan(np.zeros((1, 3, *input_hw), np.float32))
    return plan
