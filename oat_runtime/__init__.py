"""Run once-for-all adversarially trained networks, and set λ and width while they run.

Imports are lazy: each name is loaded when it is first used. Only the torch engine and the gradient attacks need torch.
"""

from __future__ import annotations

import importlib
from typing import Any, Final

from oat_runtime.bundle.shipped import bundles_folder
from oat_runtime.quiet import refuse_telemetry

refuse_telemetry()

SHIPPED_BUNDLE: Final = bundles_folder() / "cifar10-wrn-16-4"
"""The shipped bundle that demo and benchmarks run by default; they show CIFAR-10's images."""

_HOME = {
    "BackendError": "errors",
    "Bundle": "bundle",
    "BundleError": "errors",
    "CheckpointError": "errors",
    "ConfigError": "errors",
    "DataError": "errors",
    "InputError": "errors",
    "InputSpec": "architecture",
    "ModelConfig": "architecture",
    "OATError": "errors",
    "OATRuntime": "runtime",
    "OperatingPoint": "operating_point",
    "OperatingPointError": "errors",
    "OperatingTable": "operating_point",
    "Prediction": "prediction",
    "Regime": "operating_point",
}

__all__ = sorted({"SHIPPED_BUNDLE", *_HOME})


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'oat_runtime' has no attribute {name!r}")
    return getattr(importlib.import_module(f"oat_runtime.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
