"""Benchmark the policy on streams of test images, against other rules: `python -m policy.bench --bundle DIR`.

The network's predictions are computed once for each condition and stored, so an interrupted run goes on where it
stopped. Times are this machine's. Energy is simulated, because few machines have a counter.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.table import Table

from oat_runtime import SHIPPED_BUNDLE
from oat_runtime.bundle import Bundle
from oat_runtime.commands import Parser, a_count, a_path, command, output_folder
from oat_runtime.data import load_dataset, read_labelled_npz
from oat_runtime.devices import processor_name
from oat_runtime.errors import DataError
from oat_runtime.files import read_model
from oat_runtime.operating_point import OperatingTable
from oat_runtime.report import Check, Report, Row, progress, text_table
from oat_runtime.text import changed_names
from policy.belief.constants import constants_of
from policy.bench import hazards, trials
from policy.bench.days.run import QUICK as QUICK_DAYS
from policy.bench.days.run import Effort as Days
from policy.bench.days.run import play_days, tables
from policy.bench.profiles import SIMULATED_WATTS, profiled
from policy.bench.recorded_network import RecordedNetwork
from policy.bench.stage import Effort, Stage
from policy.config import PolicyConfig

_FULL = Effort(num_seeds=20, num_segments=10, num_clean_frames=30_000, num_onsets=10, num_attacked=200)
_QUICK = Effort(
    num_seeds=2, num_segments=2, num_clean_frames=200, num_onsets=1, num_attacked=8, severities=(4,),
    attacks=("pgd-10",),
)  # fmt: skip
_COUNT, _QUICK_COUNT = 250, 16


def run(stage: Stage, table: OperatingTable) -> None:
    """Run all trials. If a part fails, one check that was not measured stands for its checks."""
    parts: dict[str, Callable[[], None]] = {
        "mixture of all kinds": partial(trials.mixture, stage, "all"),
        "mixture of held-out kinds": partial(trials.mixture, stage, "held-out"),
        "detection": partial(trials.detection, stage),
        "false alarms": partial(trials.no_false_alarms, stage),
        **{f"attacks: {attack}": partial(hazards.attacked, stage, attack) for attack in stage.effort.attacks},
        "attacks: noise and thrashing": partial(hazards.provocations, stage),
        "disturbances": partial(trials.disturbances, stage),
        "budgets": partial(hazards.budgets, stage, table),
        "replay": partial(trials.replays, stage),
        "decision time": partial(trials.decision_time, stage),
    }
    for name, play in parts.items():
        if not stage.report.measure(name, play):
            stage.report.checks.append(Check(name, None, 0.0, "part", ok=False))


def played(rows: list[Row]) -> Table:
    """Return the figures as a table for people."""
    shown = ("accuracy", "low_95", "high_95", "worst_segment")
    cells = []
    for row in rows:
        percent = {name: "" if row.get(name) is None else f"{100 * row[name]:.1f}" for name in shown}
        interval = f"{percent['low_95']}–{percent['high_95']}" if percent["low_95"] else ""
        others = {name: value for name, value in row.items() if name not in (*shown, "trial", "player")}
        rest = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in others.items())
        cells.append(
            (row.get("trial"), row.get("player"), percent["accuracy"], interval, percent["worst_segment"], rest)
        )
    return text_table("What was played", ("trial", "player", "accuracy", "95 %", "worst segment", "else"), cells)


def _about(bundle: Bundle, threads: int, started_s: float) -> Row:
    return {
        "processor": processor_name(),
        "threads": threads,
        "bundle": bundle.path.name,
        "bundle_sha256": bundle.sha256,
        "energy": f"simulated, {SIMULATED_WATTS:g} W while the network runs",
        "minutes": round((time.perf_counter() - started_s) / 60, 1),
    }


@command("policy.bench")
def main(argv: list[str] | None = None) -> int:
    """Run from the command line; return 0 if all checks hold, 1 if one fails, 2 if something was not measured."""
    parser = Parser(prog="python -m policy.bench", description=__doc__)
    parser.add_argument("--bundle", type=a_path, default=SHIPPED_BUNDLE, help="default: the shipped one")
    parser.add_argument(
        "--images",
        type=a_path,
        help="test images: an .npz with labels, or the folder that holds the bundle's data set",
    )
    parser.add_argument("--config", type=a_path, help="policy configuration (JSON), to tune one offline")
    parser.add_argument(
        "--cache", type=output_folder, default=Path("runs/policy-bench"), help="outcomes (default: %(default)s)"
    )
    parser.add_argument(
        "--count", type=a_count, help="images a corruption (default: 250; quick: 16); under 100 decide less"
    )
    parser.add_argument("--threads", type=a_count, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--days",
        action="store_true",
        help="play real days: sessions of frames with boxes, venue after venue",
    )
    parser.add_argument("--quick", action="store_true", help="a smoke run of under a minute, which decides less")
    options = parser.parse_args(argv)
    started_s = time.perf_counter()
    bundle = Bundle.load(options.bundle)
    if bundle.estimator is None:
        raise DataError(f"{bundle.path} has no estimator: run `python -m policy.fit` first")
    constants = constants_of(bundle.estimator, where=bundle.path)
    config = PolicyConfig()
    if options.config is not None:
        config = read_model(PolicyConfig, options.config, what="a policy configuration")
    if options.days:
        report = Report("policy.bench.days")
        effort = QUICK_DAYS if options.quick else Days()
        finding = play_days(
            report, bundle, constants, config,
            root=options.images, cache=options.cache, effort=effort, num_threads=options.threads,
        )  # fmt: skip
        print(finding)
        about = _about(bundle, options.threads, started_s) | {"images": bundle.report.dataset}
        return report.finish(about, *tables(report.rows), finding=finding)
    is_npz = options.images is not None and options.images.suffix == ".npz"
    if is_npz:
        data = read_labelled_npz(options.images)
    else:
        data = load_dataset(
            bundle.report.dataset,
            "test",
            root=options.images,
            resize=bundle.input.resize,
            skip_broken=bundle.manifest.provenance.recipe.get("skip_broken") is True,
        )
    if data.class_names not in ((), bundle.class_names):
        raise DataError(
            f"{data.name}: expected the classes of {bundle.path.name}, in their order; "
            f"{changed_names(bundle.class_names, data.class_names)}: name its own test images with --images"
        )
    streams = _QUICK if options.quick else _FULL
    count = options.count or (_QUICK_COUNT if options.quick else _COUNT)
    network = RecordedNetwork(
        options.cache,
        bundle,
        data,
        count=count,
        num_attacked=streams.num_attacked,
        num_clean=streams.num_clean_frames,
        num_threads=options.threads,
    )
    stage = Stage(Report("policy.bench"), network, constants, config, streams)
    for condition in progress(stage.conditions(), "the network"):
        network.predictions(condition)
    table = profiled(bundle, seconds=0.5 if options.quick else 3.0, num_threads=options.threads)
    run(stage, table)
    about = _about(bundle, options.threads, started_s) | {
        "images": data.name,
        "images_per_condition": network.count,
        "seeds": streams.num_seeds,
    }
    return stage.report.finish(about, played(stage.report.rows))


if __name__ == "__main__":
    sys.exit(main())
