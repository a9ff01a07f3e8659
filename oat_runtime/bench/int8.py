"""Compare int8 with float32, and with the fastest static network of any precision, for `oat_runtime.bench`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from oat_runtime.backends import (
    INT8_ENGINES,
    BackendName,
    Precision,
    Settings,
    available,
    compile_graph,
    get_backend,
    int8_engines,
)
from oat_runtime.backends.plan import Floats
from oat_runtime.bench.memory import held_in_a_process
from oat_runtime.bench.static_int8 import quantize_static
from oat_runtime.bench.switch import switches
from oat_runtime.bundle import Bundle
from oat_runtime.bundle.loss import DEFAULT_LOSS
from oat_runtime.data import load_dataset
from oat_runtime.errors import BackendError, ConfigError, DataError
from oat_runtime.image import unit_planes
from oat_runtime.operating_point import OperatingPoint
from oat_runtime.plain_net import PlainNet, fold
from oat_runtime.report import Row
from oat_runtime.runtime import OATRuntime
from oat_runtime.timing import interleave, median_ratio, p50_p99

Infer = Callable[[Floats], Floats]
Key = tuple[str, str]
"""Engine and precision."""
_CLOCKS = {"": time.perf_counter, "_cpu": time.process_time}
_KINDS: tuple[Precision, Precision] = ("int8", "float32")
_CHUNK = 8


class Int8:
    """The comparisons of one bundle; `rows` gives them all."""

    def __init__(self, bundle: Bundle, *, num_threads: int, seconds: float, root: Path | None, quick: bool) -> None:
        """Take `seconds` for a comparison of single images; `quick` compares one point and one batch size.

        Args:
            bundle: one with activation ranges.
            num_threads: CPU threads of each engine.
            seconds: measuring time.
            root: folder of the data set; None takes the usual ones.
            quick: see above.
        """
        self.bundle, self.num_threads, self.seconds, self.root = bundle, num_threads, seconds, root
        config = bundle.manifest.model
        self.engines = tuple(name for name in INT8_ENGINES if name in available())
        self.in_int8: tuple[BackendName, ...] = ()
        self.batches = (1,) if quick else (1, 32)
        lambdas = config.lambdas[-1:] if quick else sorted({config.lambdas[0], config.lambdas[-1]})
        widths = config.widths[-1:] if quick else config.widths
        self.points = [OperatingPoint(lam, width) for lam in lambdas for width in widths]
        self.num_switches, self.num_calibration, self.num_counted = (100, 32, 0) if quick else (2000, 256, 1000)

    def rows(self) -> list[Row]:
        """Return all rows; one that says why, where the bundle has no ranges or no engine runs in int8."""
        if (quantization := self.bundle.quantization()) is None:
            return [_not_measured(f"{self.bundle.manifest.name} holds no activation ranges")]
        try:
            self.in_int8 = int8_engines()
        except BackendError as error:
            return [_not_measured(str(error))]
        config, tensors, points = self.bundle.manifest.model, self.bundle.tensors(), list[Row]()
        calibration_NCHW, calibrated_on = self._calibration()
        for point in self.points:
            net = fold(tensors, config, lam=point.lam, width=point.width, quantization=quantization)
            ours = dict(self._compiled(net, ("float32", "int8")))
            static = dict(self._compiled(net, ("float32", "bfloat16"))) | self._quantized(net, calibration_NCHW)
            counted = {key: call for key, call in (ours | static).items() if key[1] != "float32"}
            losses = self._losses(ours[self.engines[0], "float32"], counted)
            within = {key: call for key, call in static.items() if losses.get(key, 0.0) <= DEFAULT_LOSS.sa_points}
            for batch in self.batches:
                row = self._compare(point, batch, ours, within)
                points.append(row | {"calibrated_on": calibrated_on, "sa_loss_points": _named(losses)})
        return [*points, *_summaries(points), *self._switches(), self._weights()]

    def _compiled(self, net: PlainNet, precisions: tuple[Precision, ...]) -> Iterator[tuple[Key, Infer]]:
        """Compile a network on each engine in each precision that it offers."""
        for precision in precisions:
            for name in self.in_int8 if precision == "int8" else self.engines:
                try:
                    yield (name, precision), get_backend(name)(lambda: net, self._settings(precision)).plan()
                except BackendError:
                    if precision != "bfloat16":
                        raise

    def _settings(self, precision: Precision) -> Settings:
        return Settings((self.bundle.input.height, self.bundle.input.width), precision, self.num_threads)

    def _quantized(self, net: PlainNet, calibration_NCHW: Floats) -> dict[Key, Infer]:
        """Return the network as ONNX Runtime's own tool quantizes it, run by each engine."""
        settings = self._settings("int8")
        graph = quantize_static(net, calibration_NCHW, input_hw=settings.input_hw)
        return {(name, "static int8"): compile_graph(name, graph, settings).plan() for name in self.in_int8}

    def _compare(self, point: OperatingPoint, batch: int, ours: dict[Key, Infer], static: dict[Key, Infer]) -> Row:
        """Time all in turns, and compare the fastest of each kind: by wall time, and by the process's CPU time."""
        shape = (batch, 3, self.bundle.input.height, self.bundle.input.width)
        x_NCHW = np.random.default_rng(0).random(shape, dtype=np.float32)
        calls = {("ours", *key): partial(call, x_NCHW) for key, call in ours.items()}
        calls |= {("static", *key): partial(call, x_NCHW) for key, call in static.items()}
        row: Row = {"comparison": "int8_point", "batch": batch, "lambda": point.lam, "width": point.width}
        for suffix, clock in _CLOCKS.items():
            times = interleave(calls, seconds=self.seconds if batch == 1 else 3 * self.seconds, clock=clock)
            p50 = {key: p50_p99(taken)[0] for key, taken in times.items()}

            def fastest(
                kind: str, precision: str = "", p50: dict[tuple[str, str, str], float] = p50
            ) -> tuple[str, str, str]:
                return min((key for key in p50 if key[0] == kind and precision in ("", key[2])), key=p50.__getitem__)

            int8, in_float, anchor = fastest("ours", "int8"), fastest("ours", "float32"), fastest("static")
            over_N = np.median(times[int8], axis=1) / np.median(times[anchor], axis=1)
            row |= {
                f"engine{suffix}": int8[1],
                f"anchor{suffix}": " ".join(anchor[1:]),
                f"p50_ms{suffix}": p50[int8],
                f"baseline_p50_ms{suffix}": p50[anchor],
                f"speedup{suffix}": 1.0 / median_ratio(times[int8], times[in_float]),
                f"over_static{suffix}": float(np.median(over_N)),
                f"over_static_95{suffix}": _interval(over_N),
                f"all_p50_ms{suffix}": {" ".join(key): value for key, value in p50.items()},
            }
        return row | {"value": row["over_static"]}

    def _calibration(self) -> tuple[Floats, str]:
        """Return images to calibrate on, and which they are."""
        name = self.bundle.manifest.provenance.dataset
        try:
            found = load_dataset(name, "train", root=self.root, limit=self.num_calibration)
            return unit_planes(found.images_NHWC[:]), f"{len(found.labels_N)} training images of {name}"
        except (ConfigError, DataError, OSError):
            x_NCHW = next(iter(self.bundle.probes().values())).x_NCHW
            return x_NCHW, f"{len(x_NCHW)} images of the probe, because {name} was not found"

    def _losses(self, reference: Infer, calls: dict[Key, Infer]) -> dict[Key, float]:
        """Return by how many points each is less accurate on test images than the reference.

        A quick run, or one without the images, counts nothing and so leaves no static network out.
        """
        if not self.num_counted:
            return {}
        try:
            data = load_dataset(self.bundle.manifest.provenance.dataset, "test", root=self.root, limit=self.num_counted)
        except (ConfigError, DataError, OSError):
            return {}
        x_NCHW, truth_N = unit_planes(data.images_NHWC[:]), data.labels_N

        def accuracy(call: Infer) -> float:
            parts = [call(np.ascontiguousarray(x_NCHW[at : at + _CHUNK])) for at in range(0, len(x_NCHW), _CHUNK)]
            return 100 * float(np.mean(np.concatenate(parts).argmax(axis=1) == truth_N))

        expected = accuracy(reference)
        return {key: expected - accuracy(call) for key, call in calls.items()}

    def _switches(self) -> list[Row]:
        """Time switches between prepared points in int8, on the engine that compiles them sooner."""
        runtime = OATRuntime(
            self.bundle, backend=self.in_int8[-1], precision="int8", num_threads=self.num_threads, memory_budget_mb=1e6
        )
        with closing(runtime):
            found = switches(runtime, num_switches=self.num_switches)
        return [row | {"comparison": f"{row['comparison']}_int8"} for row in found]

    def _weights(self) -> Row:
        """Compare the bytes of all points' weights in int8 with those of one float32 network at full width.

        Beside it stands what a process holds more with them on OpenVINO, where it runs in int8.
        """
        config, tensors = self.bundle.manifest.model, self.bundle.tensors()
        sizes = [fold(tensors, config, lam=config.lambdas[0], width=width).num_weights for width in config.widths]
        in_int8, in_float = map(self._settings, _KINDS)
        return {
            "comparison": "int8_weights_over_static",
            "num_points": len(config.lambdas) * len(sizes),
            "resident_mb": held_in_a_process("folded", self.bundle.path, in_int8, self.in_int8[0]),
            "static_mb": held_in_a_process("static", self.bundle.path, in_float, self.in_int8[0]),
            "value": len(config.lambdas) * sum(sizes) / (4 * sizes[-1]),
        }


def _not_measured(why: str) -> Row:
    return {"comparison": "int8", "not_measured": why}


def _summaries(points: list[Row]) -> list[Row]:
    """Return what is held to a limit: the speed-up at full and half width, and the median over the points."""
    rows: list[Row] = []
    full = max(row["width"] for row in points)
    for suffix in _CLOCKS:
        for name, width in (("full", full), ("half", full / 2)):
            found = [row[f"speedup{suffix}"] for row in points if row["batch"] == 1 and row["width"] == width]
            if found:
                rows.append({"comparison": f"int8_speedup_{name}_width{suffix}", "width": width, "value": min(found)})
        for batch in sorted({row["batch"] for row in points}):
            at = [row for row in points if row["batch"] == batch]
            worst = max(at, key=lambda row: row[f"over_static{suffix}"])
            rows.append(
                {
                    "comparison": f"int8_over_fastest_static_{batch}{suffix}",
                    "batch": batch,
                    "num_points": len(at),
                    "worst": worst[f"over_static{suffix}"],
                    "worst_95": worst[f"over_static_95{suffix}"],
                    "value": float(np.median([row[f"over_static{suffix}"] for row in at])),
                }
            )
    return rows


def _interval(ratio_N: npt.NDArray[np.float64]) -> list[float]:
    """Return the 95 % interval of the median of rounds, by order statistics."""
    ordered, num = np.sort(ratio_N), len(ratio_N)
    off = 0.98 * np.sqrt(num)
    low, high = max(0, int(np.floor(num / 2 - off))), min(num - 1, int(np.ceil(num / 2 + off)))
    return [float(ordered[low]), float(ordered[high])]


def _named(losses: dict[Key, float]) -> dict[str, float]:
    return {" ".join(key): loss for key, loss in losses.items()}
