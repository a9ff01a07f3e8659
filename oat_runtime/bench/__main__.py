"""Measure what setting λ and width costs, and how fast the runtime is: `python -m oat_runtime.bench`."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import get_args

from oat_runtime import SHIPPED_BUNDLE
from oat_runtime.backends import BackendName, Precision, available, versions
from oat_runtime.backends.trials import shows
from oat_runtime.bench.accuracy import accuracy
from oat_runtime.bench.int8 import Int8
from oat_runtime.bench.latency import Latency
from oat_runtime.bench.memory import memory
from oat_runtime.bench.switch import stream, switches
from oat_runtime.bundle import LossBound
from oat_runtime.commands import Parser, a_count, a_path, command
from oat_runtime.devices import device_name, power_mode
from oat_runtime.plans import PlanForm
from oat_runtime.report import Check, Report, Row, checks_of, text_table
from oat_runtime.runtime import OATRuntime

QUICK_SECONDS, FULL_SECONDS = 0.5, 12.0
"""Measuring time of each comparison at one width, of single images; batches, which are slower, get three times that."""
LIMITS = {
    "folded_over_static": (1.03, "× at most"),
    "shared_over_static": (1.08, "× at most"),
    "infer_over_bare_engine": (1.05, "× at most"),
    "auto_over_openvino": (1.03, "× at most"),
    "auto_over_onnxruntime": (1.03, "× at most"),
    "switch_prepared_p99": (200.0, "µs at most"),
    "first_inference_after_switch_p99": (1.5, "× at most"),
    "stream_frames_lost_or_mixed": (0.0, "frames at most"),
    "stream_p99_over_quiet_median": (2.0, "× at most"),
    "memory_shared_over_static": (3.0, "× at most"),
    "top1_agreement_bfloat16": (99.8, "% at least"),
    "sa_shift_bfloat16": (0.2, "points at most"),
    "ra_shift_bfloat16": (0.5, "points at most"),
    "int8_speedup_full_width": (2.4, "× at least"),
    "int8_speedup_full_width_cpu": (2.4, "× at least"),
    "int8_speedup_half_width": (1.9, "× at least"),
    "int8_speedup_half_width_cpu": (1.9, "× at least"),
    "int8_over_fastest_static_1": (1.05, "× at most"),
    "int8_over_fastest_static_1_cpu": (1.05, "× at most"),
    "int8_over_fastest_static_32": (1.08, "× at most"),
    "int8_over_fastest_static_32_cpu": (1.08, "× at most"),
    "switch_prepared_p99_int8": (200.0, "µs at most"),
    "int8_weights_over_static": (3.0, "× at most"),
}
"""The worst row of each comparison counts. "No slower" allows the 3 % that equal networks are allowed."""
QUICK = ("switch_prepared_p99", "stream_frames_lost_or_mixed", "memory_shared_over_static")
"""The checks that a quick run can decide. Its median ratios have a standard error of some 2 %, as large as their limits
allow. The 99th percentile of 50 frames is the slowest one, and one of 100 images is a whole point."""
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "float16")
"""Those of the shared plans, which every part but that of int8 measures."""
_AGREEMENT = {
    "top1_agreement_bfloat16": "top1_agreement_percent",
    "sa_shift_bfloat16": "sa_shift_points",
    "ra_shift_bfloat16": "ra_shift_points",
}


def checks(rows: Sequence[Row], names: Iterable[str] = tuple(LIMITS)) -> list[Check]:
    """Return one check for each figure; a row of agreement has three."""
    agreements = [row for row in rows if row.get("comparison") == "agreement_bfloat16"]
    figures = [{"comparison": name, "value": row.get(key)} for row in agreements for name, key in _AGREEMENT.items()]
    return checks_of([*rows, *figures], {name: LIMITS[name] for name in names})


def machine(runtime: OATRuntime) -> Row:
    """Describe the machine and the settings that the figures belong to."""
    return {
        "device": device_name(runtime.device),
        "cores": len(os.sched_getaffinity(0)),
        "amx": shows("amx_bf16"),
        "power_mode": power_mode(),
        "load_average_1_min": os.getloadavg()[0],
        "threads": runtime.num_threads,
        "backend": versions(runtime.backend),
        "precision": runtime.precision,
        "plans": runtime.plans,
        "engines": [versions(name) for name in available(runtime.device)],
        "python": platform.python_version(),
        "bundle": runtime.bundle.manifest.name,
        "bundle_sha256": runtime.bundle.sha256,
    }


def _cells(row: Row) -> tuple[object, ...]:
    """Return the table cells of one comparison."""
    place = [f"{key} {row[key]:g}" for key in ("batch", "width", "lambda") if row.get(key) is not None]
    where = ", ".join(place) or row.get("network", "")
    return row["comparison"], where, row.get("p50_ms", ""), row.get("baseline_p50_ms", ""), row["value"]


@command("oat_runtime.bench")
def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line. The status is 2 if a part could not be measured, 1 if a check fails, otherwise 0."""
    parser = Parser(prog="python -m oat_runtime.bench", description=main.__doc__)
    parser.add_argument("bundle", type=a_path, nargs="?", default=SHIPPED_BUNDLE, help="default: the shipped one")
    parser.add_argument("--quick", action="store_true", help="under a minute on an idle machine; decides less")
    parser.add_argument("--backend", choices=("auto", *get_args(BackendName)), default="auto")
    parser.add_argument("--precision", choices=("auto", *PRECISIONS), default="auto", help="int8 has a part of its own")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=a_count, help="CPU threads of the network (default: all of this process)")
    parser.add_argument(
        "--data",
        type=a_path,
        help="folder that holds CIFAR-10 (default: $OAT_DATA, else ../shared/data, else the cache)",
    )
    args = parser.parse_args(argv)
    runtime = OATRuntime.load(
        args.bundle, device=args.device, backend=args.backend, precision=args.precision, num_threads=args.threads,
        int8_loss=LossBound(sa_points=-100.0, ra_points=-100.0),  # no int8: it has a part of its own
    )  # fmt: skip
    report = Report("oat_runtime")
    latency = Latency(runtime, seconds=QUICK_SECONDS if args.quick else FULL_SECONDS, quick=args.quick)
    networks: list[Path | None] = [args.bundle] if args.quick else [args.bundle, None]
    forms: list[PlanForm] = ["shared"] if args.quick else ["shared", "folded"]
    num_images, num_attacked = (100, 20) if args.quick else (2000, 500)
    parts: dict[str, Callable[[], list[Row]]] = {
        "plans against a static network": latency.plans_over_static,
        "infer against the bare engine": latency.infer_over_bare,
        "infer against static networks on other engines": latency.auto_over_static_engines,
        "switches": lambda: switches(runtime, num_switches=300 if args.quick else 2000),
        "switches under a stream": lambda: stream(runtime, num_switches=20 if args.quick else 200),
        "memory": lambda: memory(networks, latency.settings, runtime.backend, forms=forms),
        "int8 against float32 and static networks": Int8(
            runtime.bundle, num_threads=runtime.num_threads, seconds=latency.seconds, root=args.data, quick=args.quick
        ).rows,
        "agreement with the reference": lambda: accuracy(
            runtime, root=args.data, num_images=num_images, num_attacked=num_attacked
        ),
    }
    for title, measure in parts.items():
        report.measure(title, measure)
    about = machine(runtime)
    runtime.close()
    report.checks = checks(report.rows, QUICK if args.quick else LIMITS)
    report.num_left_out = len(LIMITS) - len(report.checks)
    title = f"{about['bundle']} on {about['device']}, {about['backend']} {about['precision']}"
    columns = ("comparison", "where", "p50 ms", "against", "value")
    figures = [_cells(row) for row in report.rows if row.get("value") is not None]
    return report.finish(about, text_table(f"{title}, {about['threads']} threads", columns, figures))


if __name__ == "__main__":
    sys.exit(main())
