"""Inference engines with one small interface: a plain network in, a plan out. Each engine is an extra."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from typing import Literal, get_args

from oat_runtime.backends.plan import Compiled, CompileFn, Device, Plan, Settings
from oat_runtime.errors import BackendError, quoted
from oat_runtime.operating_point import Precision

BackendName = Literal["torch", "openvino", "onnxruntime", "tensorrt"]

_NEEDS: dict[BackendName, tuple[str, ...]] = {
    "openvino": ("openvino", "onnx"),
    "onnxruntime": ("onnxruntime", "onnx"),
    "tensorrt": ("onnxruntime", "onnx"),
    "torch": ("torch",),
}
"""Packages that each engine needs. `tensorrt` is ONNX Runtime with that provider."""
_DEVICES: dict[BackendName, tuple[Device, ...]] = {
    "openvino": ("cpu",),
    "onnxruntime": ("cpu", "cuda"),
    "tensorrt": ("cuda",),
    "torch": ("cpu", "cuda"),
}

__all__ = [
    "BackendName",
    "CompileFn",
    "Compiled",
    "Device",
    "Plan",
    "Precision",
    "Settings",
    "available",
    "get_backend",
    "versions",
]


def available(device: Device = "cpu") -> tuple[BackendName, ...]:
    """Return the names of the engines that are installed and run on `device`."""
    names = [name for name, needs in _NEEDS.items() if device in _DEVICES[name] and all(map(_installed, needs))]
    if device == "cuda" and "onnxruntime" in names:
        from oat_runtime.backends.onnxruntime_backend import providers

        names = [name for name in names if name == "torch" or providers(name, device)]
    return tuple(names)


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def get_backend(name: BackendName) -> CompileFn:
    """Return the engine's compile function (see `oat_runtime.backends.plan.CompileFn`).

    Raises:
        BackendError: the engine is unknown or not installed.
    """
    if name not in _NEEDS:
        raise BackendError(f"backend must be one of {list(get_args(BackendName))} or 'auto', got {quoted(name)}")
    if not all(map(_installed, _NEEDS[name])):
        extra = "onnxruntime" if name == "tensorrt" else name
        raise BackendError(f"the {name} engine is not installed: pip install 'oat-robot[{extra}]'")
    home = "onnxruntime" if name == "tensorrt" else name
    module = importlib.import_module(f"oat_runtime.backends.{home}_backend")
    compile_fn: CompileFn = module.compile_tensorrt if name == "tensorrt" else module.compile_network
    return compile_fn


def versions(name: BackendName) -> str:
    """Return the packages of an engine with their versions, as in `openvino 2026.4.1`."""
    packages = [package for package in _NEEDS[name] if package != "onnx"]
    return ", ".join(f"{package} {_version(package)}" for package in packages)


def _version(package: str) -> str:
    """Return the version of the distribution that holds the package; some have another name for GPUs."""
    for distribution in (package, f"{package}-gpu"):
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "of unknown version"
