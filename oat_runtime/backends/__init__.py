"""Inference engines with one small interface: a plain network in, a plan out. Each engine is an extra."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from types import ModuleType
from typing import Literal, get_args

from oat_runtime.backends.plan import Compiled, CompileFn, Device, Plan, Settings
from oat_runtime.backends.trials import int8_works
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
INT8_ENGINES: tuple[BackendName, ...] = ("openvino", "onnxruntime")
"""Those that run in int8, on the CPU alone; the faster one first."""

__all__ = [
    "INT8_ENGINES",
    "BackendName",
    "CompileFn",
    "Compiled",
    "Device",
    "Plan",
    "Precision",
    "Settings",
    "available",
    "compile_graph",
    "get_backend",
    "int8_engines",
    "versions",
]


def available(device: Device = "cpu") -> tuple[BackendName, ...]:
    """Return the names of the engines that are installed and run on `device`."""
    names = [name for name, needs in _NEEDS.items() if device in _DEVICES[name] and all(map(_installed, needs))]
    if device == "cuda" and "onnxruntime" in names:
        from oat_runtime.backends.onnxruntime_backend import providers

        names = [name for name in names if name == "torch" or providers(name, device)]
    return tuple(names)


def int8_engines() -> tuple[BackendName, ...]:
    """Return those of `INT8_ENGINES` that are installed and run in int8 on this CPU, the faster one first.

    Raises:
        BackendError: there is none.
    """
    found = tuple(name for name in INT8_ENGINES if name in available() and (name != "openvino" or int8_works()))
    if not found:
        raise BackendError(
            "int8 needs an engine that works here: pip install 'oat-robot[openvino]' or 'oat-robot[onnxruntime]'"
        )
    return found


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def get_backend(name: BackendName) -> CompileFn:
    """Return the engine's compile function (see `oat_runtime.backends.plan.CompileFn`).

    Raises:
        BackendError: the engine is unknown or not installed.
    """
    module = _module(name)
    compile_fn: CompileFn = module.compile_tensorrt if name == "tensorrt" else module.compile_network
    return compile_fn


def compile_graph(name: BackendName, graph: bytes, settings: Settings) -> Compiled:
    """Compile a graph that says itself where it rounds to 8 bits, as `get_backend(name)` compiles ours.

    Args:
        name: one of `INT8_ENGINES`.
        graph: a serialized ONNX model, with the input of `oat_runtime.backends.onnx_graph`.
        settings: of the engine, in int8.

    Raises:
        BackendError: the engine is not installed, or refuses the graph.
    """
    compiled: Compiled = _module(name).compile_graph(graph, settings)
    return compiled


def _module(name: BackendName) -> ModuleType:
    if name not in _NEEDS:
        raise BackendError(f"backend must be one of {list(get_args(BackendName))} or 'auto', got {quoted(name)}")
    home = "onnxruntime" if name == "tensorrt" else name
    if not all(map(_installed, _NEEDS[name])):
        raise BackendError(f"the {name} engine is not installed: pip install 'oat-robot[{home}]'")
    return importlib.import_module(f"oat_runtime.backends.{home}_backend")


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
