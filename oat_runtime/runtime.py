"""Load a bundle once, then set λ and width at any time, from any thread, while frames go through."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Literal, NoReturn, get_args

import numpy as np
import numpy.typing as npt

from oat_runtime.architecture import effective_lambda
from oat_runtime.backends import BackendName, Device, Plan, Precision, Settings, get_backend
from oat_runtime.backends.choice import choose
from oat_runtime.bundle import Bundle, LossBound
from oat_runtime.bundle.loss import DEFAULT_LOSS
from oat_runtime.compat import Self
from oat_runtime.devices import usable_cpus
from oat_runtime.errors import BackendError, InputError, OATError, OperatingPointError, one_line, quoted
from oat_runtime.image import network_input, regions
from oat_runtime.operating_point import OperatingPoint, OperatingTable
from oat_runtime.plain_net import fold
from oat_runtime.plans import CLOSED, PlanForm, PlanStore, ProbeCheck, ReadyPlan, no_int8
from oat_runtime.prediction import Floats, Prediction, softmax

__all__ = ["Activation", "OATRuntime", "Prediction"]

_LOG = logging.getLogger(__name__)

Frame = npt.NDArray[np.uint8]
_RETRY_S = 10.0
"""Time after which a point that could not be prepared in the background is tried again, if it is asked for."""
_LARGEST_LOGIT = 1e30
"""Beyond it, a division by the smallest temperature leaves float32."""
_MOST_THREADS = 1024
"""An engine starts as many as it is told: a hundred thousand leave the machine none to start a process with."""


@dataclass(frozen=True, slots=True)
class Activation:
    """An active point.

    Attributes:
        point: what frames run at.
        since_s: when it took effect, on the clock of `time.monotonic`.
    """

    point: OperatingPoint
    since_s: float


@dataclass(frozen=True, slots=True)
class _Active:
    """A point with its plan, swapped as one, so that a reader never sees half a switch."""

    point: OperatingPoint
    plan: Plan
    lock: threading.Lock
    """An engine's plan serves one thread at a time."""
    temperature: float
    since_s: float = field(default_factory=time.monotonic)


class OATRuntime:
    """A bundle ready to run. Setting λ or width to a prepared point costs one reference swap.

    A point that has to be compiled first is made off the frame path: `set_point(wait=False)` returns at once and frames
    go on at the old point until the new one is ready. Until then `pending` names it, `activation` says since when the
    active point is in effect, and `failure` why the last one asked for never came. A point that failed so is tried
    again 10 seconds later, if it is asked for then.

    Safe to use from any thread; the frames of one plan run one after another. Network inputs outside [0, 1] are
    refused, NaN and infinity among them, and so are logits that are not finite: `BackendError`. A runtime serves the
    process that loaded it, and no fork of it: `OATError`.

    Attributes:
        table: the rows of `select` that the policy reads.
        table_precision: what those rows were counted in: the precision that runs, or float32 where the bundle has no
            figures of that one.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: Device = "cpu",
        backend: BackendName | Literal["auto"] = "auto",
        precision: Precision | Literal["auto"] = "auto",
        plans: PlanForm = "shared",
        num_threads: int | None = None,
        memory_budget_mb: float | None = None,
        check_probe: bool = True,
        int8_loss: LossBound = DEFAULT_LOSS,
    ) -> None:
        """Start at the widest width and the λ of the safest row of the bundle's `select` table."""
        for name, value, allowed in (
            ("device", device, get_args(Device)),
            ("precision", precision, (*get_args(Precision), "auto")),
            ("plans", plans, get_args(PlanForm)),
        ):
            if value not in allowed:
                raise InputError(f"{name} must be one of {list(allowed)}, got {quoted(value)}")
        _check_whole("num_threads", num_threads or 0, least=0, most=_MOST_THREADS)
        if memory_budget_mb is not None and not _number("memory_budget_mb", memory_budget_mb, InputError) >= 0.0:
            raise InputError(f"memory_budget_mb must be at least 0, got {memory_budget_mb}")
        self.bundle, self._pid = bundle, os.getpid()
        self.num_threads = int(num_threads or usable_cpus())
        self.device: Device = device
        self._config, tensors = bundle.manifest.model, bundle.tensors()
        self._input_chw = (3, bundle.input.height, bundle.input.width)
        start, probes = _safest(bundle.select), bundle.probes()
        reason = no_int8(bundle, tensors, bound=int8_loss, budget_mb=memory_budget_mb)
        may_be_int8 = precision == "int8" or (precision == backend == "auto" and not reason)
        quantization = bundle.quantization() if may_be_int8 else None
        if precision == "int8" and quantization is None:
            raise BackendError(
                f"the bundle {bundle.manifest.name} holds no activation ranges, which int8 needs: use "
                "precision='float32', or export it with oat-export --precision int8"
            )
        self.backend: BackendName
        self.precision: Precision
        self.backend, self.precision = choose(
            lambda: fold(tensors, self._config, lam=start.lam, width=start.width, quantization=quantization),
            probes[start],
            Settings(self._input_chw[1:], num_threads=self.num_threads, device=device),
            backend=None if backend == "auto" else backend,
            precision=None if precision == "auto" else precision,
            bundle_sha256=bundle.sha256,
            no_int8=reason,
        )
        self.table: OperatingTable = bundle.table("select", self.precision)
        self.table_precision = bundle.counted_in(self.precision)
        settings = Settings(self._input_chw[1:], self.precision, self.num_threads, device)
        self._plans = PlanStore(
            tensors,
            self._config,
            get_backend(self.backend),
            settings,
            form="folded" if self.precision == "int8" else plans,
            budget_mb=memory_budget_mb,
            check=ProbeCheck(bundle, probes, self.precision) if check_probe else None,
            quantization=quantization if self.precision == "int8" else None,
        )
        self._lock = threading.Lock()
        self._knobs = threading.Lock()  # one knob reads the other: two threads must not lose one's change
        self._preparer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="oat-prepare")
        self._pending: OperatingPoint | None = None
        self._failure: OATError | None = None
        self._failed: dict[OperatingPoint, tuple[OATError, float]] = {}  # why, and until when it is not tried again
        self._closed = False
        start = _safest(self.table)
        self._active = self._bind(start, self._plans.make(start))

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        device: Device = "cpu",
        backend: BackendName | Literal["auto"] = "auto",
        precision: Precision | Literal["auto"] = "auto",
        plans: PlanForm = "shared",
        num_threads: int | None = None,
        memory_budget_mb: float | None = None,
        check_probe: bool = True,
        int8_loss: LossBound = DEFAULT_LOSS,
    ) -> Self:
        """Verify a bundle and make its runtime.

        Args:
            path: the bundle's folder, or the name of a shipped one, as in `cifar10-wrn-16-4`.
            device: `cpu` or `cuda`.
            backend: `torch`, `openvino`, `onnxruntime`, `tensorrt`, or `auto`: the fastest of those installed, measured
                for a few seconds at first and remembered in the user's cache folder.
            precision: `float32`, `bfloat16`, `float16`, `int8`, or `auto`: float32 on a named engine; with
                `backend="auto"` the fastest of float32, bfloat16 where the device computes in it, and int8 where its
                loss is within `int8_loss`.
            plans: `shared` or `folded`, see `oat_runtime.plans.PlanForm`; int8 is always folded.
            num_threads: CPU threads of the network, up to 1024; by default, and with 0, all that this process may use,
                within its CPU quota.
            memory_budget_mb: megabytes of weights that folded plans may hold, 64 by default; a weight counts four
                bytes, in int8 one.
            check_probe: hold the network to the bundle's probe whenever something is compiled: a shared network of one
                width at each knot, a folded one at its point (between two knots there is no probe). It costs one image
                a knot.
            int8_loss: how much accuracy `auto` may give up for int8 at any point, by the bundle's own counts. A bundle
                without counts in int8 never runs in it unless `precision` says so.

        Raises:
            BundleError: the bundle cannot be trusted, or its network does not compute what the probe says.
            BackendError: the engine is not installed or refuses the network, or the bundle holds nothing for int8.
            InputError: an unknown device, precision or form of plans, or a number of threads or megabytes that is none.
        """
        return cls(
            Bundle.load(path),
            device=device,
            backend=backend,
            precision=precision,
            plans=plans,
            num_threads=num_threads,
            memory_budget_mb=memory_budget_mb,
            check_probe=check_probe,
            int8_loss=int8_loss,
        )

    @property
    def active(self) -> OperatingPoint:
        """The point that the next frame runs at."""
        return self._active.point

    @property
    def activation(self) -> Activation:
        """The active point and since when it is in effect."""
        active = self._active
        return Activation(active.point, active.since_s)

    @property
    def pending(self) -> OperatingPoint | None:
        """A point that was asked for and is still being prepared; None most of the time."""
        return self._pending

    @property
    def failure(self) -> OATError | None:
        """Why the last point that was asked for could not be prepared; None once another try begins."""
        return self._failure

    def failure_of(self, point: OperatingPoint) -> OATError | None:
        """Return why `point` could not be prepared in the background; None if it was not tried, or is ready by now.

        Only the failures of the last 10 seconds, and the last one, are known.
        """
        found = self._failed.get(point)
        return None if found is None else found[0]

    @property
    def plans(self) -> PlanForm:
        """The form of the plans."""
        return self._plans.form

    def effective(self, *, lam: float, width: float) -> OperatingPoint:
        """The point that really runs when (λ, width) is asked for; see `oat_runtime.architecture.effective_lambda`.

        Raises:
            OperatingPointError: λ or width is not offered by this bundle, or is no number.
        """
        index = self._config.width_index(_number("width", width, OperatingPointError))
        lam = effective_lambda(_number("lambda", lam, OperatingPointError), self._config.lambdas)
        return OperatingPoint(lam, self._config.widths[index])

    def prepare(self, points: Iterable[OperatingPoint] | None = None, *, max_batch: int = 1) -> None:
        """Fold, compile and warm `points` (all rows of the table by default), so that switching to them is instant.

        Args:
            points: of those that the bundle offers.
            max_batch: most images or regions that one call will bring, at least 1. OpenVINO, and torch on a GPU,
                compile for a batch size when it first comes, which would stop a frame for a third of a second; here
                they do so in advance, and from now on for each new point too.

        Raises:
            InputError: `max_batch` is no whole number of at least 1.
            OperatingPointError: a point is not offered.
            BackendError: the engine refused the network.
        """
        _check_whole("max_batch", max_batch, least=1)
        for point in points if points is not None else [row.point for row in self.table.rows]:
            self._refuse_if_closed()
            self._plans.make(self.effective(lam=point.lam, width=point.width), max_batch=max_batch)

    def is_prepared(self, point: OperatingPoint) -> bool:
        """Whether a switch to `point` takes effect on the next frame."""
        try:
            return self._plans.get(self.effective(lam=point.lam, width=point.width)) is not None
        except OperatingPointError:
            return False

    def set_lambda(self, lam: float) -> OperatingPoint:
        """Set λ, keep the width, wait until it is active; returns the point that really runs."""
        self._refuse_in_a_fork()
        with self._knobs:
            return self.set_point(lam=lam, width=(self._pending or self.active).width)

    def set_width(self, width: float) -> OperatingPoint:
        """Set the width, keep λ, wait until it is active; returns the point that really runs."""
        self._refuse_in_a_fork()
        with self._knobs:
            return self.set_point(lam=(self._pending or self.active).lam, width=width)

    def set_point(self, *, lam: float, width: float, wait: bool = True) -> OperatingPoint:
        """Set both at once.

        Args:
            lam: λ in the bundle's range.
            width: one of the bundle's widths.
            wait: block until active; otherwise a point that is not prepared becomes active when it is ready. If that
                failed, it is not tried again for 10 seconds: `failure` says why.

        Returns:
            The point that will run: λ may differ from what was asked, see `effective`.

        Raises:
            OperatingPointError: λ or width is not offered; nothing changes.
            BackendError: with `wait`, the engine refused the network; the old point stays active.
            OATError: the runtime is closed.
        """
        point = self.effective(lam=lam, width=width)
        self._refuse_if_closed()
        ready = self._plans.get(point)
        with self._lock:
            if self._closed:
                _refuse()
            self._failure = None
            if ready is not None:
                self._switch(point, ready)
                return point
            error, until_s = self._failed.get(point, (None, 0.0))
            if not wait and time.monotonic() < until_s:
                self._failure, self._pending = error, None
                return point
            if not wait and self._pending != point:
                self._preparer.submit(self._activate_in_background, point)
            self._pending = point
        if wait:
            self._activate(point)
        return point

    def _activate_in_background(self, point: OperatingPoint) -> None:
        """Do the same as `_activate`, but prepare nothing that was overtaken while it waited for its turn."""
        with self._lock:
            if self._pending != point:
                return
            known = self.failure_of(point)
        try:
            self._activate(point, retry_s=_RETRY_S)
        except Exception as error:
            if str(_as_ours(error)) != str(known):
                _LOG.exception("preparing %s failed; the old one stays active, and the log tells it once", point)

    def _activate(self, point: OperatingPoint, *, retry_s: float = 0.0) -> None:
        """Prepare `point` and switch to it, unless something else was asked for meanwhile.

        If that fails, it is not tried in the background for `retry_s`.
        """
        try:
            ready = self._plans.make(point)
        except BaseException as error:
            with self._lock:
                now_s, ours = time.monotonic(), _as_ours(error)
                if self._pending == point:
                    self._failure, self._pending = ours, None
                if retry_s:
                    recent = {other: found for other, found in self._failed.items() if now_s < found[1]}
                    self._failed = {**recent, point: (ours, now_s + retry_s)}
            raise
        with self._lock:
            if self._pending == point:
                self._switch(point, ready)

    def _switch(self, point: OperatingPoint, ready: ReadyPlan) -> None:
        """Make `point` the active one, with the lock held; a point that is active already keeps its time.

        It is active before it is no longer pending: who reads both without the lock never finds the old one alone.
        """
        if not self._closed and self._active.point != point:
            self._active = self._bind(point, ready)
        self._pending = None
        self._failed.pop(point, None)

    def _bind(self, point: OperatingPoint, ready: ReadyPlan) -> _Active:
        return _Active(point, ready.plan, ready.lock, self.bundle.temperature(point, self.precision))

    def infer(self, x_NCHW: Floats) -> Floats:
        """Return the logits (N, K) float32 of network inputs (N, 3, H, W) float32 in [0, 1], at the active point.

        Raises:
            InputError: another dtype or shape, no image, or a value that is not in [0, 1].
            OATError: the runtime is closed.
        """
        self._check_inputs(x_NCHW)
        return self._run(self._bound(None), x_NCHW)

    def _check_inputs(self, x_NCHW: Floats) -> None:
        if x_NCHW.dtype != np.float32 or x_NCHW.ndim != 4 or x_NCHW.shape[1:] != self._input_chw:
            expected = "x".join(map(str, ("N", *self._input_chw)))
            raise InputError(f"expected float32 of shape {expected}, got {x_NCHW.dtype} of shape {x_NCHW.shape}")
        if not len(x_NCHW):
            raise InputError("expected at least one image, got an empty batch")
        low, high = float(x_NCHW.min()), float(x_NCHW.max())
        if not (low >= 0.0 and high <= 1.0):  # also where one is NaN, which some engines' ReLU would hide
            raise InputError(f"expected finite pixels in [0, 1], got {low:g} to {high:g}: divide bytes by 255")

    @staticmethod
    def _run(active: _Active, x_NCHW: Floats) -> Floats:
        with active.lock:
            logits_NK = active.plan(np.ascontiguousarray(x_NCHW))
        if not float(np.abs(logits_NK).max()) <= _LARGEST_LOGIT:  # also where one is NaN
            raise BackendError(
                f"the logits at {active.point} are not finite, or beyond {_LARGEST_LOGIT:g}: load the bundle again "
                "with check_probe=True, which tells whether its weights or the engine are at fault"
            )
        return logits_NK

    def predict(self, frame_HWC: Frame, *, at: OperatingPoint | None = None) -> Prediction:
        """Classify one frame.

        Args:
            frame_HWC: uint8 RGB of any size.
            at: a prepared point to run at, which does not become the active one (a probe); the active point by default.
                The answer names the point that really ran, see `effective`.

        Raises:
            InputError: not a uint8 H×W×3 array, or a side exceeds `oat_runtime.image.MAX_SIDE_PX`.
            OperatingPointError: `at` is not prepared.
            OATError: the runtime is closed.
        """
        return self._predict([frame_HWC], at)[0]

    def predict_batch(self, frames: Sequence[Frame], *, at: OperatingPoint | None = None) -> list[Prediction]:
        """Classify frames of any sizes in one batch through the network, all at the same point.

        Args:
            frames: uint8 RGB each.
            at: as in `predict`.

        Raises:
            InputError: there is none, or `predict` would refuse one.
            OperatingPointError: `at` is not prepared.
            OATError: the runtime is closed.
        """
        if not len(frames):
            raise InputError("expected at least one frame, got an empty batch")
        return self._predict(frames, at)

    def predict_regions(
        self, frame_HWC: Frame, boxes_N4: npt.ArrayLike, *, at: OperatingPoint | None = None
    ) -> list[Prediction]:
        """Classify regions of one frame in one batch; each is fitted to the network's input as a frame would be.

        Give the boxes of objects as they are. A network that was trained on boxes enlarges them itself, as in training.

        Args:
            frame_HWC: uint8 RGB.
            boxes_N4: (left, top, right, bottom) of each box in whole pixels, right and bottom not included.
            at: as in `predict`.

        Raises:
            InputError: not a uint8 H×W×3 array, or a box that is empty or not within the frame.
            OperatingPointError: `at` is not prepared.
            OATError: the runtime is closed.
        """
        views = regions(frame_HWC, boxes_N4, self.bundle.input)
        return self._predict(views, at) if views else []

    def predict_inputs(self, x_NCHW: Floats, *, at: OperatingPoint | None = None) -> list[Prediction]:
        """Classify network inputs, as `oat_runtime.image.network_input` makes them, in one batch.

        Args:
            x_NCHW: float32 in [0, 1].
            at: as in `predict`.

        Raises:
            InputError: another dtype or shape, no image, or a value that is not in [0, 1].
            OperatingPointError: `at` is not prepared.
            OATError: the runtime is closed.
        """
        self._check_inputs(x_NCHW)
        ready_s = time.perf_counter()
        return self._answer(self._bound(at), x_NCHW, ready_s, ready_s)

    def _predict(self, frames: Sequence[Frame], at: OperatingPoint | None) -> list[Prediction]:
        active, started_s = self._bound(at), time.perf_counter()
        x_NCHW = np.stack([network_input(frame_HWC, self.bundle.input) for frame_HWC in frames])
        return self._answer(active, x_NCHW, started_s, time.perf_counter())

    def _bound(self, at: OperatingPoint | None) -> _Active:
        """Return the active point with its plan, or another prepared one with its own."""
        if at is None:
            self._refuse_in_a_fork()
            return self._active
        self._refuse_if_closed()
        point = self.effective(lam=at.lam, width=at.width)
        ready = self._plans.get(point)
        if ready is None:
            raise OperatingPointError(
                f"{point} is not prepared, or was let go of for memory_budget_mb: call prepare([...]) before the first "
                "frame, with a budget that holds all points"
            )
        return self._bind(point, ready)

    def _answer(self, active: _Active, x_NCHW: Floats, started_s: float, ready_s: float) -> list[Prediction]:
        logits_NK = self._run(active, x_NCHW)
        done_s = time.perf_counter()
        answers = []
        for logits_K in logits_NK:
            probabilities_K = softmax(logits_K, active.temperature)
            label = int(probabilities_K.argmax())
            answers.append(
                Prediction(
                    point=active.point,
                    label=label,
                    class_name=self.bundle.class_names[label],
                    confidence=float(probabilities_K[label]),
                    probabilities_K=probabilities_K,
                    logits_K=logits_K,
                    preprocess_ms=1e3 * (ready_s - started_s),
                    latency_ms=1e3 * (done_s - ready_s),
                )
            )
        return answers

    def close(self) -> None:
        """Wait for the preparing thread and let go of every plan; from then on frames and switches are refused.

        Does nothing in a fork of the process that loaded the runtime: the engine's threads are not there to be ended.
        """
        if os.getpid() != self._pid:
            return
        with self._lock:
            self._closed, self._pending = True, None
            old = self._active
            self._active = _Active(old.point, _ClosedPlan(), threading.Lock(), 1.0, old.since_s)
        self._preparer.shutdown(wait=True, cancel_futures=True)
        self._plans.close()

    def _refuse_if_closed(self) -> None:
        self._refuse_in_a_fork()
        if self._closed:
            _refuse()

    def _refuse_in_a_fork(self) -> None:
        """An engine's threads, and whoever held a lock, are not there after `os.fork`: a call would wait for good."""
        if os.getpid() != self._pid:
            raise OATError(
                f"this runtime belongs to process {self._pid} and cannot run in a fork of it: load the bundle in each "
                "process, and start processes with the method 'spawn' or 'forkserver'"
            )


def _safest(table: OperatingTable) -> OperatingPoint:
    """The point of the widest rows with the best lower bound in its worst regime, of several the most robust one."""
    widest = [row for row in table.rows if row.width == table.widths[-1]]
    return max(widest, key=lambda row: (row.minimax(), row.lam)).point


def _number(name: str, value: object, error: type[OATError]) -> float:
    """Return a number of any type, NumPy's too, as Python's own: equal points are one point, and print alike."""
    try:
        if isinstance(value, Real):
            return float(value)
    except OverflowError:
        pass
    raise error(f"{name} must be a number, got {quoted(value)}")


def _check_whole(name: str, value: object, *, least: int, most: float = math.inf) -> None:
    if not (isinstance(value, Integral) and least <= int(value) <= most):
        allowed = f"of at least {least}" if most == math.inf else f"from {least} to {most}"
        raise InputError(f"{name} must be a whole number {allowed}, got {quoted(value)}")


def _as_ours(error: BaseException) -> OATError:
    return error if isinstance(error, OATError) else OATError(f"preparing failed: {one_line(repr(error))}")


def _refuse() -> NoReturn:
    raise OATError(CLOSED)


class _ClosedPlan:
    """Stands where the active plan was, so that no frame has to ask whether the runtime is closed."""

    def __call__(self, x_NCHW: Floats) -> Floats:
        _refuse()

    def warm(self, max_batch: int) -> NoReturn:
        _refuse()

    def bare(self, x_NCHW: Floats) -> NoReturn:
        _refuse()
