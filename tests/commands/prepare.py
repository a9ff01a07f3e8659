"""Fills a folder with what the documented commands name: data, recordings, runs and bundles, all of them tiny.

Run it in that folder, with `small` on PYTHONPATH. Data sets have their true formats, and runs and bundles are made by
the project's own commands, so that whatever reads them reads the real thing.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from sitecustomize import NUM_IMAGES  # of the folder `small`

from policy.fit import main as fit
from training.export import main as export
from training.train import main as train

Bytes = npt.NDArray[np.uint8]
NUM_FRAMES = 220
GTSRB_BASELINES = [f"gtsrb-at-{lam}-{width}" for lam in ("0", "0.2", "1") for width in ("1", "0.5")]


def pictures(num: int, *, height: int = 32, width: int = 32) -> Bytes:
    """Smooth scenes with a little noise, uint8 RGB (num, height, width, 3)."""
    rng = np.random.default_rng(num)
    images = np.empty((num, height, width, 3), np.uint8)
    for image in images:
        scene = cv2.resize(rng.uniform(0, 255, (5, 5, 3)), (width, height), interpolation=cv2.INTER_CUBIC)
        image[:] = np.clip(scene + rng.normal(0, 3, scene.shape), 0, 255)
    return images


def write_cifar10(folder: Path) -> None:
    folder.mkdir(parents=True)
    images = pictures(NUM_IMAGES["train"] + NUM_IMAGES["test"])
    labels = np.arange(len(images), dtype=np.uint8) % 10
    records = np.c_[labels, images.transpose(0, 3, 1, 2).reshape(len(images), -1)]
    *parts, test = np.array_split(records, np.linspace(0, NUM_IMAGES["train"], 6).astype(int)[1:])
    for number, part in enumerate(parts, 1):
        (folder / f"data_batch_{number}.bin").write_bytes(part.tobytes())
    (folder / "test_batch.bin").write_bytes(test.tobytes())


def write_gtsrb(folder: Path) -> None:
    folder.mkdir(parents=True)
    arrays = {}
    for split, num in NUM_IMAGES.items():
        rows = -(-num // 50)
        grid = pictures(50 * rows).reshape(rows, 50, 32, 32, 3).transpose(0, 2, 1, 3, 4).reshape(32 * rows, 1600, 3)
        cv2.imwrite(str(folder / f"{split}_00000.webp"), grid[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, 101])
        arrays[f"y_{split}"] = np.arange(num) % 43
    arrays["track_train"] = np.c_[np.arange(NUM_IMAGES["train"]) // 86, np.arange(NUM_IMAGES["train"])]
    np.savez(folder / "labels.npz", **arrays)


def write_pictures(folder: Path, num: int) -> None:
    folder.mkdir(parents=True)
    for number, image in enumerate(pictures(num, height=60, width=80)):
        cv2.imwrite(str(folder / f"{number}.jpg"), image)


def write_frames(folder: Path, num: int) -> None:
    """Frames with two boxes each."""
    write_pictures(folder / "monday", num)
    (folder / "classes.txt").write_text("ball\nrobot\n")
    for image in (folder / "monday").iterdir():
        image.with_suffix(".txt").write_text("0 0.2 0.7 0.2 0.3\n1 0.5 0.7 0.2 0.3\n")


def write_robocup(folder: Path) -> None:
    """Six early sessions, the last held out and enough for `policy.fit`; two late ones; two in poor light."""
    sizes = {f"2019060{day}_r2": 30 if day == 6 else 4 for day in range(1, 7)} | {"20260312_r5": 3, "20260502_r4": 1}
    rows = ["session,group,num_frames"]
    for name, num in (sizes | {"20190706_r5": 3, "20190707_r3": 1}).items():
        write_pictures(folder / name, num)
        for image in (folder / name).iterdir():
            image.with_suffix(".txt").write_text("0 0.2 0.7 0.2 0.3\n3 0.5 0.7 0.2 0.3\n")
        rows.append(f"{name},{'main' if name in sizes else 'poor_light'},{num}")
    (folder / "sessions.csv").write_text("\n".join(rows) + "\n")


def call(main: Callable[..., int], *arguments: str) -> None:
    sys.argv = [main.__module__, *arguments]
    if main() != 0:
        raise RuntimeError(f"{arguments} failed")


def make_bundle(recipe: str, name: str) -> None:
    """Train and export: the bundle `bundles/NAME` of a run, in float32 and int8."""
    call(train, recipe)
    call(export, f"runs/{recipe}/checkpoint.pt", f"bundles/{name}", "--attacked", "12", "--corrupted", "12")
    call(export, f"bundles/{name}", "--precision", "int8")


def make_cifar10_bundle() -> None:
    make_bundle("cifar10-cpu", "cifar10-wrn-16-4")
    call(fit, "bundles/cifar10-wrn-16-4", "--images", "runs/cifar10-cpu/validation.npz", "--num-steps", "2")


def make_baselines() -> None:
    for lam in ("0", "1"):
        call(train, f"cifar10-resnet18-at-{lam}-1", "--run", f"runs/at-{lam}")
    for recipe in GTSRB_BASELINES:
        call(train, recipe)


def main() -> None:
    write_cifar10(Path("data/cifar-10-batches-bin"))
    write_gtsrb(Path("data/gtsrb"))
    for split, num in (("train", 80), ("test", 5)):
        for name in ("cat", "dog"):
            write_pictures(Path("photos", split, name), num)
    write_pictures(Path("my_frames"), NUM_FRAMES)
    write_frames(Path("frames"), 80)
    write_robocup(Path("data/robocup"))
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        made = [pool.submit(make_cifar10_bundle), pool.submit(make_bundle, "gtsrb", "gtsrb-wrn-16-2")]
        made += [pool.submit(make_bundle, "robocup", "robocup-wrn-16-2"), pool.submit(make_baselines)]
        for future in made:
            future.result()
    shutil.copytree("bundles/cifar10-wrn-16-4", "bundles/NAME")
    shutil.copytree("runs/cifar10-cpu", "runs/NAME")
    shutil.copy("runs/cifar10-cpu/validation.npz", "validation.npz")
    for run in ("cifar10-cpu", "robocup"):  # the pages train them
        shutil.rmtree(f"runs/{run}")
    Path("mine.yaml").write_text("base: cifar10-cpu\nlearning_rate: 0.05\n")
    for name, dwell_s in (("a", 1.0), ("b", 2.0), ("mine", 3.0)):
        Path(f"{name}.json").write_text(json.dumps({"dwell_s": dwell_s}))


if __name__ == "__main__":
    main()
