"""Damaged bundles: flipped bits, cuts and swaps; hostile manifests with fitting hashes; other weights, with theirs too.

Where no hash was computed anew, or only those of the weights and the manifest, a bundle that loads must mean the same.
In int8, other activation ranges count as other weights do.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import safetensors.numpy
from damage import damaged_bytes, damaged_tree

from oat_runtime import SHIPPED_BUNDLE, Bundle, OATRuntime
from oat_runtime.backends import BackendName, available
from oat_runtime.bundle.writer import attach_file, attach_quantization
from oat_runtime.operating_point import Precision
from oat_runtime.plans import PlanForm
from oat_runtime.prediction import softmax
from oat_runtime.quantization import QUANTIZATION
from policy.belief.constants import constants_of

NUM_CASES, NUM_SHORT = 10_000, 250
_MOST_OTHER = 0.01
"""Difference of a probability that counts as another meaning. The probe's tolerance allows 0.002 of a logit."""
_MOST_OTHER_INT8 = 0.35
"""The same in int8 with other weights or ranges: the probe allows a tenth of the largest logit, on its own images."""
_MANIFEST, _HASH = "manifest.json", "manifest.sha256"


@dataclass
class Whole:
    """A bundle that nobody damaged, and what it means."""

    bundle: Bundle
    x_NCHW: Any
    probabilities: dict[Precision, dict[Any, Any]]
    outcomes: Any
    engines: tuple[BackendName, ...]
    in_int8: tuple[BackendName, ...]
    """Those of the engines that run in int8."""


@dataclass
class Damaged:
    """A damaged copy, what was done to it, and how it is to run."""

    folder: Path
    kind: Literal["no hash", "weights", "all hashes"]
    engine: BackendName
    plans: PlanForm
    precision: Precision


def prepare(folder: Path) -> Whole:
    spec = importlib.util.spec_from_file_location("conftest", Path(__file__).parents[1] / "conftest.py")
    assert spec is not None and spec.loader is not None
    conftest = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conftest)
    bundle = Bundle.load(conftest.make_tiny_bundle(folder / "tiny"))
    bundle = attach_file(bundle, "estimator.json", (SHIPPED_BUNDLE / "estimator.json").read_bytes())
    calibration_NCHW = next(iter(bundle.probes().values())).x_NCHW
    quantization = conftest.ranges_over(bundle.tensors(), bundle.manifest.model, calibration_NCHW)
    bundle = attach_quantization(bundle, quantization, probe_atol=1.0)
    x_NCHW = np.random.default_rng(1).random((4, 3, 32, 32), dtype=np.float32)
    engines = available()
    in_int8 = tuple(engine for engine in engines if engine in ("onnxruntime", "openvino"))
    found: dict[Precision, dict[Any, Any]] = {}
    for engine in engines:
        for plans in reversed(get_args(PlanForm)):
            found["float32"] = _probabilities(bundle.path, engine, plans, "float32", x_NCHW)
    for engine in in_int8:
        found["int8"] = _probabilities(bundle.path, engine, "folded", "int8", x_NCHW)
    return Whole(bundle, x_NCHW, found, bundle.outcomes(), engines, in_int8)


def damage(whole: Whole, rng: random.Random, folder: Path) -> Damaged:
    copy = Path(shutil.copytree(whole.bundle.path, folder / "tiny"))
    files = sorted(path.name for path in copy.iterdir())
    precision: Precision = "int8" if whole.in_int8 and rng.random() < 0.2 else "float32"
    engine = rng.choice(whole.in_int8 if precision == "int8" else whole.engines)
    plans: PlanForm = "folded" if precision == "int8" or rng.random() < 0.1 else "shared"
    kind: Literal["no hash", "weights", "all hashes"] = "no hash"
    match rng.randrange(10):
        case 0 | 1 | 2:  # one bit
            path = copy / rng.choice((_MANIFEST, _MANIFEST, *files))
            data, at = bytearray(path.read_bytes()), rng.randrange(path.stat().st_size)
            data[at] ^= 1 << rng.randrange(8)
            path.write_bytes(data)
        case 3:
            path = copy / rng.choice(files)
            path.write_bytes(damaged_bytes(path.read_bytes(), rng))
        case 4:
            _replace(copy, files, rng)
        case 5 | 6:
            kind = "weights"
            if precision == "int8" and rng.random() < 0.5:
                _write(copy, QUANTIZATION, _other_file(copy / QUANTIZATION, rng, other=_other_ranges))
            else:
                _write(copy, "weights.safetensors", _other_weights(copy / "weights.safetensors", rng))
        case 7:
            kind = "all hashes"
            name = rng.choice([name for name in files if name not in (_MANIFEST, _HASH, "weights.safetensors")])
            _write(copy, name, _other_file(copy / name, rng))
        case _:
            kind = "all hashes"
            document = damaged_tree(json.loads((copy / _MANIFEST).read_bytes()), rng)
            _write_manifest(copy, _hostile(json.dumps(document), rng).encode())
    return Damaged(copy, kind, engine, plans, precision)


def read(whole: Whole, damaged: Damaged) -> None:
    bundle = Bundle.load(damaged.folder)
    estimator, outcomes = bundle.estimator, bundle.outcomes()
    if estimator is not None:
        constants_of(estimator, where=bundle.path)
    found = _probabilities(damaged.folder, damaged.engine, damaged.plans, damaged.precision, whole.x_NCHW)
    if damaged.kind == "all hashes":
        return
    ours, theirs = (one.manifest.model_dump(exclude={"files"}) for one in (whole.bundle, bundle))
    assert ours == theirs, "the manifest"
    assert estimator == whole.bundle.estimator, "the estimator"
    assert all(np.array_equal(whole.outcomes[key], hits) for key, hits in outcomes.items()), "the outcomes"
    expected, most = whole.probabilities[damaged.precision], _MOST_OTHER
    if damaged.precision == "int8" and damaged.kind == "weights":
        most = _MOST_OTHER_INT8
    worst = max(float(np.abs(expected[point] - other).max()) for point, other in found.items())
    assert worst <= most, f"a probability by {worst:.3f} on {damaged.engine}, {damaged.plans}, {damaged.precision}"


def _probabilities(
    path: Path, engine: BackendName, plans: PlanForm, precision: Precision, x_NCHW: Any
) -> dict[Any, Any]:
    """What the runtime answers at every point.

    Where each point is compiled, which takes its time, at each ninth one, and image by image: OpenVINO compiles each
    batch size.
    """
    runtime = OATRuntime.load(path, backend=engine, precision=precision, plans=plans, num_threads=1)
    try:
        found = {}
        for row in runtime.table.rows[:: 9 if plans == "folded" else 1]:
            runtime.set_point(lam=row.lam, width=row.width)
            pieces = np.split(x_NCHW, len(x_NCHW)) if plans == "folded" else [x_NCHW]
            answers = [answer for piece in pieces for answer in runtime.predict_inputs(piece)]
            assert all(np.isfinite(answer.confidence) for answer in answers), "a confidence that is no number"
            found[row.point] = np.stack([softmax(answer.logits_K, 1.0) for answer in answers])
        return found
    finally:
        runtime.close()


def _replace(copy: Path, files: list[str], rng: random.Random) -> None:
    path, other = (copy / name for name in rng.sample(files, 2))
    match rng.randrange(7):
        case 0:
            path.unlink()
        case 1:
            path.unlink()
            path.mkdir()
        case 2:
            content = path.read_bytes()
            path.write_bytes(other.read_bytes())
            other.write_bytes(content)
        case 3:
            path.unlink()
            path.symlink_to(rng.choice(("/dev/zero", path.name, "/nowhere", str(other))))
        case 4:
            with path.open("ab") as file:
                file.truncate(rng.choice((10**7, 10**10)))
        case 5:
            path.unlink()
            os.mkfifo(path)
        case _:
            shipped = SHIPPED_BUNDLE / path.name
            path.write_bytes(shipped.read_bytes() if shipped.is_file() else other.read_bytes())


def _other_weights(path: Path, rng: random.Random) -> bytes:
    if rng.random() < 0.4:
        return damaged_bytes(path.read_bytes(), rng)
    arrays = safetensors.numpy.load_file(path)
    names = sorted(name for name, array in arrays.items() if array.dtype == np.float32)
    name = rng.choice(("classifier.weight", "classifier.bias", *names))
    array = arrays[name].copy()
    numbers = np.random.default_rng(rng.randrange(2**32))
    changes: tuple[Callable[[], Any], ...] = (
        lambda: -array,
        lambda: array * np.float32(rng.choice((0.0, 0.5, 2.0, 1e20))),
        lambda: array[::-1].copy(),
        lambda: np.full_like(array, rng.choice((np.nan, np.inf, -np.inf, 3e38, 0.0))),
        lambda: array + numbers.standard_normal(array.shape).astype(np.float32),
        lambda: numbers.standard_normal(array.shape).astype(np.float32),
        lambda: _one_changed(array, rng),
        lambda: array.astype(rng.choice((np.float64, np.float16, np.int8))),
        lambda: array[..., None],
        lambda: array[:-1],
    )
    with np.errstate(all="ignore"):
        arrays[name] = rng.choice(changes)()
    if rng.random() < 0.05:
        arrays[f"{name}x"] = arrays.pop(name)
    return safetensors.numpy.save(arrays)


def _one_changed(array: Any, rng: random.Random) -> Any:
    array.reshape(-1)[rng.randrange(array.size)] = rng.choice((np.nan, np.inf, 1e30, -1e3))
    return array


def _other_ranges(document: Any, rng: random.Random) -> Any:
    """Change ranges of one point or of all, or one site's, so that most are still ranges."""
    points = rng.choice((document["points"], [rng.choice(document["points"])]))
    factor = rng.choice((0.0, 1e-3, 0.25, 0.8, 1.25, 4.0, 1e4, -1.0))
    site = rng.choice((None, rng.randrange(len(document["sites"]))))
    for point in points:
        for index, (low, high) in enumerate(point["ranges"]):
            if site in (None, index):
                point["ranges"][index] = [low * factor, high * factor + 1e-6]
    if rng.random() < 0.2:
        rng.shuffle(document["points"])
    return document


def _other_file(path: Path, rng: random.Random, *, other: Callable[[Any, random.Random], Any] = damaged_tree) -> bytes:
    data = path.read_bytes()
    if rng.random() < 0.5 or path.suffix != ".json":
        return damaged_bytes(data, rng)
    return _hostile(json.dumps(other(json.loads(data), rng)), rng).encode()


def _hostile(text: str, rng: random.Random) -> str:
    match rng.randrange(20):
        case 0:
            return text.replace("0", "9" * 5000, 1)
        case 1:
            return "[" * 200_000 + text
        case 2:
            return text[:-1] + ', "' + "x" * 6_000_000 + '": 1}'
        case 3:
            return text[:-1] + ', "surprise": [' + "0," * 2_000_000 + "0]}"
        case 4:
            return text.replace("16", "4096", 1)
        case _:
            return text


def _write(copy: Path, name: str, content: bytes) -> None:
    """Write a file, and what the manifest says of it."""
    (copy / name).write_bytes(content)
    document = json.loads((copy / _MANIFEST).read_bytes())
    document["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "num_bytes": len(content)}
    _write_manifest(copy, json.dumps(document).encode())


def _write_manifest(copy: Path, content: bytes) -> None:
    (copy / _MANIFEST).write_bytes(content)
    (copy / _HASH).write_text(f"{hashlib.sha256(content).hexdigest()}  {_MANIFEST}\n")
