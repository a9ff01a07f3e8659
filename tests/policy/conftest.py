"""A realistic table, small fitted constants, and signals: what every policy test starts from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from oat_runtime.architecture import InputSpec, ModelConfig
from oat_runtime.bundle import Bundle, Provenance, Temperature
from oat_runtime.bundle.writer import save_bundle
from oat_runtime.operating_point import AttackSpec, Measurement, OperatingRow, OperatingTable, Regime
from oat_runtime.untrained import untrained_tensors
from policy.belief.constants import PRIOR, EstimatorConstants, ImageKind, NetworkRates
from policy.image import ImageStatistics

Accuracy = dict[Regime, dict[float, float]]
# Shaped like public results: robustness helps under noise and attack, and costs accuracy clean and under fog.
_ACCURACY: Accuracy = {
    Regime.CLEAN: {0.0: 0.86, 0.1: 0.85, 0.2: 0.84, 0.3: 0.83, 0.4: 0.82, 1.0: 0.74},
    Regime.HIGH_FREQUENCY: {0.0: 0.55, 0.1: 0.63, 0.2: 0.65, 0.3: 0.67, 0.4: 0.68, 1.0: 0.66},
    Regime.LOW_FREQUENCY: {0.0: 0.76, 0.1: 0.74, 0.2: 0.71, 0.3: 0.68, 0.4: 0.65, 1.0: 0.48},
    Regime.ADVERSARIAL: {0.0: 0.02, 0.1: 0.15, 0.2: 0.21, 0.3: 0.25, 0.4: 0.28, 1.0: 0.38},
}
# Fog costs λ=1 more than an attack costs λ=0.4. So the safest λ is neither the first nor the last.
_FOGGY = _ACCURACY | {Regime.LOW_FREQUENCY: _ACCURACY[Regime.LOW_FREQUENCY] | {1.0: 0.20}}
_WIDTH_COST = {0.5: 0.035, 0.75: 0.012, 1.0: 0.0}
_LATENCY_MS = {0.5: 2.0, 0.75: 3.5, 1.0: 5.0}
_NUM_IMAGES = 2000


def _row(lam: float, width: float, *, profiled: bool, accuracy: Accuracy) -> OperatingRow:
    measurements = tuple(
        Measurement(
            condition=regime.value,
            regime=regime,
            num_correct=round(max(0.0, by_lam[lam] - _WIDTH_COST[width]) * _NUM_IMAGES),
            num_total=_NUM_IMAGES,
        )
        for regime, by_lam in accuracy.items()
    )
    if not profiled:
        return OperatingRow(lam=lam, width=width, measurements=measurements)
    return OperatingRow(
        lam=lam,
        width=width,
        measurements=measurements,
        latency_ms_p50=_LATENCY_MS[width],
        latency_ms_p99=1.5 * _LATENCY_MS[width],
        energy_j=0.01 * _LATENCY_MS[width],
    )


def make_table(*, profiled: bool = False, name: str = "select", accuracy: Accuracy = _ACCURACY) -> OperatingTable:
    return OperatingTable(
        name=name,  # type: ignore[arg-type]
        dataset="synthetic",
        split="validation",
        attack=AttackSpec(name="pgd-20", epsilon=8 / 255, step_size=2 / 255, num_steps=20),
        rows=tuple(
            _row(lam, width, profiled=profiled, accuracy=accuracy)
            for lam in accuracy[Regime.CLEAN]
            for width in _WIDTH_COST
        ),
        bundle_sha256="ab" * 32,
        device="test-cpu" if profiled else "",
    )


# One statistics vector for each regime, two standard deviations or more apart from the others.
TYPICAL = {
    Regime.CLEAN: ImageStatistics(*[0.0] * 12),
    Regime.HIGH_FREQUENCY: ImageStatistics(*[2.0] * 4, *[0.0] * 8),
    Regime.LOW_FREQUENCY: ImageStatistics(*[0.0] * 8, *[2.0] * 4),
}


def make_constants() -> EstimatorConstants:
    identity = tuple(np.eye(12)[np.tril_indices(12)].tolist())
    means = {**TYPICAL, Regime.ADVERSARIAL: TYPICAL[Regime.CLEAN]}
    low = {Regime.CLEAN: 0.1, Regime.HIGH_FREQUENCY: 0.3, Regime.LOW_FREQUENCY: 0.3, Regime.ADVERSARIAL: 0.3}
    differs = {Regime.CLEAN: 0.2, Regime.HIGH_FREQUENCY: 0.35, Regime.LOW_FREQUENCY: 0.35, Regime.ADVERSARIAL: 0.9}
    return EstimatorConstants(
        statistics=ImageStatistics._fields,
        kinds=tuple(
            ImageKind(name=regime.value, regime=regime, mean=tuple(mean), whitening=identity)
            for regime, mean in means.items()
        ),
        outlier_log_density=-40.0,
        prior=PRIOR,
        network=tuple(NetworkRates(lam=lam, low_confidence=low, disagreement=differs) for lam in (0.0, 1.0)),
    )


def _scenes(count: int, *, seed: int) -> np.ndarray:
    """Random smooth scenes with texture, uint8 NHWC."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        smooth = cv2.resize(rng.random((6, 6, 3)), (32, 32), interpolation=cv2.INTER_CUBIC)
        grain = cv2.resize(rng.normal(0, 0.05, (24, 24)), (32, 32), interpolation=cv2.INTER_LINEAR)[..., None]
        images.append(np.clip((smooth * rng.uniform(0.5, 1.0) + grain) * 255, 0, 255).astype(np.uint8))
    return np.stack(images)


def _corrupt_scene(image_HWC: np.ndarray, name: str, severity: int, *, rng: np.random.Generator) -> np.ndarray:
    """`noise` or `haze`."""
    if name == "noise":
        changed = image_HWC + rng.normal(0, 6.0 * severity, image_HWC.shape)
    else:
        changed = image_HWC * (1 - 0.12 * severity) + 200 * 0.12 * severity
    return np.clip(changed, 0, 255).astype(np.uint8)


def _tiny_bundle(path: Path, table: OperatingTable, report: OperatingTable, make_probe: Callable[..., Any]) -> Bundle:
    """A real bundle with an untrained network."""
    config = ModelConfig(depth=10, widen_factor=1, lambdas=table.lambdas, widths=table.widths)
    tensors, spec = untrained_tensors(config), InputSpec(height=32, width=32)
    return save_bundle(
        path,
        tensors,
        config,
        probe=make_probe(tensors, config, spec),
        name="tiny",
        class_names=tuple("abcdefghij"),
        input_spec=spec,
        provenance=Provenance(
            dataset="none", dataset_sha256="", recipe={}, seed=0, commit="", hardware="", train_minutes=0
        ),
        temperatures=tuple(Temperature(lam=row.lam, width=row.width, temperature=1.0) for row in table.rows),
        select=table,
        report=report,
        outcomes={},
    )


@pytest.fixture(scope="session")
def table() -> OperatingTable:
    return make_table()


@pytest.fixture(scope="session")
def profiled_table() -> OperatingTable:
    return make_table(profiled=True)


@pytest.fixture(scope="session")
def foggy_table() -> OperatingTable:
    """A profiled table whose safest λ is 0.4."""
    return make_table(profiled=True, accuracy=_FOGGY)


@pytest.fixture(scope="session")
def report_table() -> OperatingTable:
    return make_table(name="report")


@pytest.fixture(scope="session")
def constants() -> EstimatorConstants:
    return make_constants()


@pytest.fixture(scope="session")
def typical() -> dict[Regime, ImageStatistics]:
    return TYPICAL


@pytest.fixture(scope="session")
def scenes() -> Callable[..., np.ndarray]:
    return _scenes


@pytest.fixture(scope="session")
def corrupt_scene() -> Callable[..., np.ndarray]:
    return _corrupt_scene


@pytest.fixture(scope="session")
def tiny_bundle(
    tmp_path_factory: pytest.TempPathFactory,
    table: OperatingTable,
    report_table: OperatingTable,
    make_probe: Callable[..., Any],
) -> Callable[[], Bundle]:
    """A maker of fresh bundles with an untrained network."""
    return lambda: _tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny", table, report_table, make_probe)
