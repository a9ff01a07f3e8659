"""Damaged data sets: packs of mosaics, and NumPy archives of images."""

from __future__ import annotations

import io
import random
import zipfile
from pathlib import Path

import cv2
import numpy as np
from damage import damaged_bytes

from oat_runtime.data import read_images_npz, read_labelled_npz
from oat_runtime.data.packs import read_pack

NUM_CASES, NUM_SHORT = 1000, 60


def prepare(folder: Path) -> dict[str, bytes]:
    rng, files = np.random.default_rng(0), {}
    arrays = {
        "labels.npz": {"y_test": rng.integers(0, 10, 60), "track_test": rng.integers(0, 10, (60, 2))},
        "images.npz": {
            "images": rng.integers(0, 256, (60, 8, 8, 3)).astype(np.uint8),
            "labels": rng.integers(0, 10, 60),
        },
    }
    for name, content in arrays.items():
        written = io.BytesIO()
        np.savez(written, **content)
        files[name] = written.getvalue()
    mosaic = rng.integers(0, 256, (64, 1600, 3)).astype(np.uint8)
    files["test_00000.webp"] = cv2.imencode(".webp", mosaic, [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes()
    return files


def damage(whole: dict[str, bytes], rng: random.Random, folder: Path) -> Path:
    for name, content in whole.items():
        (folder / name).write_bytes(content)
    name = rng.choice(list(whole))
    if rng.random() < 0.5 or name.endswith("webp"):
        (folder / name).write_bytes(damaged_bytes(whole[name], rng))
    else:
        (folder / name).write_bytes(_other_arrays(whole[name], rng))
    return folder


def _other_arrays(content: bytes, rng: random.Random) -> bytes:
    """An archive whose checksums fit, but not its arrays."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.namelist():
            new.writestr(member, _other_array(old.read(member), rng))
    return written.getvalue()


def _other_array(content: bytes, rng: random.Random) -> bytes:
    array, written = np.load(io.BytesIO(content)), io.BytesIO()
    match rng.randrange(12):
        case 0:
            return content.replace(
                f"({len(array)},".encode(), rng.choice((b"(9999999999,", b"(-1,", b"(0,", b"(2**9,")), 1
            )
        case 1:
            return damaged_bytes(content[:128], rng) + content[128:]
        case 2:
            array = array.astype(rng.choice((np.float64, np.complex64, "U3", "S2", "M8[s]", bool, np.int8)))
        case 3:
            array = array.astype(np.float64) * np.nan
        case 4:
            array = array[..., None]
        case 5:
            array = array.reshape(-1)
        case 6:
            array = np.zeros(0, array.dtype)
        case 7:
            array = np.array(7, array.dtype)
        case 8:
            array = np.zeros((100_000_000 // array.itemsize,), array.dtype)
        case 9:
            array = array.astype(np.int64) - 5000
        case 10:
            array = array.astype([("a", "i4"), ("b", "i4")]) if array.ndim == 1 else array[::-1].T
        case _:
            return content
    np.save(written, array)
    return written.getvalue()


def read(whole: dict[str, bytes], damaged: Path) -> None:
    errors = []
    for way in (_pack, _images, _labelled):
        try:
            way(damaged)
        except Exception as error:
            errors.append(error)
    foreign = [error for error in errors if not type(error).__module__.startswith("oat_runtime")]
    if errors:
        raise (foreign or errors)[0]


def _pack(folder: Path) -> None:
    contents = read_pack(folder, "test", None)
    assert contents.labels_N.dtype == np.int64 and contents.labels_N.ndim == 1, "labels"
    assert contents.first_images(60).shape == (60, 32, 32, 3), "images"


def _images(folder: Path) -> None:
    read_images_npz(folder / "images.npz")


def _labelled(folder: Path) -> None:
    data = read_labelled_npz(folder / "images.npz")
    assert len(data.images_NHWC) == len(data.labels_N), "lengths"
