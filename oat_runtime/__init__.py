"""Run once-for-all adversarially trained networks, and set λ and width while they run.

Imports are lazy: each name is loaded when it is first used. Only the torch engine and the gradient attacks need torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

from oat_runtime.bundle.shipped import bundles_folder
from oat_runtime.quiet import refuse_telemetry

refuse_telemetry()

if TYPE_CHECKING:  # `as` exports a name to type checkers
    from oat_runtime.architecture import InputSpec as InputSpec
    from oat_runtime.architecture import ModelConfig as ModelConfig
    from oat_runtime.bundle import Bundle as Bundle
    from oat_runtime.errors import BackendError as BackendError
    from oat_runtime.errors import BundleError as BundleError
    from oat_runtime.errors import CheckpointError as CheckpointError
    from oat_runtime.errors import ConfigError as ConfigError
    from oat_runtime.errors import DataError as DataError
    from oat_runtime.errors import FileReadError as FileReadError
    from oat_runtime.errors import InputError as InputError
    from oat_runtime.errors import OATError as OATError
    from oat_runtime.errors import OperatingPointError as OperatingPointError
    from oat_runtime.operating_point import OperatingPoint as OperatingPoint
    from oat_runtime.operating_point import OperatingTable as OperatingTable
    from oat_runtime.operating_point import Regime as Regime
    from oat_runtime.prediction import Prediction as Prediction
    from oat_runtime.runtime import OATRuntime as OATRuntime

__version__ = "0.2.0"
"""The project's version. The distribution and the ROS packages have the same one."""

SHIPPED_BUNDLE: Final = bundles_folder() / "cifar10-wrn-16-4"
"""The shipped bundle that demo and benchmarks run by default; they show CIFAR-10's images."""

_NAMES = {
    "architecture": "InputSpec ModelConfig",
    "bundle": "Bundle",
    "errors": "BackendError BundleError CheckpointError ConfigError DataError FileReadError InputError OATError "
    "OperatingPointError",
    "operating_point": "OperatingPoint OperatingTable Regime",
    "prediction": "Prediction",
    "runtime": "OATRuntime",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = sorted({"SHIPPED_BUNDLE", *_HOME})


if not TYPE_CHECKING:  # type checkers know each name from above, and report any other

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module 'oat_runtime' has no attribute {name!r}")
        return getattr(importlib.import_module(f"oat_runtime.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
