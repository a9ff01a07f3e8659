"""Compare latencies for `oat_runtime.bench`: calls take turns in one process, and the ratios of medians count."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import numpy.typing as npt

from oat_runtime.backends import BackendName, Plan, Settings, available, get_backend
from oat_runtime.operating_point import OperatingPoint
from oat_runtime.plain_net import constants, fold, share
from oat_runtime.report import Row
from oat_runtime.runtime import OATRuntime
from oat_runtime.timing import interleave, median_ratio, p50_p99
from oat_runtime.untrained import static_net

Images = npt.NDArray[np.float32]
Call = Callable[[], object]

BATCHES = (1, 32)


class Latency:
    """The comparisons of one runtime; each gives its rows."""

    def __init__(self, runtime: OATRuntime, *, seconds: float, quick: bool = False) -> None:
        """Take `seconds` for a comparison of single images; `quick` compares plans at two λ of one width."""
        self.runtime, self.seconds = runtime, seconds
        self.tensors, self.config = runtime.bundle.tensors(), runtime.bundle.manifest.model
        knots, self.widths = self.config.lambdas, self.config.widths
        self.lambdas = (*knots, unseen(knots))
        if quick:
            self.lambdas, self.widths = (knots[0], unseen(knots)), self.widths[-1:]
        spec = runtime.bundle.input
        self.settings = Settings((spec.height, spec.width), runtime.precision, runtime.num_threads, runtime.device)

    def plans_over_static(self) -> list[Row]:
        """Compare folded and shared plans of each λ with a plain static network on the same engine."""
        compile_network, rows = get_backend(self.runtime.backend), []
        for width in self.widths:
            static = self._static(self.runtime.backend, width)
            shared = compile_network(partial(share, self.tensors, self.config, width=width), self.settings, shared=True)
            plans: dict[tuple[str, float | None], Plan] = {("static", None): static}
            for lam in self.lambdas:
                plans["folded", lam] = compile_network(
                    partial(fold, self.tensors, self.config, lam=lam, width=width), self.settings
                ).plan()
                plans["shared", lam] = shared.plan(constants(self.tensors, self.config, lam=lam, width=width))
            for batch in BATCHES:
                x_NCHW = self.images(batch)
                times = interleave(
                    {key: partial(plan, x_NCHW) for key, plan in plans.items()}, seconds=self._seconds(batch)
                )
                rows += [
                    latency_row(f"{form}_over_static", batch, width, times[form, lam], times["static", None], lam=lam)
                    for form, lam in plans
                    if lam is not None
                ]
        return rows

    def infer_over_bare(self) -> list[Row]:
        """Compare `infer`, with its checks, lock and copies, with the engine's own call on the same plan."""
        rows = []
        for batch, lam, width in self._safest():
            x_NCHW = self.images(batch)
            calls: dict[str, Call] = {
                "infer": partial(self.runtime.infer, x_NCHW),
                "bare": self.runtime._active.plan.bare(x_NCHW),
            }
            times = interleave(calls, seconds=self._seconds(batch))
            rows.append(latency_row("infer_over_bare_engine", batch, width, times["infer"], times["bare"], lam=lam))
        return rows

    def auto_over_static_engines(self) -> list[Row]:
        """Compare the chosen engine with the plain static network on OpenVINO and ONNX Runtime, in the same precision.

        The calls are bare calls of folded plans, because other comparisons show what `infer` and shared plans add. For
        reference, one more call is `infer` with shared plans.
        """
        rows = []
        names: list[BackendName] = [n for n in ("openvino", "onnxruntime") if n in available(self.runtime.device)]
        if self.runtime.precision != "float32":
            names = [name for name in names if name != "onnxruntime"]
        folded = OATRuntime(
            self.runtime.bundle,
            device=self.runtime.device,
            backend=self.runtime.backend,
            precision=self.runtime.precision,
            plans="folded",
            num_threads=self.runtime.num_threads,
        )
        for batch, lam, width in self._safest():
            folded.set_point(lam=lam, width=width)
            x_NCHW = self.images(batch)
            calls: dict[str, Call] = {
                "folded": folded._active.plan.bare(x_NCHW),
                "shared": partial(self.runtime.infer, x_NCHW),
            }
            calls |= {name: self._static(name, width).bare(x_NCHW) for name in names}
            times = interleave(calls, seconds=self._seconds(batch))
            for name in names:
                rows.append(latency_row(f"auto_over_{name}", batch, width, times["folded"], times[name], lam=lam))
                rows.append(
                    latency_row(f"shared_infer_over_{name}", batch, width, times["shared"], times[name], lam=lam)
                )
        folded.close()
        return rows

    def images(self, batch: int) -> Images:
        """Return random network inputs; their content does not change the time."""
        return np.random.default_rng(0).random((batch, 3, *self.settings.input_hw), dtype=np.float32)

    def _seconds(self, batch: int) -> float:
        return self.seconds if batch == 1 else 3 * self.seconds

    def _static(self, name: BackendName, width: float) -> Plan:
        return get_backend(name)(partial(static_net, self.config, width), self.settings).plan()

    def _safest(self) -> Iterator[tuple[int, float, float]]:
        """Every batch size at the largest λ and width, which is made the active point."""
        lam, width = self.config.lambdas[-1], self.widths[-1]
        self.runtime.prepare([OperatingPoint(lam, width)])
        self.runtime.set_point(lam=lam, width=width)
        for batch in BATCHES:
            yield batch, lam, width


def unseen(knots: tuple[float, ...]) -> float:
    """Return a λ that is no knot: half-way between the last two; with a single knot, that knot."""
    return round((knots[-2] + knots[-1]) / 2, 6) if len(knots) > 1 else knots[-1]


def latency_row(
    name: str, batch: int, width: float, times: npt.NDArray[np.float64], baseline: npt.NDArray[np.float64],
    *, lam: float | None,
) -> Row:  # fmt: skip
    """Return one comparison: medians and 99th percentile, and the ratio of the medians as its value."""
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
