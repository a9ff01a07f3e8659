"""`python -m oat_runtime.bench`: what setting λ and width costs, and how fast the runtime is; ratios in one process."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import random
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from oat_runtime.backends import BackendName, Precision, get_backend
from oat_runtime.backends.plan import Plan
from oat_runtime.errors import ConfigError, OATError
from oat_runtime.layers import LambdaBatch
from oat_runtime.operating_point import OperatingPoint
from oat_runtime.profile import processor_name
from oat_runtime.runtime import OATRuntime
from oat_runtime.static_net import StaticNet
from oat_runtime.timing import interleave, median_ratio, p50_p99

Row = dict[str, Any]
Images = npt.NDArray[np.float32]

BATCHES = (1, 32)
QUICK_SECONDS, FULL_SECONDS = 1.0, 10.0
"""Measuring time of each comparison of one width and batch."""
LIMITS = {
    "switch_prepared_p99": (200.0, "µs at most"),
    "lambda_over_lambda_0": (1.03, "× at most"),
    "folded_over_static": (1.03, "× at most"),
    "infer_over_bare_engine": (1.05, "× at most"),
}
"""Worst row of each comparison."""
SPEEDUP_LIMITS: dict[Precision, dict[int, float]] = {"float32": {1: 1.5, 32: 1.3}, "bfloat16": {1: 3.0, 32: 3.0}}
"""Least speed-up over the reference, by batch."""


class Bench:
    """The comparisons of one runtime. Each gives its rows."""

    def __init__(self, runtime: OATRuntime, *, seconds: float) -> None:
        """Prepare every point that is used; `seconds` for each comparison."""
        self.runtime, self.seconds = runtime, seconds
        self.model = runtime.bundle.model()
        self.widths = self.model.config.widths
        knots = self.model.config.lambdas
        unseen = (knots[-2] + knots[-1]) / 2 if len(knots) > 1 else knots[-1]
        self.lambdas = tuple(sorted({knots[0], knots[max(0, len(knots) - 2)], round(unseen, 6), knots[-1]}))
        runtime.prepare(OperatingPoint(lam, width) for width in self.widths for lam in self.lambdas)

    def switch_prepared(self) -> list[Row]:
        """(a) Time of `set_point` between prepared points, with an inference in between as on a robot."""
        order = random.Random(0)
        points = [OperatingPoint(lam, width) for width in self.widths for lam in self.lambdas]
        x_NCHW = self._images(1)
        times_ms: list[float] = []
        end_s = time.perf_counter() + self.seconds
        while time.perf_counter() < end_s or len(times_ms) < 200:
            point = order.choice(points)
            started_s = time.perf_counter()
            self.runtime.set_point(lam=point.lam, width=point.width)
            times_ms.append(1e3 * (time.perf_counter() - started_s))
            self.runtime.infer(x_NCHW)
        p50, p99 = p50_p99(np.array(times_ms))
        row = {"comparison": "switch_prepared_p99", "num_calls": len(times_ms), "p50_us": 1e3 * p50, "value": 1e3 * p99}
        return [row]

    def lambda_over_lambda_0(self) -> list[Row]:
        """(b) Every λ against the first one (0) at the same width; there is nothing to compare with only one λ."""
        first, *others = self.lambdas
        rows = []
        for batch, width in self._grid():
            times = interleave(
                dict.fromkeys(self.lambdas, self._infer(batch)),
                enter=partial(self._enter, width),
                seconds=self.seconds,
            )
            rows += [
                self._row("lambda_over_lambda_0", batch, width, times[lam], times[first], lam=lam) for lam in others
            ]
        return rows

    def folded_over_static(self) -> list[Row]:
        """(c) The folded plan against a plain static network compiled by the same engine."""
        _, compile_plan = get_backend(self.runtime.backend)
        spec, rows = self.runtime.bundle.input, []
        static = {
            width: compile_plan(
                StaticNet(self.model, width),
                input_hw=(spec.height, spec.width),
                precision=self.runtime.precision,
                num_threads=self.runtime.num_threads,
            )
            for width in self.widths
        }
        for batch, width in self._grid():
            x_NCHW = self._images(batch)
            calls = {"folded": partial(self._plan(width), x_NCHW), "static": partial(static[width], x_NCHW)}
            times = interleave(calls, seconds=self.seconds)
            rows.append(self._row("folded_over_static", batch, width, times["folded"], times["static"]))
        return rows

    def infer_over_bare_engine(self) -> list[Row]:
        """(d) `infer`, with its checks, lock and copies, against the engine's own call on the same plan."""
        width, rows = self.widths[-1], []
        self.runtime.set_point(lam=self.lambdas[-1], width=width)
        for batch in BATCHES:
            bare = _bare_call(self._plan(width), self._images(batch))
            times = interleave({"infer": self._infer(batch), "bare": bare}, seconds=self.seconds)
            rows.append(self._row("infer_over_bare_engine", batch, width, times["infer"], times["bare"]))
        return rows

    def speedup_over_reference(self) -> list[Row]:
        """(e) `infer` against the network as trained: OATNet in evaluation mode, torch, float32, as many threads."""
        width, lam, rows = self.widths[-1], self.lambdas[-1], []
        self.runtime.set_point(lam=lam, width=width)
        model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        torch.set_num_threads(self.runtime.num_threads)
        for batch in BATCHES:
            x_NCHW, lam_N = (
                torch.from_numpy(self._images(batch)),
                LambdaBatch.constant(lam, batch, model.config.lambdas),
            )

            @torch.inference_mode()
            def reference(x_NCHW: Tensor = x_NCHW, lam_N: LambdaBatch = lam_N) -> None:
                model(x_NCHW, lam_N, width=width)

            times = interleave({"infer": self._infer(batch), "reference": reference}, seconds=self.seconds)
            rows.append(
                self._row(f"speedup_over_reference_batch_{batch}", batch, width, times["reference"], times["infer"])
            )
        return rows

    def _enter(self, width: float, lam: float) -> None:
        self.runtime.set_point(lam=lam, width=width)

    def _grid(self) -> list[tuple[int, float]]:
        return [(batch, width) for batch in BATCHES for width in self.widths]

    def _images(self, batch: int) -> Images:
        spec = self.runtime.bundle.input
        return np.random.default_rng(0).random((batch, 3, spec.height, spec.width), dtype=np.float32)

    def _infer(self, batch: int) -> Callable[[], object]:
        x_NCHW = self._images(batch)
        return lambda: self.runtime.infer(x_NCHW)

    def _plan(self, width: float) -> Plan:
        """The runtime's own plan, so that both sides of a comparison run on the same memory."""
        return self.runtime._prepared[OperatingPoint(self.lambdas[-1], width)].plan

    @staticmethod
    def _row(
        name: str, batch: int, width: float, times: npt.NDArray[np.float64], baseline: npt.NDArray[np.float64],
        *, lam: float | None = None,
    ) -> Row:  # fmt: skip
        p50, p99 = p50_p99(times)
        return {
            "comparison": name,
            "batch": batch,
            "width": width,
            "lambda": lam,
            "num_calls": times.size,
            "p50_ms": p50,
            "p99_ms": p99,
            "baseline_p50_ms": p50_p99(baseline)[0],
            "value": median_ratio(times, baseline),
        }


def _bare_call(plan: Plan, x_NCHW: Images) -> Callable[[], object]:
    """The least that the engine itself must do: no copy of the result, input already in its own type."""
    from oat_runtime.backends.torch_backend import TorchPlan

    if isinstance(plan, TorchPlan):
        net, x = plan._net, torch.from_numpy(x_NCHW).to(memory_format=torch.channels_last)
        return torch.inference_mode()(lambda: net(x))
    from oat_runtime.backends.openvino_backend import OpenVINOPlan

    assert isinstance(plan, OpenVINOPlan)
    request = plan._request
    return lambda: request.infer([x_NCHW], share_inputs=True)


def checks(rows: Sequence[Row], precision: Precision) -> list[dict[str, Any]]:
    """One check a figure: the worst row of each comparison. What was not measured is null and not ok."""
    result = []
    for name, (limit, unit) in LIMITS.items():
        value = max((row["value"] for row in rows if row["comparison"] == name), default=None)
        ok = value is not None and value <= limit
        result.append({"name": name, "value": value, "limit": limit, "unit": unit, "ok": ok})
    for batch, limit in SPEEDUP_LIMITS[precision].items():
        name = f"speedup_over_reference_batch_{batch}"
        value = min((row["value"] for row in rows if row["comparison"] == name), default=None)
        ok = value is not None and value >= limit
        result.append({"name": name, "value": value, "limit": limit, "unit": "× at least", "ok": ok})
    return result


def machine(runtime: OATRuntime) -> dict[str, Any]:
    """What the figures belong to."""
    engine = importlib.metadata.version(runtime.backend)
    return {
        "device": processor_name(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average_1_min": os.getloadavg()[0],
        "threads": runtime.num_threads,
        "backend": f"{runtime.backend} {engine}",
        "precision": runtime.precision,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "bundle": runtime.bundle.manifest.name,
        "bundle_sha256": runtime.bundle.sha256,
    }


def text_table(found: Sequence[dict[str, Any]], rows: Sequence[Row], title: str) -> Table:
    """The rows, and after each comparison its check, for people."""
    table = Table(title=title)
    table.add_column("comparison", no_wrap=True)
    for column in ("p50 ms", "against", "value", "limit"):
        table.add_column(column, justify="right", no_wrap=True)
    for check in found:
        for row in (row for row in rows if row["comparison"] == check["name"]):
            if "p50_us" in row:
                table.add_row("  median, µs", "", "", f"{row['p50_us']:.1f}", "", style="dim")
                continue
            lam = "" if row["lambda"] is None else f" λ={row['lambda']:g}"
            name = f"  batch {row['batch']} width {row['width']:g}{lam}"
            milliseconds = f"{row['p50_ms']:.2f}", f"{row['baseline_p50_ms']:.2f}"
            table.add_row(name, *milliseconds, f"{row['value']:.3f}", "", style="dim")
        value = "not measured" if check["value"] is None else f"{check['value']:.4g}"
        colour = "green" if check["ok"] else "red"
        sign = "≥" if "at least" in check["unit"] else "≤"
        limit = f"{sign} {check['limit']:g} {check['unit'].split()[0]}"
        table.add_row(check["name"], "", "", f"[{colour}]{value}[/]", limit, end_section=True)
    return table


def _only_bundle() -> Path:
    root = Path(__file__).resolve().parents[1] / "bundles"
    found = sorted(path.parent for path in root.glob("*/manifest.json"))
    if len(found) != 1:
        raise ConfigError(f"expected one bundle under {root}, found {[path.name for path in found]}: name one")
    return found[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Command line. The status says whether the benchmark ran; the checks say what it found."""
    parser = argparse.ArgumentParser(prog="python -m oat_runtime.bench", description=main.__doc__)
    parser.add_argument("bundle", type=Path, nargs="?", help="default: the only folder under bundles/")
    parser.add_argument("--quick", action="store_true", help="under a minute, with less sure figures")
    parser.add_argument("--backend", choices=("auto", *get_args(BackendName)), default="auto")
    parser.add_argument("--precision", choices=("auto", *get_args(Precision)), default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads of the network (default: all of this process)")
    args = parser.parse_args(argv)
    try:
        runtime = OATRuntime.load(
            args.bundle or _only_bundle(), backend=args.backend, precision=args.precision, num_threads=args.threads
        )
        console = Console(stderr=True)
        with console.status("preparing"):
            bench = Bench(runtime, seconds=QUICK_SECONDS if args.quick else FULL_SECONDS)
        rows: list[Row] = []
        for compare in (
            bench.switch_prepared,
            bench.lambda_over_lambda_0,
            bench.folded_over_static,
            bench.infer_over_bare_engine,
            bench.speedup_over_reference,
        ):
            with console.status(compare.__name__.replace("_", " ")):
                rows += compare()
        runtime.close()
    except OATError as error:
        print(f"oat_runtime.bench: {error}", file=sys.stderr)
        return 2
    about, found = machine(runtime), checks(rows, runtime.precision)
    title = (
        f"{about['bundle']} on {about['device']}, {about['backend']} {about['precision']}, {about['threads']} threads"
    )
    Console().print(text_table(found, rows, title))
    print(json.dumps({"name": "oat_runtime", "machine": about, "rows": rows, "checks": found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
