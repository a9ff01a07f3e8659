"""What the tests of training share: a small set of images that can be learned, and a run that takes seconds."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from oat_runtime.architecture import ModelConfig
from oat_runtime.data import CIFAR10_CLASSES, ImageSet
from oat_runtime.operating_point import AttackSpec
from training.config import TrainConfig


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
