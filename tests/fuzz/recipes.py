"""Damaged recipes in YAML, and values of `--set`."""

from __future__ import annotations

import random
from pathlib import Path

import torch  # noqa: F401  (without it, `training` ends the process)
import yaml
from damage import damaged_bytes, damaged_tree

from training.config import TrainConfig
from training.settings import read_recipe, with_changes

NUM_CASES, NUM_SHORT = 1000, 60
_LAUGHS = "\n".join(["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))])
_HASHED = "\n".join(["? &b0 [x]\n: 1", *(f"? &b{n} [*b{n - 1}, *b{n - 1}]\n: 1" for n in range(1, 40))])
_BOMBS = (
    _LAUGHS, _HASHED, "[" * 100_000, "{a: " * 3000, "epochs: " + "9" * 6000, "a: !!python/name:os.system",
    "- " * 50_000,
    "epochs: 1\n" * 3000, "x" * 2_000_000, "epochs: !!timestamp 2001-99-99", "epochs: 2001-99-99", "epochs: .inf",
    "seed: 1:99:99:99", "epochs: !!binary '='", "? {a: 1}\n: 2", "<<: 3", "epochs: 1\nepochs: 2", "a: &a [*a]",
    "\ufeff\x00", "--- 1\n--- 2", "%TAG ! x\n--- !y z", "epochs: !!float x", "epochs: !!int ''", "=: 3", "1: 2", "~: 3",
    "!!set {a, b}",
)  # fmt: skip


def prepare(folder: Path) -> str:
    return yaml.safe_dump({"base": "smoke", **TrainConfig().model_dump(mode="json")})


def damage(whole: str, rng: random.Random, folder: Path) -> tuple[Path, str]:
    path = folder / "recipe.yaml"
    match rng.randrange(4):
        case 0:
            content = damaged_bytes(whole.encode(), rng)
        case 1:
            content = rng.choice(_BOMBS).encode()
        case 2:
            content = rng.choice(_BOMBS).encode() + damaged_bytes(whole.encode(), rng)
        case _:
            content = yaml.safe_dump(damaged_tree(yaml.safe_load(whole), rng, _shallow)).encode()
    path.write_bytes(content)
    return path, "epochs=" + rng.choice(_BOMBS)[:100_000]


def _shallow(rng: random.Random) -> object:
    return rng.choice((None, -1, "x", 1e308, float("nan"), [], {}, [[1]], "x" * 5000, True, 10**30))


def read(whole: str, damaged: tuple[Path, str]) -> None:
    path, change = damaged
    try:
        with_changes(TrainConfig(), [change])
    finally:
        assert isinstance(read_recipe(str(path)), TrainConfig)
