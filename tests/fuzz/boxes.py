"""Damaged frames with boxes: descriptions, text files, lists of images, and their names."""

from __future__ import annotations

import json
import random
from pathlib import Path

import cv2
import numpy as np
import yaml
from damage import damaged_bytes, damaged_tree

from oat_runtime.data import load_dataset

NUM_CASES, NUM_SHORT = 1000, 60
_LINES = (
    "0 0.5 0.5 0.2 0.2", "1 0.5 0.5 1 1", "-1 0.5 0.5 0.2 0.2", "9" * 400 + " 0.5 0.5 0.2 0.2", "0 nan 0.5 0.2 0.2",
    "0 1e999 0.5 0.2 0.2", "0 0.5 0.5 1e-300 1e-300", "0 .5 5.e-1 0.2 0.2", "0 0.5 0.5 0.2", "0 ٠.5 0.5 0.2 0.2",
    "0 0x1p-1 0.5 0.2 0.2", "0 0.5 0.5 0.2 0.2 " * 20_000, "\x1b[2J 0.5 0.5 0.2 0.2", "0 1_0 0.5 0.2 0.2",
    "0 " + "1" * 100_000 + " 0.5 0.2 0.2", "0\u20281\x0b2\x1c3 4",
)  # fmt: skip
_PATHS = (
    "../..",
    "/",
    "a\0b",
    "x" * 5000,
    "late/../../late",
    "~",
    "",
    "late",
    "early",
    "list.txt",
    "\x1b[2J",
    "/dev/zero",
)


def prepare(folder: Path) -> dict[str, bytes]:
    rng, files = np.random.default_rng(0), {}
    for name in ("early/1", "early/2", "late/1"):
        frame = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
        files[f"{name}.png"] = cv2.imencode(".png", frame)[1].tobytes()
        files[f"{name}.txt"] = b"0 0.3 0.5 0.3 0.4\n1 0.7 0.5 0.3 0.4\n"
    files["list.txt"] = b"early/1.png\nearly/2.png\n"
    tree = {"names": ["ball", "robot"], "train": "list.txt", "test": ["late"], "crops": {"margin": 0.1}}
    return files | {"data.yaml": json.dumps(tree).encode()}


def damage(whole: dict[str, bytes], rng: random.Random, folder: Path) -> Path:
    for name, content in whole.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    match rng.randrange(4):
        case 0:
            name = rng.choice(list(whole))
            (folder / name).write_bytes(damaged_bytes(whole[name], rng))
        case 1:
            lines = rng.choices(_LINES, k=rng.choice((1, 2, 2000)))
            (folder / "early/1.txt").write_text("\n".join(lines), encoding="utf-8")
        case 2:
            tree = damaged_tree(yaml.safe_load(whole["data.yaml"]), rng)
            (folder / "data.yaml").write_text(json.dumps(tree), encoding="utf-8")
        case _:
            key = rng.choice(("train", "test", "path", "list"))
            if key == "list":
                (folder / "list.txt").write_text("\n".join(rng.choices(_PATHS, k=3)), encoding="utf-8")
            else:
                tree = yaml.safe_load(whole["data.yaml"]) | {key: rng.choice(_PATHS)}
                (folder / "data.yaml").write_text(json.dumps(tree), encoding="utf-8")
    return folder


def read(whole: dict[str, bytes], damaged: Path) -> None:
    for split in ("train", "test"):
        data = load_dataset(f"{damaged}@16", split)  # type: ignore[arg-type]
        assert data.images_NHWC.shape == (len(data), 16, 16, 3) and len(data.names or ()) == len(data), "lengths"
        assert 0 <= data.labels_N.min() <= data.labels_N.max() < len(data.class_names), "labels"
