"""Named training runs. A recipe is a function without arguments that returns a TrainConfig."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from oat_runtime.architecture import ModelConfig
from oat_runtime.operating_point import AttackSpec
from training.config import TrainConfig


def pgd(num_steps: int, *, epsilon: float = 8 / 255) -> AttackSpec:
    """Return PGD with steps that can cross the ball: in a ball of 8/255, 2/255 for 7 steps or more, as in the paper."""
    step_size = max(2 / 255, 1.25 * epsilon / num_steps)
    return AttackSpec(name=f"pgd-{num_steps}", epsilon=epsilon, step_size=step_size, num_steps=num_steps)


YOUR_IMAGES = "PATH@64"
"""Stands where a recipe has no images of its own: `oat-train` asks for them."""
FGSM_RS = AttackSpec(name="fgsm-rs", epsilon=8 / 255, step_size=10 / 255, num_steps=1)


def paper(model: ModelConfig, *, dataset: str = "cifar10", epochs: int = 200) -> TrainConfig:
    """The paper's method exactly: PGD-7, i.i.d. λ, every width in every step, SGD with a cosine, no extras."""
    return TrainConfig(
        model=model,
        dataset=dataset,
        fit_to_data=dataset != "cifar10",
        attack=pgd(7),
        num_random_widths=None,
        epochs=epochs,
        warmup=0.0,
        nesterov=False,
        eval_every=max(1, epochs // 20),
    )


def _cpu(model: ModelConfig, **update: Any) -> TrainConfig:
    """A run for CPU cores, best with bf16: two attack steps, one loss term a sample, fused norms, averaged weights."""
    shared: dict[str, Any] = {
        "model": model,
        "attack": pgd(2, epsilon=9 / 255),
        "terms": "sampled",
        "lambda_sampling": "stratified",
        "batch_size": 126,
        "average_decay": 0.998,
        "precision": "auto",
        "compile_norms": True,
    }
    return TrainConfig(**(shared | update))


def cifar10_cpu() -> TrainConfig:
    """A small OATS network for two CPU cores with bf16: WRN-16-4, Muon, a clean fifth, and more of both ends of λ.

    Narrower widths also learn from the widest one.
    """
    return _cpu(
        ModelConfig(depth=16, widen_factor=4),
        attack=pgd(2, epsilon=9.5 / 255),
        optimizer="muon",
        muon_learning_rate=0.025,
        clean_share=0.2,
        lambda_weights=(2, 1, 1, 1, 1, 3),
        label_smoothing=0.1,
        width_distillation=0.5,
        average_decay=0.999,
        sync_bn=False,
        epochs=18,
        eval_every=3,
    )


def cifar10_cpu_short() -> TrainConfig:
    """Eight epochs like those of cifar10-cpu in a smaller ball, with a shorter average: an hour of two CPU cores."""
    attack = AttackSpec(name="pgd-2", epsilon=8.5 / 255, step_size=5.625 / 255, num_steps=2)
    update = {"attack": attack, "average_decay": 0.998, "epochs": 8, "eval_every": 8}
    return TrainConfig(**(dict(cifar10_cpu()) | update))


def cifar10_paper() -> TrainConfig:
    """The paper's CIFAR-10 run: OATS ResNet-34, PGD-7, 200 epochs, all widths in every step. For a GPU."""
    return paper(ModelConfig(family="resnet", depth=34))


def svhn_paper() -> TrainConfig:
    """The paper's SVHN run: OAT WRN-16-8, PGD-7, 80 epochs. For a GPU."""
    return paper(ModelConfig(depth=16, widen_factor=8, widths=(1.0,)), dataset="svhn", epochs=80)


def stl10_paper() -> TrainConfig:
    """The paper's STL-10 run: OAT WRN-40-2 on 96x96 images, PGD-7, 200 epochs. For a GPU."""
    model = ModelConfig(depth=40, widen_factor=2, widths=(1.0,), stem="3x3-stride2")
    return paper(model, dataset="stl10").model_copy(update={"num_validation": 500})


def _gpu(model: ModelConfig) -> TrainConfig:
    """A run for one large GPU: everything on the device, bf16, fused norms, CUDA graphs, and the modern extras."""
    return TrainConfig(
        model=model,
        attack=pgd(3),
        lambda_sampling="stratified",
        num_random_widths=None,
        batch_size=510,
        epochs=80,
        learning_rate=0.3,
        schedule="linear",
        warmup=0.2,
        label_smoothing=0.1,
        average_decay=0.998,
        cutout=8,
        precision="auto",
        compile_norms=True,
        cuda_graphs=True,
        num_recalibration=100,
        eval_every=5,
    )


def cifar10_resnet18() -> TrainConfig:
    """OATS ResNet-18 for one large GPU in 15 to 20 minutes; can be stopped and resumed."""
    return _gpu(ModelConfig(family="resnet", depth=18))


def cifar10_resnet34() -> TrainConfig:
    """The same for a ResNet-34, to compare with the paper."""
    return _gpu(ModelConfig(family="resnet", depth=34))


_ONE_LAMBDA: dict[str, Any] = {"lambda_weights": None, "clean_share": 0.0, "restarts": (), "start": ""}
"""The settings of another run that a new run at one λ does without."""


def dedicated(lam: float, width: float, like: TrainConfig) -> TrainConfig:
    """PGD-AT at one λ and one width, otherwise like another run: a network for one purpose."""
    model = ModelConfig(**(dict(like.model) | {"lambdas": (lam,), "widths": (width,)}))
    one_width = {"model": model, "num_random_widths": None, "width_distillation": 0.0}
    return TrainConfig(**(dict(like) | _ONE_LAMBDA | one_width))


def _dedicated(lam: float, width: float, like: str) -> Callable[[], TrainConfig]:
    def make() -> TrainConfig:
        return dedicated(lam, width, like=RECIPES[like]())

    make.__doc__ = f"PGD-AT at λ={lam:g} and width {width:g} only, else like {like}."
    return make


def slimmable(lam: float, like: TrainConfig) -> TrainConfig:
    """PGD-ATS: slimmable adversarial training at one λ, otherwise like another run."""
    model = ModelConfig(**(dict(like.model) | {"lambdas": (lam,)}))
    return TrainConfig(**(dict(like) | _ONE_LAMBDA | {"model": model}))


def gtsrb() -> TrainConfig:
    """Traffic signs: OATS WRN-16-2 that two CPU cores train in about half an hour."""
    return _cpu(ModelConfig(), dataset="gtsrb@32", fit_to_data=True, epochs=30, jitter=0.3, eval_every=5)


def robocup() -> TrainConfig:
    """Crops of robots' own frames, stretched so that they show nothing beside a narrow box: OATS WRN-16-2 for 64x64."""
    return _cpu(
        ModelConfig(stem="3x3-stride2"),
        dataset="robocup@64",
        resize="stretch",
        fit_to_data=True,
        optimizer="muon",
        jitter=0.3,
        sync_bn=False,
        epochs=80,
        eval_every=10,
    )


def folder() -> TrainConfig:
    """Your own images by class, or frames with boxes: `--set dataset=PATH@64`. OAT WRN-16-2 for images of 64x64."""
    return TrainConfig(
        model=ModelConfig(stem="3x3-stride2"),
        dataset=YOUR_IMAGES,
        fit_to_data=True,
        num_validation=100,
        split="stratified",
        epochs=15,
        num_recalibration=20,
    )


def _compared(update: dict[str, Any]) -> TrainConfig:
    """The set-up in which recipes are compared on a CPU: a small OATS network and few epochs, the same for all.

    Widen factor 1 would halve the time, but with 8 to 16 channels a narrow width costs nearly as much as the full one.

    Every batch holds equal counts of each λ, for the paper's recipe too: it lowers the noise of all alike, and constant
    shapes let all run the same fused kernels, so that costs compare.
    """
    shared: dict[str, Any] = {
        "model": ModelConfig(depth=10, widen_factor=2),
        "epochs": 3,
        "batch_size": 126,
        "lambda_sampling": "stratified",
        "precision": "auto",
        "compile_norms": True,
        "eval_every": 3,
    }
    return TrainConfig(**(shared | update))


def compare_paper() -> TrainConfig:
    """Comparison of recipes: the paper's. PGD-7 at each of three widths, both terms of each sample."""
    return _compared({"attack": pgd(7), "num_random_widths": None, "nesterov": False})


def compare_fast() -> TrainConfig:
    """Comparison of recipes: the cheap one. PGD-4, one loss term a sample, one narrower width a step, an average.

    A ball of 9/255 makes up for the missing steps: in that of 8/255 (with PGD-3), SA came out 2.5 points above the
    paper's recipe and RA 2 below; in that of 10/255, SA 1 below and RA 1 above (docs/log/training.md).
    """
    return _compared(
        {
            "attack": pgd(4, epsilon=9 / 255),
            "terms": "sampled",
            "average_decay": 0.995,
        }
    )


def compare_fast_both() -> TrainConfig:
    """Comparison of recipes: cheap, with both terms of each sample and a one-step attack."""
    return TrainConfig(**(dict(compare_fast()) | {"attack": FGSM_RS, "terms": "both"}))


def compare_shared() -> TrainConfig:
    """Comparison of recipes: cheap, all widths in every step, trained on attacks on the widest."""
    return TrainConfig(**(dict(compare_fast()) | {"attack_width": "widest", "num_random_widths": None}))


def compare_one_bn() -> TrainConfig:
    """Comparison of recipes: the cheap one with ordinary batch norm instead of dual batch norm."""
    fast = compare_fast()
    return TrainConfig(**(dict(fast) | {"model": fast.model.model_copy(update={"dual_bn": False})}))


def smoke() -> TrainConfig:
    """One short epoch of a tiny network, to check that everything runs."""
    return TrainConfig(model=ModelConfig(depth=10, widen_factor=1), epochs=1, batch_size=64, num_recalibration=2)


RECIPES: dict[str, Callable[[], TrainConfig]] = {
    "cifar10-cpu": cifar10_cpu,
    "cifar10-cpu-short": cifar10_cpu_short,
    "cifar10-paper": cifar10_paper,
    "svhn-paper": svhn_paper,
    "stl10-paper": stl10_paper,
    "cifar10-resnet18": cifar10_resnet18,
    "cifar10-resnet34": cifar10_resnet34,
    "gtsrb": gtsrb,
    "robocup": robocup,
    "folder": folder,
    "compare-paper": compare_paper,
    "compare-fast": compare_fast,
    "compare-fast-both": compare_fast_both,
    "compare-shared": compare_shared,
    "compare-one-bn": compare_one_bn,
    "smoke": smoke,
}
RECIPES |= {
    f"{like}-at-{lam:g}-{width:g}": _dedicated(lam, width, like)
    for like in ("cifar10-resnet18", "gtsrb")
    for lam in (0.0, 0.2, 1.0)
    for width in (1.0, 0.5)
}
