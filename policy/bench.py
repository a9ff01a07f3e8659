"""`python -m policy.bench --bundle DIR`: the policy on streams of real test images, against what else one could do.

Network outcomes come from the bundle itself, condition by condition, and are cached by network; an interrupted run
goes on where it stopped. Times are this machine's; energy is simulated, since few machines have a counter.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from oat_runtime import SHIPPED_BUNDLE
from oat_runtime.bundle import Bundle
from oat_runtime.data import ImageSet, load_dataset, read_labelled_npz
from oat_runtime.devices import processor_name
from oat_runtime.errors import DataError, OATError
from oat_runtime.operating_point import OperatingPoint, OperatingTable
from oat_runtime.terminal import wide_console
from oat_runtime.timing import interleave, p50_p99
from policy.benchmark import hazards, trials
from policy.benchmark.outcomes import OutcomeCache, float32_runtime
from policy.benchmark.players import World
from policy.benchmark.stage import Effort, Stage
from policy.benchmark.streams import FRAME_S
from policy.config import PolicyConfig
from policy.estimator import EstimatorConstants

_SIMULATED_WATTS = 15.0
"""Power of the network while it runs, from which energies are simulated."""
_FULL = Effort(num_seeds=20, num_segments=10, num_false_alarm_frames=30_000, num_onsets=10, num_attacked=200)
_QUICK = Effort(
    num_seeds=2, num_segments=2, num_false_alarm_frames=200, num_onsets=1, num_attacked=8, severities=(4,),
    attacks=("pgd-10",),
)  # fmt: skip
_COUNT, _QUICK_COUNT = 250, 16


def profiled(bundle: Bundle, *, seconds: float, num_threads: int) -> OperatingTable:
    """The `select` table with this machine's latencies and simulated energies."""
    runtime = float32_runtime(bundle, num_threads=num_threads)
    table = bundle.select
    points = {width: OperatingPoint(table.lambdas[0], width) for width in table.widths}
    runtime.prepare(points.values())
    x_1CHW = np.zeros((1, 3, bundle.input.height, bundle.input.width), np.float32)
    taken = interleave(
        {width: lambda: runtime.infer(x_1CHW) for width in points},
        seconds=seconds,
        enter=lambda width: runtime.set_point(lam=points[width].lam, width=width),
    )
    runtime.close()
    times = {width: p50_p99(millis) for width, millis in taken.items()}
    rows = tuple(
        row.model_copy(
            update={
                "latency_ms_p50": times[row.width][0],
                # What the streams draw from has a spread of its own; the profile's tail is this machine's noise.
                "latency_ms_p99": 1.15 * times[row.width][0],
                "energy_j": _SIMULATED_WATTS * times[row.width][0] / 1e3,
            }
        )
        for row in table.rows
    )
    return table.with_rows(rows, device=f"{processor_name()}, simulated energy")


def run(stage: Stage, table: OperatingTable, *, log: Callable[[str], None]) -> None:
    """Play everything, naming each part as it begins."""
    widest = max(row.energy_j or 0.0 for row in table.rows)
    mission_s = 30.0 * max(2, stage.effort.num_segments // 2) * 300 * FRAME_S
    config = stage.config
    # Enough at the start for twice the full network at the camera's rate; see `streams.discharge` for how it falls.
    capacity_wh = 2.0 * widest / FRAME_S * mission_s / (0.7 * 3600 * config.perception_share)
    parts: list[tuple[str, Callable[[], None]]] = [
        ("mixture of all kinds", lambda: trials.mixture(stage, "all")),
        ("mixture of held-out kinds", lambda: trials.mixture(stage, "held-out")),
        ("detection", partial(trials.detection, stage)),
        ("false alarms", partial(trials.no_false_alarms, stage)),
        *((f"attacks: {attack}", partial(hazards.attacked, stage, attack)) for attack in stage.effort.attacks),
        ("attacks: noise and thrashing", partial(hazards.provocations, stage)),
        ("disturbances", partial(trials.disturbances, stage)),
        ("budgets", lambda: hazards.budgets(stage, table, capacity_wh=capacity_wh)),
        ("replay", partial(trials.replays, stage)),
        ("decision time", partial(trials.decision_time, stage)),
    ]
    for name, play in parts:
        started_s = time.perf_counter()
        play()
        log(f"{name}: {time.perf_counter() - started_s:.1f} s")


def fill(cache: OutcomeCache, log: Callable[[str], None], conditions: list[str]) -> None:
    """Compute what is missing of the cache, with progress."""
    started_s = time.perf_counter()
    for number, condition in enumerate(conditions, start=1):
        cache.corrupted(condition)
        if number % 10 == 0 or number == len(conditions):
            log(f"outcomes: {number} of {len(conditions)} conditions, {time.perf_counter() - started_s:.0f} s")


def read_images(path: Path | None) -> ImageSet:
    """Test images of an .npz, or of CIFAR-10 in the folder `path`, or where it lies if no folder is named.

    Raises:
        DataError: there is no such data set, or it is damaged.
    """
    if path is not None and path.suffix == ".npz":
        return read_labelled_npz(path)
    return load_dataset("cifar10", "test", root=path)


def show(console: Console, rows: list[dict[str, Any]], checks: list[dict[str, Any]]) -> None:
    """Both as tables."""
    table = Table(title="What was played")
    for column in ("trial", "player", "accuracy", "95 %", "worst segment", "else"):
        table.add_column(column)
    shown = ("accuracy", "low_95", "high_95", "worst_segment")
    for row in rows:
        interval = f"{100 * row['low_95']:.1f}–{100 * row['high_95']:.1f}" if row.get("low_95") is not None else ""
        rest = ", ".join(
            f"{name} {_short(value)}" for name, value in row.items() if name not in (*shown, "trial", "player")
        )
        share = {name: f"{100 * row[name]:.2f}" if row.get(name) is not None else "" for name in shown}
        table.add_row(row["trial"], row["player"], share["accuracy"], interval, share["worst_segment"], rest)
    console.print(table)
    verdicts = Table(title="Checks")
    for column in ("check", "value", "limit", "unit", "ok"):
        verdicts.add_column(column)
    for check in checks:
        mark = "yes" if check["ok"] else "[bold red]NO[/]"
        verdicts.add_row(check["name"], _short(check["value"]), _short(check["limit"]), check["unit"], mark)
    console.print(verdicts)


def _number(value: object) -> object:
    """JSON has no NaN: what was not measured is null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "never" if value is None else str(value)


def main(argv: list[str] | None = None) -> int:
    """Command line: 0 where all checks hold, 1 where one does not, 2 where nothing could be measured."""
    parser = argparse.ArgumentParser(prog="python -m policy.bench", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=SHIPPED_BUNDLE, help="default: the shipped one")
    parser.add_argument("--images", type=Path, help="test images: an .npz, or a folder that holds CIFAR-10")
    parser.add_argument("--config", type=Path, help="policy configuration (JSON), to tune one offline")
    parser.add_argument("--cache", type=Path, default=Path("runs/policy-bench"), help="outcomes (default: %(default)s)")
    parser.add_argument("--count", type=int, help="images under each corruption (default: 250; quick: 16)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--quick", action="store_true", help="a smoke run of under a minute; its figures mean nothing")
    options = parser.parse_args(argv)
    console = Console(stderr=True)
    started_s = time.perf_counter()
    try:
        bundle = Bundle.load(options.bundle)
        if bundle.estimator is None:
            raise DataError(f"{bundle.path} has no estimator: run `python -m policy.fit` first")
        constants = EstimatorConstants.model_validate(bundle.estimator)
        config = (
            PolicyConfig.model_validate_json(options.config.read_bytes())
            if options.config is not None
            else PolicyConfig()
        )
        data = read_images(options.images)
        effort, count = (_QUICK, _QUICK_COUNT) if options.quick else (_FULL, _COUNT)
        count = options.count or count
        cache = OutcomeCache(
            options.cache, bundle, data, count=count, num_attacked=effort.num_attacked, num_threads=options.threads
        )
        stage = Stage(World(cache, bundle.select), constants, config, effort)
        fill(cache, console.print, stage.conditions())
        table = profiled(bundle, seconds=0.5 if options.quick else 3.0, num_threads=options.threads)
        run(stage, table, log=console.print)
    except (OATError, OSError, ValidationError) as error:
        print(f"policy.bench: {error}", file=sys.stderr)
        return 2
    rows = [{name: _number(value) for name, value in row.items()} for row in stage.rows]
    show(wide_console(), rows, stage.checks)
    machine = {
        "processor": processor_name(), "threads": options.threads, "bundle": bundle.path.name,
        "bundle_sha256": bundle.sha256, "images": data.name, "images_per_condition": count,
        "energy": f"simulated, {_SIMULATED_WATTS:g} W while the network runs", "seeds": effort.num_seeds,
        "minutes": round((time.perf_counter() - started_s) / 60, 1),
    }  # fmt: skip
    print(json.dumps({"name": "policy.bench", "machine": machine, "rows": rows, "checks": stage.checks}))
    return 0 if all(check["ok"] for check in stage.checks) else 1


if __name__ == "__main__":
    sys.exit(main())
