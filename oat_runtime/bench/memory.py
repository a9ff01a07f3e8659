"""Compare the memory of a runtime with all points ready with one static network, each in its own process."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

from oat_runtime.architecture import ModelConfig
from oat_runtime.backends import BackendName, Settings, get_backend
from oat_runtime.bundle import Bundle
from oat_runtime.devices import resident_mb
from oat_runtime.errors import BackendError
from oat_runtime.operating_point import OperatingPoint
from oat_runtime.plans import PlanForm, PlanStore
from oat_runtime.report import Row
from oat_runtime.untrained import static_net, untrained_tensors

Way = PlanForm | Literal["static"]
LARGE = ModelConfig(family="resnet", depth=18)
"""An untrained network, large enough for its weights to outweigh the engine's own memory."""


def memory(
    networks: Sequence[Path | None], settings: Settings, backend: BackendName, *, forms: Sequence[PlanForm]
) -> list[Row]:
    """Return the megabytes of each form of plans over those of the static network.

    Args:
        networks: folders of bundles; None is an untrained ResNet-18.
        settings: of the engine.
        backend: the engine.
        forms: the forms of plans.

    Raises:
        BackendError: a process did not end well.
    """
    rows = []
    for bundle in networks:
        static = held_in_a_process("static", bundle, settings, backend)
        for form in forms:
            held = held_in_a_process(form, bundle, settings, backend)
            rows.append(
                {
                    "comparison": f"memory_{form}_over_static",
                    "network": LARGE.name if bundle is None else bundle.name,
                    "num_points": 18,
                    "resident_mb": held,
                    "static_mb": static,
                    "value": None if held is None or not static else held / static,
                }
            )
    return rows


def held_in_a_process(way: Way, bundle: Path | None, settings: Settings, backend: BackendName) -> float | None:
    """Return the megabytes that one way of holding a network takes, in a process of its own; None if unknown.

    Raises:
        BackendError: the process did not end well.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        try:
            return process.submit(_held_mb, way, bundle, settings, backend).result()
        except BrokenProcessPool as error:
            raise BackendError(f"the process that measures the memory of {way} plans died: {error}") from error


def _held_mb(way: Way, path: Path | None, settings: Settings, backend: BackendName) -> float | None:
    """Return how much more memory this process has with the network(s) than with the engine and a small network."""
    compile_network = get_backend(backend)
    small = ModelConfig(depth=10, widen_factor=1)
    in_float = dataclasses.replace(settings, precision="float32") if settings.precision == "int8" else settings
    warm = PlanStore(untrained_tensors(small), small, compile_network, in_float, form="shared", budget_mb=None)
    warm.make(OperatingPoint(1.0, 0.5))
    gc.collect()
    before = resident_mb()
    bundle = None if path is None else Bundle.load(path)
    config = LARGE if bundle is None else bundle.manifest.model
    held: list[object]
    if way == "static":
        network = compile_network(lambda: static_net(config, config.widths[-1]), settings)
        held = [network, network.plan()]
    else:
        tensors = untrained_tensors(LARGE) if bundle is None else bundle.tensors()
        quantization = bundle.quantization() if bundle is not None and settings.precision == "int8" else None
        store = PlanStore(
            tensors, config, compile_network, settings, form=way, budget_mb=1e6, quantization=quantization
        )
        for lam in config.lambdas:
            for factor in config.widths:
                store.make(OperatingPoint(lam, factor))
        held = [store, tensors]
    gc.collect()
    after = resident_mb()
    assert held
    return None if before is None or after is None else after - before
