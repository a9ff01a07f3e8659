"""Time several calls fairly in one process: they take turns in random order, so drift and noise affect all equally."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Key = TypeVar("Key", bound=Hashable)
Millis = npt.NDArray[np.float64]


def interleave(
    calls: Mapping[Key, Callable[[], object]],
    *,
    seconds: float,
    enter: Callable[[Key], object] | None = None,
    burst: int = 3,
    min_rounds: int = 7,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Key, Millis]:
    """Time calls against each other.

    Every round gives each call one turn, in an order drawn anew. A turn is `enter`, one untimed call that fills the
    caches (and lets the threads of the call before come to rest), then `burst` timed ones.

    Args:
        calls: what to time, by name.
        seconds: how long to go on.
        enter: called untimed with the name before its turn, to set the state that the call needs.
        burst: timed calls in a turn.
        min_rounds: least number of rounds, however long they take.
        clock: what a call is timed by, in seconds; `time.process_time` counts the CPU time of all threads.

    Returns:
        Milliseconds of each call, (rounds, burst): one row a round, so that rows of two calls belong together.
    """
    order = random.Random(0)
    turns = list(calls)
    taken: dict[Key, list[list[float]]] = {key: [] for key in turns}
    end_s = time.perf_counter() + seconds
    num_rounds = 0
    while num_rounds < min_rounds or time.perf_counter() < end_s:
        order.shuffle(turns)
        for key in turns:
            if enter is not None:
                enter(key)
            call = calls[key]
            call()
            times_ms = []
            for _ in range(burst):
                started_s = clock()
                call()
                times_ms.append(1e3 * (clock() - started_s))
            taken[key].append(times_ms)
        num_rounds += 1
    return {key: np.array(rounds) for key, rounds in taken.items()}


def median_ratio(times: Millis, baseline: Millis) -> float:
    """Return a call's time over the baseline's: the median over rounds of the ratio of their medians."""
    return float(np.median(np.median(times, axis=1) / np.median(baseline, axis=1)))


def p50_p99(times: Millis | Sequence[float]) -> tuple[float, float]:
    """Return median and 99th percentile of all timed calls, in milliseconds."""
    p50, p99 = np.percentile(times, (50.0, 99.0))
    return float(p50), float(p99)
