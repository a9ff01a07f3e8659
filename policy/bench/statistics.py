"""Compute figures with intervals. Images repeat in and between streams, so intervals are bootstrapped over images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policy.bench.streams import Stream

Bools = NDArray[np.bool_]
_NUM_RESAMPLES, _LEAST_SEGMENT = 1000, 100


@dataclass(frozen=True, slots=True)
class Estimate:
    """A share or a difference of shares with its 95 % interval."""

    value: float
    low: float
    high: float


def accuracy(streams: Sequence[Stream], correct: Sequence[Bools], where: Sequence[Bools] | None = None) -> Estimate:
    """Return the share of frames that were classified correctly; with `where`, of those frames."""
    return _clustered(streams, [correct_T.astype(np.float64) for correct_T in correct], where)


def difference(
    streams: Sequence[Stream], ours: Sequence[Bools], theirs: Sequence[Bools], where: Sequence[Bools] | None = None
) -> Estimate:
    """Return the paired difference of accuracy, ours minus theirs, on the same frames."""
    return _clustered(streams, [a_T.astype(np.float64) - b_T for a_T, b_T in zip(ours, theirs, strict=True)], where)


def _clustered(
    streams: Sequence[Stream], values: Sequence[NDArray[np.float64]], where: Sequence[Bools] | None
) -> Estimate:
    keep = np.concatenate(where) if where is not None else np.ones(sum(map(len, values)), bool)
    value_T = np.concatenate(values)[keep]
    image_T = np.concatenate([stream.image_T for stream in streams])[keep]
    if not len(value_T):
        return Estimate(float("nan"), float("nan"), float("nan"))
    num_images = int(image_T.max()) + 1
    sums_N = np.bincount(image_T, value_T, num_images)
    counts_N = np.bincount(image_T, minlength=num_images)
    draws = np.random.default_rng(0).multinomial(num_images, np.full(num_images, 1 / num_images), size=_NUM_RESAMPLES)
    means = (draws @ sums_N) / np.maximum(draws @ counts_N, 1)
    low, high = np.quantile(means, (0.025, 0.975))
    return Estimate(float(value_T.mean()), float(low), float(high))


def worst_segment(streams: Sequence[Stream], correct: Sequence[Bools]) -> float:
    """Return the lowest accuracy of any segment of at least 100 frames."""
    worst = 1.0
    for stream, correct_T in zip(streams, correct, strict=True):
        counts = np.bincount(stream.segment_T)
        shares = np.bincount(stream.segment_T, correct_T) / counts
        worst = min([worst, *shares[counts >= _LEAST_SEGMENT].tolist()])
    return worst


def delay_frames(alarm_T: Bools, *, onset: int) -> float:
    """Count the frames from the onset to the first alarm, including the one that raises it; infinite without alarm."""
    after = np.flatnonzero(alarm_T[onset:])
    return float(after[0] + 1) if len(after) else float("inf")


def runs(raised_T: Bools) -> list[slice]:
    """Return the stretches of frames on which something stays True, in their order."""
    edges = np.flatnonzero(np.diff(raised_T.astype(np.int8), prepend=0, append=0))
    return [slice(start, end) for start, end in edges.reshape(-1, 2).tolist()]
