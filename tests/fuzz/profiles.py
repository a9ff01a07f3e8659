"""Damaged JSON files: device profiles, policy configurations, estimators, and records of an evaluation."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from damage import damaged_bytes, damaged_tree

from oat_runtime import SHIPPED_BUNDLE
from oat_runtime.device_profile import DeviceProfile, ProfileRow
from oat_runtime.files import read_model
from policy.belief.constants import EstimatorConstants
from policy.config import BatteryStep, PolicyConfig
from policy.replay import read_bundle

NUM_CASES, NUM_SHORT = 2000, 100
_MODELS: dict[str, Any] = {"profile": DeviceProfile, "policy": PolicyConfig, "estimator": EstimatorConstants}


def prepare(folder: Path) -> dict[str, Any]:
    row = ProfileRow(
        lam=0.0,
        width=1.0,
        batch=1,
        latency_ms_p50=1.0,
        latency_ms_p99=2.0,
        num_calls=9,
        images_per_s=9.0,
        energy_j=None,
    )
    profile = DeviceProfile(
        bundle_sha256="0" * 64, device="x", power_mode="", backend="onnxruntime", precision="float32", plans="shared",
        num_threads=1, rows=(row, row.model_copy(update={"lam": 1.0})),
    )  # fmt: skip
    constants = read_bundle(SHIPPED_BUNDLE)[1]
    assert constants is not None
    config = PolicyConfig(battery_ladder=(BatteryStep(min_charge=0.0, max_width=0.5),))
    models = {"profile": profile, "policy": config, "estimator": constants}
    return {name: model.model_dump(mode="json") for name, model in models.items()}


def damage(whole: dict[str, Any], rng: random.Random, folder: Path) -> tuple[str, Path]:
    name, path = rng.choice(sorted(whole)), folder / "file.json"
    if rng.random() < 0.4:
        path.write_bytes(damaged_bytes(json.dumps(whole[name]).encode(), rng))
        return name, path
    text = json.dumps(damaged_tree(whole[name], rng))
    match rng.randrange(10):
        case 0:
            text = text.replace("0", "9" * 5000, 1)
        case 1:
            text = "[" * 200_000
        case 2:
            text = text[:1] + '"x": ' * 2 + text[1:]
        case 3:
            text = text[:-1] + ', "' + "x" * 6_000_000 + '": 1}'
    path.write_text(text)
    return name, path


def read(whole: dict[str, Any], damaged: tuple[str, Path]) -> None:
    name, path = damaged
    model = read_model(_MODELS[name], path, what=f"a {name}")
    again = _MODELS[name].model_validate_json(model.model_dump_json())
    assert again == model, "another meaning after a round trip"
