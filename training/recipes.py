"""Named training runs. A recipe is a function without arguments that returns a TrainConfig."""

from __future__ import annotations

from collections.abc import Callable

from oat_runtime.model import ModelConfig
from oat_runtime.operating_point import AttackSpec
from training.config import TrainConfig


def cifar10_cpu() -> TrainConfig:
    """A small OATS network that two CPU cores train in about 80 minutes: WRN-16-2, one-step attack, bf16."""
    return TrainConfig(
        model=ModelConfig(family="wide_resnet", depth=16, widen_factor=2),
        lambda_sampling="stratified",
        batch_size=126,
        epochs=13,
        precision="bfloat16",
        compile_norms=True,
    )


def cifar10_paper() -> TrainConfig:
    """The paper's CIFAR-10 run: ResNet-34, PGD-7, 200 epochs, all widths in every step. For a GPU."""
    return TrainConfig(
        model=ModelConfig(family="resnet", depth=34),
        attack=AttackSpec(name="pgd-7", epsilon=8 / 255, step_size=2 / 255, num_steps=7),
        num_random_widths=None,
        epochs=200,
        warmup=0.0,
        eval_every=10,
    )


def smoke() -> TrainConfig:
    """One short epoch of a tiny network, to see that everything runs."""
    return TrainConfig(model=ModelConfig(depth=10, widen_factor=1), epochs=1, batch_size=64, num_recalibration=2)


RECIPES: dict[str, Callable[[], TrainConfig]] = {
    "cifar10-cpu": cifar10_cpu,
    "cifar10-paper": cifar10_paper,
    "smoke": smoke,
}
