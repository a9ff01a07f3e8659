"""`python -m oat_perception.bench [--bundle bundles/<name>] [--quick]`: measure the node from outside.

Images go over DDS to a node in another process, and its answers come back. This gives loss, latency, the node's share
of it, the peak rate, switches, malformed images, fallbacks, and the start of the process. In turns with the node, an
echo node shows how long transport alone takes, and this process shows how long the network alone takes.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar, get_args

from oat_perception.bench.checks import Problems, SizeFigures, StartFigures, checks, json_rows, show
from oat_perception.bench.measure import FULL, QUICK, RATE_HZ, measure_control, measure_sizes, measure_starts
from oat_runtime import SHIPPED_BUNDLE
from oat_runtime.backends import BackendName
from oat_runtime.bundle import Bundle
from oat_runtime.commands import Parser, a_path, command
from oat_runtime.report import print_json

Found = TypeVar("Found")


@command("oat_perception.bench")
def main(argv: list[str] | None = None) -> int:
    """Print a table for people, then one JSON line. Return 1 if a figure could not be measured; stderr says why."""
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

    problems = Problems()
    sizes: list[SizeFigures] = []
    for profile in extent.profiles:
        with problems.suppressed(f"images under the {profile} profile"):
            sizes += apart(measure_sizes, profile)
    control, missing = apart(measure_control, "shipped")
    start = StartFigures(0, options.backend)
    with problems.suppressed("starts"):
        start = apart(measure_starts, "shipped")
    found = checks(sizes, control, start)
    show(f"{options.bundle.name}, {RATE_HZ:g} Hz, {options.backend}", sizes, start, found)
    machine = {"cpu": platform.processor() or platform.machine(), "num_cores": len(os.sched_getaffinity(0))}
    rows = json_rows(sizes, control, start)
    print_json("oat_perception.bench", machine=machine, rows=rows, checks=found)
    return int(bool(problems.reasons or missing))


if __name__ == "__main__":
    sys.exit(main())
