"""Measure the accuracy tables of a bundle: a row for every trained λ and width, and the temperatures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from oat_runtime.bundle import Temperature, outcome_key
from oat_runtime.data import ImageSet
from oat_runtime.operating_point import AttackSpec, Measurement, OperatingPoint, OperatingRow, Regime
from oat_runtime.stress.corruptions import CORRUPTIONS
from training.augment import to_unit
from training.evaluation.cache import Bools, OutcomeCache
from training.evaluation.counting import (
    cached_outcomes,
    corrupted_sets,
    corruption_conditions,
    progress,
    proportion,
)
from training.network import OATNet, folded


@dataclass(frozen=True, slots=True)
class Conditions:
    """What to count at every operating point, and on which images."""

    clean: ImageSet
    attacked: ImageSet
    attack: AttackSpec
    corrupted: ImageSet
    kinds: tuple[str, ...]
    severities: tuple[int, ...]


def measure_point(
    model: OATNet, point: OperatingPoint, conditions: Conditions, cache: OutcomeCache
) -> dict[str, Bools]:
    """Return the outcomes of the folded float32 network of a point, by `outcome_key`, under every condition."""
    device = model.code_KD.device
    plain = folded(model, lam=point.lam, width=point.width)

    def count(data: ImageSet, attack: AttackSpec | None = None) -> Bools:
        return cached_outcomes(plain, point, data, attack=attack, cache=cache, device=device)

    found = {"clean": count(conditions.clean), conditions.attack.name: count(conditions.attacked, conditions.attack)}
    for condition, _, images in corrupted_sets(conditions.corrupted, conditions.kinds, conditions.severities):
        found[condition] = count(images)
    return {outcome_key(condition, point): correct_N for condition, correct_N in found.items()}


def row_of(point: OperatingPoint, outcomes: dict[str, Bools], conditions: Conditions) -> OperatingRow:
    """Return the table row of a point's outcomes."""
    regimes = {"clean": Regime.CLEAN, conditions.attack.name: Regime.ADVERSARIAL}
    named = corruption_conditions(conditions.kinds, conditions.severities)
    regimes |= {condition: CORRUPTIONS[kind].regime for condition, (kind, _) in named.items()}
    measurements = []
    for condition, regime in regimes.items():
        count = proportion(outcomes[outcome_key(condition, point)])
        measurements.append(
            Measurement(condition=condition, regime=regime, num_correct=count.num_correct, num_total=count.num_total)
        )
    return OperatingRow(lam=point.lam, width=point.width, measurements=tuple(measurements))


def measure_table(
    model: OATNet, conditions: Conditions, *, title: str, cache: OutcomeCache
) -> tuple[tuple[OperatingRow, ...], dict[str, Bools]]:
    """Return rows for every trained λ and width, and all outcomes by `outcome_key`; shows progress."""
    points = [OperatingPoint(lam, width) for lam in model.config.lambdas for width in model.config.widths]
    rows: list[OperatingRow] = []
    outcomes: dict[str, Bools] = {}
    for point in progress(points, title):
        of_point = measure_point(model, point, conditions, cache)
        rows.append(row_of(point, of_point, conditions))
        outcomes |= of_point
    return tuple(rows), outcomes


def fit_temperature(model: OATNet, point: OperatingPoint, data: ImageSet) -> Temperature:
    """Return the softmax temperature with the least cross-entropy on `data` (Guo et al. 2017), from a log grid."""
    device = model.code_KD.device
    plain = folded(model, lam=point.lam, width=point.width)
    with torch.no_grad():
        x_NCHW = to_unit(torch.from_numpy(data.images_NHWC).to(device))
        logits = torch.cat([plain(part) for part in torch.split(x_NCHW, 250)])
        y_N = torch.from_numpy(data.labels_N).to(device)
        grid = np.logspace(-1.0, 1.0, 201)
        losses = [torch.nn.functional.cross_entropy(logits / t, y_N).item() for t in grid]
    return Temperature(lam=point.lam, width=point.width, temperature=float(grid[np.argmin(losses)]))
