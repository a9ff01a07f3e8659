"""Compare the deployed network with the trained one, as the paper runs it: `python -m training.bench --runtime`.

The figures are ratios of medians, measured in turns in one process.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from oat_runtime.backends.torch_net import TorchNet
from oat_runtime.bench.latency import BATCHES, latency_row
from oat_runtime.operating_point import OperatingPoint
from oat_runtime.report import Report, Row, checks_of, text_table
from oat_runtime.runtime import OATRuntime
from oat_runtime.timing import interleave
from oat_runtime.untrained import static_net
from training.network import LambdaBatch, network_of
from training.origin import machine

BFLOAT16_SPEEDUP = 3.0
LIMITS = {
    "reference_over_plain_torch": (2.3, "× at most"),
    "speedup_over_reference_batch_1": (1.5, "× at least"),
    "speedup_over_reference_batch_32": (1.3, "× at least"),
}
"""Float32 (in bfloat16 the runtime must be faster still). The reference is no slower than the public code, and the
runtime is faster than the reference; the worst row of each comparison counts."""


def run(bundle: Path, *, device: str, seconds: float) -> int:
    """Measure a bundle at its largest λ and width; print a table, and one JSON line.

    Args:
        bundle: a bundle's folder.
        device: `cpu` or `cuda`, of the runtime and the reference alike.
        seconds: measuring time of single images; batches get three times that.

    Returns:
        Exit status of `Report.finish`.

    Raises:
        OATError: the bundle cannot be loaded.
    """
    runtime = OATRuntime.load(bundle, device="cuda" if device == "cuda" else "cpu")
    report = Report("training.bench.runtime")
    report.measure("the runtime", lambda: _rows(runtime, device, seconds))
    limits = LIMITS
    if runtime.precision == "bfloat16":
        limits = LIMITS | {name: (BFLOAT16_SPEEDUP, unit) for name, (_, unit) in LIMITS.items() if "at least" in unit}
    report.checks = checks_of(report.rows, limits)
    columns = ("comparison", "batch", "p50_ms", "baseline_p50_ms", "value")
    figures = [[row.get(column) for column in columns] for row in report.rows]
    about = machine(device) | {"backend": runtime.backend, "precision": runtime.precision, "bundle": str(bundle)}
    runtime.close()
    return report.finish(about, text_table("The runtime against torch", columns, figures))


def _rows(runtime: OATRuntime, device: str, seconds: float) -> list[Row]:
    config, rows = runtime.bundle.manifest.model, []
    lam, width = config.lambdas[-1], config.widths[-1]
    model = network_of(runtime.bundle.tensors(), config).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    plain = TorchNet(static_net(config, width)).to(device)
    runtime.prepare([OperatingPoint(lam, width)])
    runtime.set_point(lam=lam, width=width)
    spec = runtime.bundle.input
    for batch in BATCHES:
        x_NCHW = np.random.default_rng(0).random((batch, 3, spec.height, spec.width), dtype=np.float32)
        x = torch.from_numpy(x_NCHW).to(device, memory_format=torch.channels_last)
        one_lam = LambdaBatch.constant(lam, batch, config.lambdas, device=device)
        calls: dict[str, Callable[[], object]] = {
            "infer": partial(runtime.infer, x_NCHW),
            "reference": _torch_call(partial(model, x, one_lam, width=width), runtime.num_threads),
            "plain": _torch_call(partial(plain, x), runtime.num_threads),
        }
        times = interleave(calls, seconds=seconds if batch == 1 else 3 * seconds)
        name = f"speedup_over_reference_batch_{batch}"
        rows.append(latency_row(name, batch, width, times["reference"], times["infer"], lam=lam))
        name = "reference_over_plain_torch"
        rows.append(latency_row(name, batch, width, times["reference"], times["plain"], lam=lam))
    return rows


def _torch_call(call: Callable[[], object], num_threads: int) -> Callable[[], object]:
    @torch.inference_mode()
    def run() -> object:
        torch.set_num_threads(num_threads)
        answer = call()
        if isinstance(answer, torch.Tensor) and answer.is_cuda:
            torch.cuda.synchronize()
        return answer

    return run
