"""The interface of an engine: what a plan is, and how one is made."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
from torch import nn

Precision = Literal["float32", "bfloat16"]


class Plan(Protocol):
    """One folded network, compiled and warm. May be called from one thread at a time."""

    def __call__(self, x_NCHW: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits (N, K) float32, a fresh array, of images (N, 3, H, W) float32 in [0, 1]."""
        ...


class CompileFn(Protocol):
    """How an engine makes a plan."""

    def __call__(self, net: nn.Module, *, input_hw: tuple[int, int], precision: Precision, num_threads: int) -> Plan:
        """Compile a plain network for any batch size and run it once."""
        ...
