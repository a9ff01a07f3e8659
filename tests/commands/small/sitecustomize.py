"""Makes documented commands short: Python loads this file at its start from PYTHONPATH, before any module of ours.

Only sizes change, right after a module was loaded: how many images a data set has, how wide a recipe's network is, how
many steps are made. Command lines, files and everything that is computed stay as they are.
"""

from __future__ import annotations

import functools
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

NUM_IMAGES = {"train": 250, "test": 12}
NUM_VALIDATION = 110  # policy.fit wants 100
NUM_STEPS, BATCH_SIZE = 4, 12


def _cifar(module: ModuleType) -> None:
    module._NUM.update(NUM_IMAGES)


def _gtsrb(module: ModuleType) -> None:
    for location in module.GTSRB.locations:
        location.num_images.update(NUM_IMAGES)


def _recipes(module: ModuleType) -> None:
    def small(make: Any) -> Any:
        @functools.wraps(make)
        def recipe() -> Any:
            config = make()
            model = config.model
            tiny = {"family": "wide_resnet", "depth": 10, "widen_factor": 1, "encoding_size": 8}
            if model.stem == "7x7-stride2":
                tiny["stem"] = "3x3"
            if len(model.lambdas) > 1:
                tiny["lambdas"] = (0.0, 0.2, 1.0)
            if len(model.widths) > 1:
                tiny["widths"] = (0.5, 1.0)
            changes = {
                "model": type(model)(**(dict(model) | tiny)),
                "num_validation": NUM_VALIDATION,
                "batch_size": BATCH_SIZE,
                "steps": NUM_STEPS,
                "num_recalibration": 1,
                "precision": "float32",
                "compile_norms": False,
                "cuda_graphs": False,
                "lambda_weights": config.lambda_weights
                and config.lambda_weights[: len(tiny.get("lambdas", model.lambdas))],
            }
            return type(config)(**(dict(config) | changes))

        return recipe

    module.RECIPES.update({name: small(make) for name, make in module.RECIPES.items()})


def _counting(module: ModuleType) -> None:
    for name in ("mi-fgsm", "apgd-ce", "apgd-t", "apgd-ce-l2"):  # the others have their number of steps in their name
        module.ATTACKS[name] = module.ATTACKS[name].model_copy(update={"num_steps": 3})


def _export(module: ModuleType) -> None:
    module._NUM_ATTACKED = module._NUM_CORRUPTED = 12


def _queries(module: ModuleType) -> None:
    module._NUM_QUERIES = 10


def _validation(module: ModuleType) -> None:
    module.NUM_IMAGES = 16


def _stage(module: ModuleType) -> None:
    effort = module.Effort

    def small(**fields: Any) -> Any:
        sizes = {key: min(value, 8) for key, value in fields.items() if isinstance(value, int)}
        few = {"num_seeds": 2, "num_segments": 2, "num_onsets": 1, "severities": (4,), "attacks": ("pgd-10",)}
        return effort(**(fields | sizes | few | {"num_clean_frames": min(fields["num_clean_frames"], 200)}))

    module.Effort = small


def _streams(module: ModuleType) -> None:
    module.MEAN_SEGMENT = 40


def _timing(module: ModuleType) -> None:
    interleave = module.interleave

    def short(calls: Any, *, seconds: float, **options: Any) -> Any:
        return interleave(calls, seconds=min(seconds, 0.1), **(options | {"burst": 1, "min_rounds": 2}))

    module.interleave = short


SIZES = {
    "oat_runtime.data.cifar": _cifar,
    "oat_runtime.data.gtsrb": _gtsrb,
    "oat_runtime.timing": _timing,
    "policy.bench.stage": _stage,
    "policy.bench.streams": _streams,
    "training.evaluation.counting": _counting,
    "training.evaluation.suites.autoattack": _queries,
    "training.evaluation.suites.rounding": _queries,
    "training.validation": _validation,
    "training.export": _export,
    "training.recipes": _recipes,
}


class Smaller(MetaPathFinder):
    """Finds the modules in `SIZES` as Python does, and changes their sizes once they are loaded."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path) if fullname in SIZES else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_change(module: ModuleType) -> None:
            execute(module)
            SIZES[fullname](module)

        spec.loader.exec_module = execute_and_change  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, Smaller())
