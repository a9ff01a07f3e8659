"""Make the plans of one bundle when they are asked for, and hold them within a memory budget."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from oat_runtime.architecture import ModelConfig, knot_weights
from oat_runtime.backends import Compiled, CompileFn, Plan, Settings
from oat_runtime.backends.plan import Floats
from oat_runtime.devices import give_memory_back
from oat_runtime.errors import OATError
from oat_runtime.operating_point import OperatingPoint, Precision
from oat_runtime.plain_net import PlainNet, Tensors, constants, fold, share
from oat_runtime.quantization import Quantization

_LOG = logging.getLogger(__name__)

PlanForm = Literal["shared", "folded"]
"""How points become plans.

`shared`: one network a width, which takes a scale and a bias per channel at run time; any λ without compiling.
`folded`: one network a point, compiled for it; up to 6 % faster, and every point holds weights of its own. int8 is
folded always: its weights hold the norms, in a quarter of the memory.
"""
DEFAULT_BUDGET_MB = 64.0
"""Weights of folded plans: all 18 points of a WRN-16-2 (31 MB), not two of a ResNet-34 (85 MB each)."""
CLOSED = "this runtime is closed: load the bundle again"
_MOST_SHARED = 256
"""Most shared plans that are held, some kilobytes each, so that a slider of λ cannot fill the memory."""


@dataclass(frozen=True, slots=True)
class ReadyPlan:
    """A plan and the lock of the engine memory that it runs in."""

    plan: Plan
    lock: threading.Lock


@dataclass(frozen=True, slots=True)
class _Shared:
    """One width: its network, its lock, and the constants at each knot.

    Scale and bias are linear in γ and β, and those are linear in λ between two knots of the same batch norm; so any λ
    takes a mean of two rows, some microseconds.
    """

    network: Compiled
    lock: threading.Lock
    constants_KV: Floats

    def plan(self, lam: float, knots: Sequence[float]) -> ReadyPlan:
        """Return the plan of one λ."""
        weights_K = np.array(knot_weights(lam, knots), np.float32)
        return ReadyPlan(self.network.plan(weights_K @ self.constants_KV), self.lock)


CheckPlan = Callable[[OperatingPoint, Plan], None]
"""Holds a plan that was just made to what the trained network computes at its point; raises where it differs."""


class PlanStore:
    """Makes and keeps plans. `get` never waits for a compiler; `make` may."""

    def __init__(
        self,
        tensors: Tensors,
        config: ModelConfig,
        compile_fn: CompileFn,
        settings: Settings,
        *,
        form: PlanForm,
        budget_mb: float | None,
        check: CheckPlan | None = None,
        quantization: Quantization | None = None,
    ) -> None:
        """Compile nothing yet.

        Args:
            tensors: the weights, which must stay as they are.
            config: their architecture.
            compile_fn: the engine's.
            settings: of the engine.
            form: see `PlanForm`.
            budget_mb: megabytes of weights that folded plans may hold, 64 by default; a weight counts four bytes, in
                int8 one. Beyond it, plans between two trained λ are let go of, then trained ones, but these only for
                another trained one; of each kind those used least recently, and never the one just made.
            check: is asked about each knot of a width when its shared network is made, and about each folded plan;
                what it raises is raised on, and nothing is kept.
            quantization: what int8 needs; its plans are folded.
        """
        self._tensors, self._config, self._compile, self._settings = tensors, config, compile_fn, settings
        self._check, self._quantization = check, quantization
        self.form: PlanForm = form
        self._budget = 1e6 * (DEFAULT_BUDGET_MB if budget_mb is None else budget_mb)
        self._networks: dict[float, _Shared] = {}
        self._shared: OrderedDict[OperatingPoint, ReadyPlan] = OrderedDict()
        self._folded: OrderedDict[OperatingPoint, ReadyPlan] = OrderedDict()
        self._max_batch = 1
        self._closed = False
        self._making = threading.Lock()
        self._lock = threading.Lock()

    def get(self, point: OperatingPoint) -> ReadyPlan | None:
        """Return the point's plan if it is ready now; None if something must be compiled first."""
        with self._lock:
            if point in self._folded:
                self._folded.move_to_end(point)
                return self._folded[point]
            if point in self._shared:
                self._shared.move_to_end(point)
                return self._shared[point]
            if point.width not in self._networks:
                return None
            ready = self._networks[point.width].plan(point.lam, self._config.lambdas)
            self._shared[point] = ready
            while len(self._shared) > _MOST_SHARED:
                self._shared.popitem(last=False)
            return ready

    def make(self, point: OperatingPoint, *, max_batch: int = 1) -> ReadyPlan:
        """Return the point's plan, and compile it first if needed.

        Args:
            point: one that the bundle offers.
            max_batch: images that a call may bring, of this plan and of all that are made after it.

        Raises:
            BackendError: the engine refused the network.
            OATError: it fails the check, or the store is closed.
        """
        with self._making:
            if self._closed:
                raise OATError(CLOSED)
            self._max_batch = max(self._max_batch, max_batch)
            if (ready := self.get(point)) is None:
                ready = self._fold(point) if self.form == "folded" else self._share(point)
                give_memory_back()
            with ready.lock:
                ready.plan.warm(self._max_batch)
            return ready

    def close(self) -> None:
        """Drop all plans, return their memory to the system, and make no more."""
        with self._making, self._lock:
            self._closed = True
            for plans in (self._networks, self._shared, self._folded):
                plans.clear()
        give_memory_back()

    def _share(self, point: OperatingPoint) -> ReadyPlan:
        """Compile the network of the point's width."""
        width, knots = point.width, self._config.lambdas
        network = self._compile(lambda: self._shared_net(width), self._settings, shared=True)
        rows = [constants(self._tensors, self._config, lam=lam, width=width) for lam in knots]
        shared = _Shared(network, threading.Lock(), np.stack(rows))
        self._try({OperatingPoint(lam, width): shared.plan(lam, knots).plan for lam in knots})
        with self._lock:
            self._networks[width] = shared
        ready = self.get(point)
        assert ready is not None
        return ready

    def _try(self, plans: Mapping[OperatingPoint, Plan]) -> None:
        """Run once, so that the first frame is as fast as the others, and check what comes out."""
        if self._check is None:
            next(iter(plans.values()))(np.zeros((1, 3, *self._settings.input_hw), np.float32))
            return
        for point, plan in plans.items():
            self._check(point, plan)

    def _fold(self, point: OperatingPoint) -> ReadyPlan:
        def make_net() -> PlainNet:
            return fold(self._tensors, self._config, lam=point.lam, width=point.width, quantization=self._quantization)

        ready = ReadyPlan(self._compile(make_net, self._settings).plan(), threading.Lock())
        self._try({point: ready.plan})
        with self._lock:
            self._folded[point] = ready
            while self._held() > self._budget and (gone := self._to_drop(point)) is not None:
                del self._folded[gone]
                _LOG.warning(
                    "%s lost its folded plan to the budget of %g MB: raise memory_budget_mb, or use %s",
                    gone,
                    self._budget / 1e6,
                    "precision='float32'" if self._settings.precision == "int8" else "plans='shared'",
                )
        return ready

    def _to_drop(self, made: OperatingPoint) -> OperatingPoint | None:
        """Return which folded plan goes first to make room for another, with the lock held; None: none may go."""
        trained = self._config.lambdas
        others = [point for point in self._folded if point != made]  # the one used least recently first
        between = [point for point in others if point.lam not in trained]
        return next(iter(between or (others if made.lam in trained else [])), None)

    def _held(self) -> int:
        return sum(map(self._num_bytes, self._folded))

    def _num_bytes(self, point: OperatingPoint) -> int:
        return folded_bytes(self._tensors, self._config, width=point.width, precision=self._settings.precision)

    def _shared_net(self, width: float) -> PlainNet:
        return share(self._tensors, self._config, width=width)


def folded_bytes(tensors: Tensors, config: ModelConfig, *, width: float, precision: Precision) -> int:
    """Return the bytes that the weights of one folded network count: one each in int8, otherwise four."""
    return (1 if precision == "int8" else 4) * share(tensors, config, width=width).num_weights
