"""Measure the accuracy tables of a bundle: a row for every trained λ and width, and the temperatures; and show one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from rich.table import Table

from oat_runtime.bundle import Temperature, outcome_key
from oat_runtime.data import ImageSet
from oat_runtime.operating_point import (
    AttackSpec,
    Measurement,
    OperatingPoint,
    OperatingRow,
    OperatingTable,
    Proportion,
    Regime,
)
from oat_runtime.report import progress
from oat_runtime.stress.corruptions import CORRUPTIONS
from training.evaluation.cache import OutcomeCache
from training.evaluation.counting import Bools, batches, corrupted_sets, proportion
from training.evaluation.text_table import new_table, share


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
    cache: OutcomeCache, point: OperatingPoint, conditions: Conditions
) -> tuple[OperatingRow, dict[str, Bools]]:
    """Return the row of a point, and its outcomes by `outcome_key`, under every condition."""
    attack = conditions.attack
    found = [
        ("clean", Regime.CLEAN, cache.outcomes(point, conditions.clean)),
        (attack.name, Regime.ADVERSARIAL, cache.outcomes(point, conditions.attacked, attack=attack)),
    ]
    for kind, _, images in corrupted_sets(conditions.corrupted, conditions.kinds, conditions.severities):
        found.append((images.name, CORRUPTIONS[kind].regime, cache.outcomes(point, images)))
    measurements = []
    for condition, regime, correct_N in found:
        count = proportion(correct_N)
        measurements.append(
            Measurement(condition=condition, regime=regime, num_correct=count.num_correct, num_total=count.num_total)
        )
    row = OperatingRow(lam=point.lam, width=point.width, measurements=tuple(measurements))
    return row, {
        outcome_key(condition, point, precision=cache.precision): correct_N for condition, _, correct_N in found
    }


def measure_table(
    cache: OutcomeCache, conditions: Conditions, *, title: str
) -> tuple[tuple[OperatingRow, ...], dict[str, Bools]]:
    """Return rows for every trained λ and width, and all outcomes by `outcome_key`; shows progress."""
    config = cache.model.config
    rows: list[OperatingRow] = []
    outcomes: dict[str, Bools] = {}
    for point in progress([OperatingPoint(lam, width) for lam in config.lambdas for width in config.widths], title):
        row, of_point = measure_point(cache, point, conditions)
        rows.append(row)
        outcomes |= of_point
    return tuple(rows), outcomes


def accuracies(table: OperatingTable) -> Table:
    """Return a table for people: accuracy in per cent at the ends of λ, at the widest and the narrowest width."""
    shown = new_table("width", "λ", "clean", table.attack.name, "corrupted")
    shown.title = f"Accuracy on {table.split} images, %, ± the farther end of the 95 % interval"
    for width in dict.fromkeys((table.widths[-1], table.widths[0])):
        for lam in dict.fromkeys((table.lambdas[0], table.lambdas[-1])):
            row = table.row(OperatingPoint(lam, width))
            counts = (
                row.condition("clean"),
                row.condition(table.attack.name),
                Proportion.pooled(row.accuracy(r) for r in (Regime.HIGH_FREQUENCY, Regime.LOW_FREQUENCY)),
            )
            shown.add_row(f"{width:g}", f"{lam:g}", *map(share, counts))
    return shown


def fit_temperature(cache: OutcomeCache, point: OperatingPoint, data: ImageSet) -> Temperature:
    """Return the softmax temperature with the least cross-entropy on `data` (Guo et al. 2017), from a log grid."""
    device, plain = cache.model.code_KD.device, cache.plain(point)
    with torch.no_grad():
        logits = torch.cat([plain(x_NCHW) for x_NCHW, _ in batches(data, batch_size=250, device=device)])
        y_N = torch.from_numpy(data.labels_N).to(device)
        grid = np.logspace(-1.0, 1.0, 201)
        losses = [torch.nn.functional.cross_entropy(logits / t, y_N).item() for t in grid]
    return Temperature(lam=point.lam, width=point.width, temperature=float(grid[np.argmin(losses)]))
