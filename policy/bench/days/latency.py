"""Measure how long the network takes for the regions of a frame, alone and beside a process that eats a core."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from oat_runtime.bundle import Bundle
from oat_runtime.operating_point import OperatingPoint, OperatingTable
from oat_runtime.timing import interleave, p50_p99
from policy.bench.profiles import with_costs
from policy.bench.recorded_network import float32_runtime

HERTZ = (10, 30)
_FEW, _MANY = 1, 12
"""Batches that are timed. A frame's time lies on the line between them."""


@dataclass(frozen=True, slots=True)
class Latencies:
    """The network's milliseconds at each width, as a line over the number of inputs.

    Attributes:
        lines: (milliseconds of none, milliseconds of each more) by width.
    """

    lines: dict[float, tuple[float, float]]

    def __call__(self, width: float, num_regions: int) -> float:
        """Return the time of one frame: its regions, and the whole image that the node answers beside them."""
        none, each = self.lines[width]
        return none + each * (num_regions + 1)

    def of(self, width_T: NDArray[np.float64], regions_T: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the times of many frames."""
        pairs = zip(width_T.tolist(), regions_T.tolist(), strict=True)
        return np.array([self(width, num) for width, num in pairs])

    def profiled(self, table: OperatingTable) -> OperatingTable:
        """Return the table with these latencies of one input, as a device profile has them."""
        costs = {width: none + each for width, (none, each) in self.lines.items()}
        return with_costs(table, costs, device="simulated from measured latencies")


def measure(bundle: Bundle, *, seconds: float, num_threads: int) -> dict[str, Latencies]:
    """Return the latencies of this machine, alone and under load."""
    found = {"alone": _measured(bundle, seconds=seconds, num_threads=num_threads)}
    with _busy():
        found["beside a busy process"] = _measured(bundle, seconds=seconds, num_threads=num_threads)
    return found


def _measured(bundle: Bundle, *, seconds: float, num_threads: int) -> Latencies:
    runtime, table = float32_runtime(bundle, num_threads=num_threads), bundle.select
    points = {width: OperatingPoint(table.lambdas[0], width) for width in table.widths}
    runtime.prepare(points.values())
    spec = bundle.input
    calls = {
        (width, num): partial(runtime.infer, np.zeros((num, 3, spec.height, spec.width), np.float32))
        for width in table.widths
        for num in (_FEW, _MANY)
    }
    taken = interleave(
        calls, seconds=seconds, enter=lambda key: runtime.set_point(lam=points[key[0]].lam, width=key[0])
    )
    runtime.close()
    lines = {}
    for width in table.widths:
        few, many = (p50_p99(taken[width, num])[0] for num in (_FEW, _MANY))
        each = max(0.0, (many - few) / (_MANY - _FEW))
        lines[width] = few - _FEW * each, each
    return Latencies(lines)


@contextmanager
def _busy() -> Iterator[None]:
    """Keep one core busy with another process."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        other.kill()
        other.wait()
