"""Resident memory of a runtime with every point ready against one static network, each in a process of its own."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from oat_runtime.architecture import ModelConfig
from oat_runtime.backends import Settings, get_backend
from oat_runtime.bundle import Bundle
from oat_runtime.devices import resident_mb
from oat_runtime.operating_point import OperatingPoint
from oat_runtime.plan_store import PlanForm, PlanStore
from oat_runtime.untrained import static_net, untrained_tensors

Row = dict[str, Any]
LARGE = ModelConfig(family="resnet", depth=18)
"""Untrained; large enough for weights to outweigh what an engine holds for itself."""


def memory(bundle: Path | None, settings: Settings, backend: str, *, forms: tuple[PlanForm, ...]) -> list[Row]:
    """Megabytes of each way over those of the static network; `bundle` None takes an untrained ResNet-18."""
    name = LARGE.name if bundle is None else bundle.name
    megabytes = {way: _in_a_process(way, bundle, settings, backend) for way in ("static", *forms)}
    static = megabytes.pop("static")
    return [
        {
            "comparison": f"memory_{form}_over_static",
            "network": name,
            "num_points": 18,
            "resident_mb": held,
            "static_mb": static,
            "value": None if held is None or not static else held / static,
        }
        for form, held in megabytes.items()
    ]


def _in_a_process(way: str, bundle: Path | None, settings: Settings, backend: str) -> float | None:
    request = {
        "way": way,
        "bundle": None if bundle is None else str(bundle),
        "backend": backend,
        "settings": [list(settings.input_hw), settings.precision, settings.num_threads, settings.device],
    }
    done = subprocess.run(
        [sys.executable, "-m", "oat_runtime.bench_memory", json.dumps(request)],
        capture_output=True,
        text=True,
        check=True,
    )
    held: float | None = json.loads(done.stdout.splitlines()[-1])
    return held


def _held_mb(request: dict[str, Any]) -> float | None:
    """What this process holds more with the network(s) than with the engine and a small network."""
    (height, width), precision, num_threads, device = request["settings"]
    settings = Settings((height, width), precision, num_threads, device)
    compile_network = get_backend(request["backend"])
    small = ModelConfig(depth=10, widen_factor=1)
    warm = PlanStore(untrained_tensors(small), small, compile_network, settings, form="shared", budget_mb=None)
    warm.make(OperatingPoint(1.0, 0.5))
    gc.collect()
    before = resident_mb()
    bundle = None if request["bundle"] is None else Bundle.load(request["bundle"])
    config = LARGE if bundle is None else bundle.manifest.model
    kept: list[Any]
    if request["way"] == "static":
        network = compile_network(lambda: static_net(config, config.widths[-1]), settings)
        kept = [network, network.plan()]
    else:
        tensors = untrained_tensors(LARGE) if bundle is None else bundle.tensors()
        store = PlanStore(tensors, config, compile_network, settings, form=request["way"], budget_mb=1e6)
        for lam in config.lambdas:
            for factor in config.widths:
                store.make(OperatingPoint(lam, factor))
        kept = [store, tensors]
    gc.collect()
    after = resident_mb()
    assert kept
    return None if before is None or after is None else after - before


if __name__ == "__main__":
    print(json.dumps(_held_mb(json.loads(sys.argv[1]))))
