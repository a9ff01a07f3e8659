"""Damaged decision logs, replayed by `oat-replay`."""

from __future__ import annotations

import contextlib
import io
import json
import random
from pathlib import Path

import numpy as np
from damage import damaged_bytes, damaged_tree

from oat_runtime import SHIPPED_BUNDLE
from oat_runtime.operating_point import OperatingPoint
from policy.config import PolicyConfig
from policy.controller import AdaptivePolicy
from policy.image import ImageStatistics
from policy.records.record import header_line, step_line
from policy.replay import main, read_bundle
from policy.signals import NetworkSignals, Override, Reading, Signals

NUM_CASES, NUM_SHORT = 2000, 60


def prepare(folder: Path) -> list[str]:
    rng, (table, constants, _) = np.random.default_rng(0), read_bundle(SHIPPED_BUNDLE)
    policy = AdaptivePolicy(table, PolicyConfig(), constants)
    lines = [header_line(policy)]
    for number in range(10):
        signals = Signals(
            0.1 * number,
            ImageStatistics(*rng.normal(0, 1, 12).tolist()),
            NetworkSignals(OperatingPoint(0.4, 1.0), float(rng.random()), bool(number % 2), 3.0, 0.03),
            Reading(float(rng.random()), 0.05, "confidence"),
            Reading(0.7, 0.4, "battery"),
            Override(0.8, 0.5) if number > 5 else None,
        )
        lines.append(step_line(signals, policy.step(signals)))
    return lines


def damage(whole: list[str], rng: random.Random, folder: Path) -> Path:
    lines, path = list(whole), folder / "decisions.jsonl"
    match rng.randrange(8):
        case 0 | 1:
            path.write_bytes(damaged_bytes("\n".join(lines).encode(), rng))
            return path
        case 2 | 3 | 4:
            at = rng.randrange(1, len(lines))
        case 5 | 6:
            at = 0
        case _:
            rng.shuffle(lines)
            path.write_text("\n".join(lines))
            return path
    lines[at] = json.dumps(damaged_tree(json.loads(lines[at]), rng))
    if rng.random() < 0.1:
        lines[at] = lines[at].replace("0.", "9" * 5000 + ".", 1)
    path.write_text("\n".join(lines) + "\n")
    return path


def read(whole: list[str], damaged: Path) -> None:
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        status = main([str(damaged), "--all"])
    if status == 2:
        from oat_runtime.errors import DataError

        raise DataError(said.getvalue().removesuffix("\n"))
    assert status in (0, 1)
