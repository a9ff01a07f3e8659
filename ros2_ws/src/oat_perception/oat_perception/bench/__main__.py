"""`python -m oat_perception.bench [--bundle bundles/<name>] [--quick]`: measure the node from outside.

Images go over DDS to a node in another process, and its answers come back. This gives loss, latency, the node's share
of it, the peak rate, switches, malformed images, fallbacks, and the start of the process. In turns with the node, an
echo node shows how long transport alone takes, and this process shows how long the network alone takes.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar, get_args

from oat_perception.bench.checks import SizeFigures, StartFigures, checks, json_rows, tables
from oat_perception.bench.measure import FULL, QUICK, RATE_HZ, measure_control, measure_sizes, measure_starts
from oat_runtime import SHIPPED_BUNDLE
from oat_runtime.backends import BackendName
from oat_runtime.bundle import Bundle
from oat_runtime.commands import Parser, a_path, command
from oat_runtime.devices import processor_name
from oat_runtime.report import Report

Found = TypeVar("Found")


@command("oat_perception.bench")
def main(argv: list[str] | None = None) -> int:
    """Print tables for people, then one JSON line.

    The status is 2 if a part could not be measured, 1 if a check fails, otherwise 0.
    """
    parser = Parser(prog="oat_perception.bench", description=__doc__)
    parser.add_argument("--bundle", type=a_path, default=SHIPPED_BUNDLE, help="default: the shipped one")
    parser.add_argument("--backend", choices=("auto", *get_args(BackendName)), default="auto")
    parser.add_argument("--quick", action="store_true", help="one size, short stretches: under a minute")
    options = parser.parse_args(argv)
    Bundle.load(options.bundle)  # refused here in one line, not by each process that would load it
    extent = QUICK if options.quick else FULL
    # Nothing leaves this machine, and nothing of another graph comes in.
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ.setdefault("ROS_DOMAIN_ID", str(os.getpid() % 100 + 1))

    def apart(measure: Callable[..., Found], profile: str) -> Found:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            return process.submit(measure, options.bundle, profile, options.backend, extent).result()

    report = Report("oat_perception.bench")
    sizes, starts = list[SizeFigures](), list[StartFigures]()

    def of_images(profile: str) -> None:
        sizes.extend(apart(measure_sizes, profile))

    for profile in extent.profiles:
        report.measure(f"images under the {profile} profile", functools.partial(of_images, profile))
    control, parts = apart(measure_control, "shipped")
    report.failed |= parts.failed
    report.rows += parts.rows
    report.measure("starts", lambda: starts.append(apart(measure_starts, "shipped")))
    start = starts[0] if starts else StartFigures(0, options.backend)
    report.checks = checks(sizes, control, start)
    report.rows = [*json_rows(sizes, control, start), *report.rows]
    machine = {"cpu": processor_name(), "num_cores": len(os.sched_getaffinity(0))}
    title = f"{options.bundle.name}, {RATE_HZ:g} Hz, {options.backend}"
    return report.finish(machine, *tables(title, sizes, start), columns=150)


if __name__ == "__main__":
    sys.exit(main())
