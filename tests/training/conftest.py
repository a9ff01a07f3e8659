"""What the tests of training share: images that can be learned, and a run of seconds with the bundle made of it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from oat_runtime.architecture import ModelConfig
from oat_runtime.bundle import Bundle
from oat_runtime.data import CIFAR10_CLASSES, ImageSet, split_validation
from oat_runtime.operating_point import AttackSpec
from training import export as export_module
from training.checkpoint import load_checkpoint, save_checkpoint
from training.config import TrainConfig
from training.evaluation import judged as judged_module
from training.trainer import Trainer

Sets = dict[str, ImageSet]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    # For each module, so that fixtures of its scope run so too: with two threads, oneDNN 3.12 corrupts the
    # heap in the float32 gradient of some small convolutions on AVX-512.
    torch.set_num_threads(1)


def colour_patches(num: int, *, size: int = 8, seed: int = 0) -> ImageSet:
    """Each class has a colour; noise on top."""
    rng = np.random.default_rng(seed)
    labels_N = rng.integers(0, 10, num)
    colours = np.random.default_rng(99).integers(40, 216, (10, 1, 1, 3))
    images = colours[labels_N] + rng.normal(0, 12, (num, size, size, 3))
    return ImageSet(images.clip(0, 255).astype(np.uint8), labels_N, CIFAR10_CLASSES, f"patches {num}")


@pytest.fixture(scope="session")
def patches() -> Callable[..., ImageSet]:
    return colour_patches


@pytest.fixture(scope="session")
def tiny_run() -> TrainConfig:
    """Three λ, two widths, one-step attack; 6 steps of 16 on 50 images."""
    return TrainConfig(
        model=ModelConfig(depth=10, widen_factor=1, widths=(0.5, 1.0), lambdas=(0.0, 0.3, 1.0)),
        attack=AttackSpec(name="fgsm-rs", epsilon=8 / 255, step_size=10 / 255, num_steps=1),
        num_validation=8,
        batch_size=16,
        epochs=2,
        num_recalibration=2,
        seed=5,
    )


@pytest.fixture(scope="module")
def sets(patches: Callable[..., ImageSet]) -> Sets:
    return {"train": replace(patches(60, size=16, seed=1), region_margin=0.25), "test": patches(20, size=16, seed=2)}


@pytest.fixture(scope="module")
def checkpoint(tiny_run: TrainConfig, sets: Sets, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few steps, finished."""
    model = ModelConfig(depth=10, widen_factor=1, widths=(0.5, 1.0), lambdas=(0.0, 1.0))
    config = tiny_run.model_copy(update={"model": model, "epochs": 1, "num_validation": 10})
    training, _ = split_validation(sets["train"], config.num_validation, seed=config.seed)
    trainer = Trainer(config, training)
    for _ in trainer.run():
        pass
    path = tmp_path_factory.mktemp("run") / "checkpoint.pt"
    trainer.save(path)
    save_checkpoint(replace(load_checkpoint(path), hardware="a large GPU"), path)  # exported elsewhere than trained
    return path


@pytest.fixture
def loader(sets: Sets, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (judged_module, export_module):
        monkeypatch.setattr(module, "load_dataset", lambda name, split, limit=None, **_: sets[split].first(limit))


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, sets: Sets, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_module.export(
        load_checkpoint(checkpoint),
        tmp_path_factory.mktemp("bundles") / "exported",
        training_set=sets["train"],
        test_set=sets["test"],
        num_attacked=6,
        num_corrupted=3,
        device="cpu",
    )
