"""Give operating tables this machine's latencies, and energies that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from oat_runtime.bundle import Bundle
from oat_runtime.devices import processor_name
from oat_runtime.operating_point import OperatingPoint, OperatingTable
from oat_runtime.timing import interleave, p50_p99
from policy.bench.recorded_network import float32_runtime

SIMULATED_WATTS = 15.0
"""Power of the running network. Few machines have a counter, so energies are simulated."""


def profiled(bundle: Bundle, *, seconds: float, num_threads: int) -> OperatingTable:
    """Return the `select` table with this machine's latencies and simulated energies."""
    runtime = float32_runtime(bundle, num_threads=num_threads)
    table = bundle.select
    points = {width: OperatingPoint(table.lambdas[0], width) for width in table.widths}
    runtime.prepare(points.values())
    x_1CHW = np.zeros((1, 3, bundle.input.height, bundle.input.width), np.float32)
    taken = interleave(
        dict.fromkeys(points, partial(runtime.infer, x_1CHW)),
        seconds=seconds,
        enter=lambda width: runtime.set_point(lam=points[width].lam, width=width),
    )
    runtime.close()
    p50_ms = {width: p50_p99(millis)[0] for width, millis in taken.items()}
    return with_costs(table, p50_ms, device=f"{processor_name()}, simulated energy")


def with_costs(table: OperatingTable, p50_ms: Mapping[float, float], *, device: str) -> OperatingTable:
    """Return the table with the latencies and simulated energies of one image, as a device profile has them.

    Args:
        table: without a profile.
        p50_ms: by width, median milliseconds. The p99 is 1.15 times that: what is played draws from a spread of its
            own, and a measured tail would be the noise of the machine.
        device: what the profile says of its machine.
    """
    costs = {
        width: {"latency_ms_p50": p50, "latency_ms_p99": 1.15 * p50, "energy_j": SIMULATED_WATTS * p50 / 1e3}
        for width, p50 in p50_ms.items()
    }
    rows = tuple(row.model_copy(update=costs[row.width]) for row in table.rows)
    return table.with_rows(rows, device=device)
