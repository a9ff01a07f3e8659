"""Once-for-all adversarially trained networks at run time: λ and width set while the network runs.

Import is lazy: each name is loaded when it is first touched. Nothing here needs torch but the torch engine and the
gradient attacks, which are loaded only when asked for.
"""

from __future__ import annotations

import importlib
from typing import Any, Final

from oat_runtime.bundle.shipped import bundles_folder
from oat_runtime.quiet import refuse_telemetry

refuse_telemetry()

SHIPPED_BUNDLE: Final = bundles_folder() / "cifar10-wrn-16-4"
"""The shipped bundle that demo and benchmarks run unless told otherwise; they play CIFAR-10's images."""

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
