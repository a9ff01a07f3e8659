"""Damaged checkpoints: bytes, values and pickles; a run goes on from those that are accepted."""

from __future__ import annotations

import io
import random
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from damage import damaged_bytes, hostile_value

from oat_runtime.architecture import ModelConfig
from oat_runtime.data import CIFAR10_CLASSES, ImageSet
from training.config import TrainConfig
from training.trainer import Trainer

NUM_CASES, NUM_SHORT = 500, 25


@dataclass
class Whole:
    config: TrainConfig
    data: ImageSet
    content: bytes
    trained: dict[str, Any]


def prepare(folder: Path) -> Whole:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    config = TrainConfig(
        model=ModelConfig(depth=10, widen_factor=1, widths=(0.5, 1.0), lambdas=(0.0, 0.3, 1.0)),
        num_validation=8, batch_size=16, epochs=2, num_recalibration=1, average_decay=0.9, seed=5,
    )  # fmt: skip
    images = rng.integers(0, 256, (48, 8, 8, 3)).astype(np.uint8)
    data = ImageSet(images, rng.integers(0, 10, 48), CIFAR10_CLASSES, "noise")
    trainer = Trainer(config, data)
    trainer.run_step()
    trainer.save(folder / "checkpoint.pt")
    return Whole(config, data, (folder / "checkpoint.pt").read_bytes(), trainer.model.state_dict())


def damage(whole: Whole, rng: random.Random, folder: Path) -> tuple[Path, bool]:
    path = folder / "checkpoint.pt"
    kind = rng.randrange(4)
    if kind == 0:
        path.write_bytes(damaged_bytes(whole.content, rng))
    elif kind == 1:
        path.write_bytes(_with_pickle(whole.content, rng))
    else:
        payload = torch.load(io.BytesIO(whole.content), weights_only=True)
        _damage_payload(payload, rng)
        torch.save(payload, path)
    return path, kind == 0


def _with_pickle(content: bytes, rng: random.Random) -> bytes:
    """The archive with another `data.pkl` and a fitting checksum."""
    written, squeeze = io.BytesIO(), zipfile.ZIP_DEFLATED if rng.random() < 0.05 else zipfile.ZIP_STORED
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(written, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename.endswith("data.pkl"):
                data = damaged_bytes(data, rng)
            new.writestr(info.filename, data, squeeze)
    return written.getvalue()


def _damage_payload(payload: dict[str, Any], rng: random.Random) -> None:
    key = rng.choice(sorted(payload))
    part = payload[key]
    if key == "optimizer" and rng.random() < 0.8:
        part = rng.choice([part["param_groups"][0], *part["state"].values(), part])
    if isinstance(part, dict) and part and rng.random() < 0.9:
        payload, key = part, rng.choice(list(part))
    old = payload[key]
    if isinstance(old, torch.Tensor) and rng.random() < 0.8:
        payload[key] = rng.choice(
            (
                lambda: old * float("nan"), lambda: old[:1], lambda: old.double(), lambda: old.reshape(-1),
                lambda: old.to("meta"), lambda: torch.zeros(1).expand(10**9), lambda: old.to_sparse(),
                lambda: old.bool(), lambda: torch.zeros(()),
            )
        )()  # fmt: skip
    elif rng.random() < 0.2:
        del payload[key]
    else:
        payload[key] = hostile_value(rng)


def read(whole: Whole, damaged: tuple[Path, bool]) -> None:
    path, is_raw = damaged
    trainer = Trainer(whole.config, whole.data)
    trainer.resume(path)
    state = trainer.model.state_dict()
    if is_raw:
        assert all(torch.equal(state[name], tensor) for name, tensor in whole.trained.items()), "other weights"
        assert trainer.step == 1, f"step {trainer.step}"
    if trainer.step < trainer.num_steps:
        trainer.run_step()
