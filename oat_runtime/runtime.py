"""OATRuntime: load a bundle once, then set λ and width at any time, from any thread, while frames go through."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from oat_runtime.backends import BackendName, CompileFn, Plan, Precision, get_backend
from oat_runtime.bundle import Bundle
from oat_runtime.errors import InputError, OperatingPointError
from oat_runtime.fold import fold
from oat_runtime.image import network_input
from oat_runtime.layers import effective_lambda
from oat_runtime.operating_point import OperatingPoint, OperatingTable

_LOG = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the network says of one frame.

    Attributes:
        point: the operating point that produced it, never a mix of two.
        label: index of the most probable class.
        class_name: its name.
        confidence: its calibrated probability in [0, 1].
        probabilities_K: calibrated probabilities, float32, sum 1.
        logits_K: float32, as the network gave them.
        preprocess_ms: time from frame to network input.
        latency_ms: time of the network alone.
    """

    point: OperatingPoint
    label: int
    class_name: str
    confidence: float
    probabilities_K: Floats
    logits_K: Floats
    preprocess_ms: float
    latency_ms: float


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A plan with the point it belongs to; swapped as one, so a reader never sees half a switch."""

    point: OperatingPoint
    plan: Plan
    temperature: float
    lock: threading.Lock
    """An engine's plan serves one thread at a time."""


class OATRuntime:
    """A bundle ready to run. Setting λ or width to a prepared point costs one reference swap.

    A point that was never used before is folded and compiled first, off the frame path: `set_point(wait=False)`
    returns at once and frames go on at the old point until the new one is ready (`pending` names it until then).
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        backend: BackendName | Literal["auto"] = "auto",
        precision: Precision | Literal["auto"] = "auto",
        num_threads: int | None = None,
    ) -> None:
        """Start at the widest width and the λ of the safest row of the bundle's `select` table."""
        self.bundle = bundle
        self.table: OperatingTable = bundle.select
        self.precision: Precision = "float32" if precision == "auto" else precision
        self.num_threads = num_threads or len(os.sched_getaffinity(0))
        self.backend: BackendName
        self._compile: CompileFn
        self.backend, self._compile = get_backend(backend)
        self._model = bundle.model()
        self._input_hw = (bundle.input.height, bundle.input.width)
        self._prepared: dict[OperatingPoint, _Prepared] = {}
        self._lock = threading.Lock()
        self._knobs = threading.Lock()  # one knob reads the other: two threads must not lose one's change
        self._preparer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="oat-prepare")
        self._pending: OperatingPoint | None = None
        widest = [row for row in self.table.rows if row.width == self.table.widths[-1]]
        start = max(widest, key=lambda row: (row.minimax(), row.lam)).point
        self._active = self._prepare(start)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str = "cpu",
        backend: BackendName | Literal["auto"] = "auto",
        precision: Precision | Literal["auto"] = "auto",
        num_threads: int | None = None,
    ) -> Self:
        """Verify the bundle at `path` and make its runtime.

        Args:
            path: a bundle's folder.
            device: `cpu`, for now.
            backend: `torch`, `openvino`, or `auto`: the fastest one that is installed.
            precision: `float32`, `bfloat16` (openvino), or `auto`: float32, in which the tables were measured.
            num_threads: CPU threads of the network; all that this process may use by default.

        Raises:
            BundleError: the bundle cannot be trusted.
            BackendError: the engine is not installed or refuses the network.
            InputError: an unknown device.
        """
        if device != "cpu":
            raise InputError(f"device must be 'cpu', got {device!r}: other devices are not supported yet")
        return cls(Bundle.load(Path(path)), backend=backend, precision=precision, num_threads=num_threads)

    @property
    def active(self) -> OperatingPoint:
        """The point that the next frame runs at."""
        return self._active.point

    @property
    def pending(self) -> OperatingPoint | None:
        """A point that was asked for and is still being prepared; None most of the time."""
        return self._pending

    def effective(self, *, lam: float, width: float) -> OperatingPoint:
        """The point that really runs when (λ, width) is asked for; see `oat_runtime.layers.effective_lambda`.

        Raises:
            OperatingPointError: λ or width is not offered by this bundle.
        """
        self._model.width_index(width)
        return OperatingPoint(effective_lambda(lam, self._model.config.lambdas), width)

    def prepare(self, points: Iterable[OperatingPoint] | None = None) -> None:
        """Fold, compile and warm `points` (all rows of the table by default), so that switching to them is instant."""
        for point in points if points is not None else [row.point for row in self.table.rows]:
            self._prepare(self.effective(lam=point.lam, width=point.width))

    def is_prepared(self, point: OperatingPoint) -> bool:
        """Whether a switch to `point` takes effect on the next frame."""
        return point in self._prepared

    def set_lambda(self, lam: float) -> OperatingPoint:
        """Set λ, keep the width, wait until it is active; returns the point that really runs."""
        with self._knobs:
            return self.set_point(lam=lam, width=(self._pending or self.active).width)

    def set_width(self, width: float) -> OperatingPoint:
        """Set the width, keep λ, wait until it is active; returns the point that really runs."""
        with self._knobs:
            return self.set_point(lam=(self._pending or self.active).lam, width=width)

    def set_point(self, *, lam: float, width: float, wait: bool = True) -> OperatingPoint:
        """Set both at once.

        Args:
            lam: λ in the bundle's range.
            width: one of the bundle's widths.
            wait: block until active; otherwise a point that is not prepared becomes active when it is ready.

        Returns:
            The point that will run: λ may differ from what was asked, see `effective`.

        Raises:
            OperatingPointError: λ or width is not offered; nothing changes.
        """
        point = self.effective(lam=lam, width=width)
        with self._lock:
            if point in self._prepared:
                self._active, self._pending = self._prepared[point], None
                return point
            already_pending = self._pending == point
            self._pending = point
        if wait:
            self._activate(point)
        elif not already_pending:
            self._preparer.submit(self._activate, point).add_done_callback(self._report)
        return point

    def _activate(self, point: OperatingPoint) -> None:
        """Prepare `point` and switch to it, unless something else was asked for meanwhile."""
        try:
            prepared = self._prepare(point)
        except BaseException:
            with self._lock:
                self._pending = None if self._pending == point else self._pending
            raise
        with self._lock:
            if self._pending == point:
                self._active, self._pending = prepared, None

    @staticmethod
    def _report(future: Future[None]) -> None:
        if (error := future.exception()) is not None:
            _LOG.error("preparing an operating point failed; the old one stays active", exc_info=error)

    def _prepare(self, point: OperatingPoint) -> _Prepared:
        if point not in self._prepared:
            net = fold(self._model, lam=point.lam, width=point.width)
            plan = self._compile(net, input_hw=self._input_hw, precision=self.precision, num_threads=self.num_threads)
            prepared = _Prepared(point, plan, self.bundle.temperature(point), threading.Lock())
            with self._lock:
                self._prepared.setdefault(point, prepared)
        return self._prepared[point]

    def infer(self, x_NCHW: Floats) -> Floats:
        """Logits (N, K) float32 of network inputs (N, 3, H, W) float32 in [0, 1], at the active point.

        Raises:
            InputError: another dtype or shape.
        """
        if x_NCHW.dtype != np.float32 or x_NCHW.ndim != 4 or x_NCHW.shape[1:] != (3, *self._input_hw):
            height, width = self._input_hw
            raise InputError(
                f"expected float32 of shape (N, 3, {height}, {width}), got {x_NCHW.dtype} of shape {x_NCHW.shape}"
            )
        if not len(x_NCHW):
            raise InputError("expected at least one image, got an empty batch")
        return self._run(self._active, x_NCHW)

    @staticmethod
    def _run(prepared: _Prepared, x_NCHW: Floats) -> Floats:
        with prepared.lock:
            return prepared.plan(np.ascontiguousarray(x_NCHW))

    def predict(self, frame_HWC: npt.NDArray[np.uint8]) -> Prediction:
        """Classify one uint8 RGB frame of any size at the active point.

        Raises:
            InputError: not a uint8 H×W×3 array.
        """
        return self._predict(self._active, frame_HWC)

    def predict_at(self, frame_HWC: npt.NDArray[np.uint8], point: OperatingPoint) -> Prediction:
        """Classify one frame at a prepared point without making it the active one (a probe).

        Raises:
            OperatingPointError: the point is not prepared.
            InputError: not a uint8 H×W×3 array.
        """
        prepared = self._prepared.get(point)
        if prepared is None:
            raise OperatingPointError(f"{point} is not prepared: call prepare([...]) before the first frame")
        return self._predict(prepared, frame_HWC)

    def _predict(self, prepared: _Prepared, frame_HWC: npt.NDArray[np.uint8]) -> Prediction:
        started = time.perf_counter()
        x_1CHW = network_input(frame_HWC, self.bundle.input)[None]
        ready = time.perf_counter()
        logits_K = self._run(prepared, x_1CHW)[0]
        done = time.perf_counter()
        scaled_K = logits_K / np.float32(prepared.temperature)
        exp_K = np.exp(scaled_K - scaled_K.max())
        probabilities_K = (exp_K / exp_K.sum()).astype(np.float32)
        label = int(probabilities_K.argmax())
        return Prediction(
            point=prepared.point,
            label=label,
            class_name=self.bundle.class_names[label],
            confidence=float(probabilities_K[label]),
            probabilities_K=probabilities_K,
            logits_K=logits_K,
            preprocess_ms=1e3 * (ready - started),
            latency_ms=1e3 * (done - ready),
        )

    def close(self) -> None:
        """Stop the preparing thread; the runtime still answers at its active point."""
        self._preparer.shutdown(wait=True, cancel_futures=True)
