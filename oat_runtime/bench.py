"""`python -m oat_runtime.bench`: what setting λ and width costs, and how fast the runtime is; ratios in one process."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.table import Table

from oat_runtime import SHIPPED_BUNDLE
from oat_runtime.backends import BackendName, Precision, available, versions
from oat_runtime.backends.choice import has_amx
from oat_runtime.bench_latency import Latency
from oat_runtime.bench_memory import memory
from oat_runtime.bench_switch import stream, switches
from oat_runtime.data import load_dataset
from oat_runtime.devices import device_name, power_mode
from oat_runtime.errors import BackendError, DataError, OATError
from oat_runtime.runtime import OATRuntime
from oat_runtime.terminal import wide_console

Row = dict[str, Any]

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
}
"""The worst row of each comparison counts. "No slower" allows the 3 % that equal networks are allowed."""
_AGREEMENT = {
    "top1_agreement_bfloat16": "top1_agreement_percent",
    "sa_shift_bfloat16": "sa_shift_points",
    "ra_shift_bfloat16": "ra_shift_points",
}


def checks(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One check a figure: the worst row of each comparison. What was not measured is null and not ok."""
    result = []
    for name, (limit, unit) in LIMITS.items():
        if name in _AGREEMENT:
            values = [row.get(_AGREEMENT[name]) for row in rows if row["comparison"] == "agreement_bfloat16"]
        else:
            values = [row.get("value") for row in rows if row["comparison"] == name]
        at_least = "at least" in unit
        measured = [value for value in values if value is not None]
        value = (min if at_least else max)(measured) if measured and len(measured) == len(values) else None
        ok = value is not None and (value >= limit if at_least else value <= limit)
        result.append({"name": name, "value": value, "limit": limit, "unit": unit, "ok": ok})
    return result


def machine(runtime: OATRuntime) -> dict[str, Any]:
    """What the figures belong to."""
    return {
        "device": device_name(runtime.device),
        "cores": len(os.sched_getaffinity(0)),
        "amx": has_amx(),
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


def text_table(found: Sequence[dict[str, Any]], rows: Sequence[Row], title: str) -> Table:
    """The checks, and before each its rows with latencies, for people."""
    table = Table(title=title)
    table.add_column("comparison", no_wrap=True)
    for column in ("p50 ms", "against", "value", "limit"):
        table.add_column(column, justify="right", no_wrap=True)
    for check in found:
        for row in rows:
            if row["comparison"] != check["name"] or row.get("value") is None:
                continue
            place = [f"{key} {row[key]:g}" for key in ("batch", "width") if key in row]
            place += [f"λ={row['lambda']:g}"] if row.get("lambda") is not None else []
            times = [f"{row[key]:.2f}" if key in row else "" for key in ("p50_ms", "baseline_p50_ms")]
            table.add_row(
                "  " + " ".join(place or [row.get("network", "")]), *times, f"{row['value']:.3f}", style="dim"
            )
        value = "not measured" if check["value"] is None else f"{check['value']:.4g}"
        colour = "green" if check["ok"] else "red"
        sign = "≥" if "at least" in check["unit"] else "≤"
        limit = f"{sign} {check['limit']:g} {check['unit'].split()[0]}"
        table.add_row(check["name"], "", "", f"[{colour}]{value}[/]", limit, end_section=True)
    return table


def _accuracy(runtime: OATRuntime, args: argparse.Namespace) -> list[Row]:
    """Agreement of the runtime's own precision, and of bfloat16 where that works."""
    num_images, num_attacked = (100, 20) if args.quick else (2000, 500)
    dataset = runtime.bundle.manifest.provenance.dataset
    try:
        if "torch" not in available():
            raise DataError("the reference needs torch: pip install 'oat-robot[torch]'")
        if dataset != "cifar10":
            raise DataError(f"the bundle was not trained on cifar10 but on {dataset}")
        from oat_runtime.bench_accuracy import agreement  # torch's gradients attack the reference

        data = load_dataset("cifar10", "test", root=args.data, limit=num_images)
    except DataError as error:
        return [{"comparison": "agreement_bfloat16", "not_measured": str(error)}]
    rows = agreement(runtime, data.images_NHWC, data.labels_N, num_attacked=num_attacked)
    if runtime.precision == "bfloat16":
        return rows
    backend: BackendName = "openvino" if runtime.device == "cpu" else runtime.backend  # the one that is fast in it
    try:
        other = OATRuntime(
            runtime.bundle,
            device=runtime.device,
            backend=backend,
            precision="bfloat16",
            num_threads=runtime.num_threads,
        )
    except BackendError as error:
        return [*rows, {"comparison": "agreement_bfloat16", "not_measured": str(error)}]
    rows += agreement(other, data.images_NHWC, data.labels_N, num_attacked=num_attacked)
    other.close()
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Command line. The status says whether the benchmark ran; the checks say what it found."""
    parser = argparse.ArgumentParser(prog="python -m oat_runtime.bench", description=main.__doc__)
    parser.add_argument("bundle", type=Path, nargs="?", default=SHIPPED_BUNDLE, help="default: the shipped one")
    parser.add_argument(
        "--quick", action="store_true", help="under a minute on an idle machine, with less sure figures"
    )
    parser.add_argument("--backend", choices=("auto", *get_args(BackendName)), default="auto")
    parser.add_argument("--precision", choices=("auto", *get_args(Precision)), default="auto")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, help="CPU threads of the network (default: all of this process)")
    parser.add_argument(
        "--data", type=Path, help="folder that holds CIFAR-10 (default: $OAT_DATA, else ../shared/data, else the cache)"
    )
    args = parser.parse_args(argv)
    try:
        runtime = OATRuntime.load(
            args.bundle, device=args.device, backend=args.backend, precision=args.precision, num_threads=args.threads
        )
        latency = Latency(runtime, seconds=QUICK_SECONDS if args.quick else FULL_SECONDS, quick=args.quick)
        num_switches = 100 if args.quick else 2000
        parts: dict[str, Callable[[], list[Row]]] = {
            "plans against a static network": latency.plans_over_static,
            "infer against the bare engine": latency.infer_over_bare,
            "infer against static networks on other engines": latency.auto_over_static_engines,
            "switches": lambda: switches(runtime, num_switches=num_switches),
            "switches under a stream": lambda: stream(runtime, num_switches=20 if args.quick else 200),
            "memory": lambda: _memory(args.bundle, latency, runtime, quick=args.quick),
            "agreement with the reference": lambda: _accuracy(runtime, args),
        }
        rows: list[Row] = []
        progress = Console(stderr=True)
        for title, measure in parts.items():
            started_s = time.monotonic()
            with progress.status(title):
                rows += measure()
            progress.print(f"{title}: {time.monotonic() - started_s:.0f} s", style="dim")
        about = machine(runtime)
        runtime.close()
    except OATError as error:
        print(f"oat_runtime.bench: {error}", file=sys.stderr)
        return 2
    found = checks(rows)
    title = (
        f"{about['bundle']} on {about['device']}, {about['backend']} {about['precision']}, {about['threads']} threads"
    )
    console = wide_console()
    console.print(text_table(found, rows, title))
    for row in rows:
        if "not_measured" in row:
            console.print(f"{row['comparison']}: not measured: {row['not_measured']}", markup=False)
    print(json.dumps({"name": "oat_runtime", "machine": about, "rows": rows, "checks": found}))
    return 0


def _memory(bundle: Path, latency: Latency, runtime: OATRuntime, *, quick: bool) -> list[Row]:
    """The bundle's network, and in a full run a large untrained one, with each form of plans."""
    if quick:
        return memory(bundle, latency.settings, runtime.backend, forms=("shared",))
    return [
        row
        for network in (bundle, None)
        for row in memory(network, latency.settings, runtime.backend, forms=("shared", "folded"))
    ]


if __name__ == "__main__":
    sys.exit(main())
