"""Turn each image statistic into a standard normal value, by its rank among clean images.

Statistics of clean images are skewed, and some pile up at an edge. Colour noise, for example, has a least value that
most clean images share and few corrupted ones do, and a Gaussian cannot describe that edge. With ranks, frost is
noticed more than a frame earlier at an equal number of false alarms (576,000 frames of training images;
docs/log/policy-noticing.md).

Shape legend: N images, S statistics, Q ranks.
"""

from __future__ import annotations

import itertools
from statistics import NormalDist
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator

_Statistics = NDArray[np.float64]
_NUM_RANKS = 33
"""17 to 101 do equally well."""
_TIE = 1e-6
"""Equal values are moved this far apart, so that each has a score."""
_FAR = 10.0
"""Beyond the outermost rank, scores go on for this many times the rise of the outermost eighth, then stop."""
_MIN_RISE = 1e-3
"""Least change of a statistic for one standard deviation, for statistics that hardly vary."""


def _ascending(values: tuple[float, ...]) -> tuple[float, ...]:
    if len(values) < 2 or any(low >= high for low, high in itertools.pairwise(values)):
        raise ValueError(f"ranks must be two ascending values or more, got {values}")
    return values


Ranks = Annotated[tuple[float, ...], AfterValidator(_ascending)]
"""Values of one statistic at evenly spaced ranks of clean images, ascending."""


def ranks_of(stats_NS: _Statistics) -> tuple[Ranks, ...]:
    """Return the ranks of each statistic; nine significant digits keep ties apart and the file small."""
    at_QS = np.quantile(stats_NS, (np.arange(_NUM_RANKS) + 0.5) / _NUM_RANKS, axis=0)
    apart_QS = at_QS + _TIE * np.arange(_NUM_RANKS)[:, None]
    return tuple(tuple(float(f"{value:.9g}") for value in column_Q) for column_Q in apart_QS.T)


class NormalScores:
    """Turn statistics into the standard normal values of their ranks, linear between the ranks and a little beyond."""

    def __init__(self, ranks: tuple[Ranks, ...]) -> None:
        """Add a far knot at both ends, in line with the outermost eighth."""
        knots = [_knots(values) for values in ranks]
        self._known_SQ = np.array([known_Q for known_Q, _ in knots])
        self._score_SQ = np.array([score_Q for _, score_Q in knots])
        # One column more than rises are, so that one index serves all three.
        self._rise_SQ = np.zeros_like(self._known_SQ)
        self._rise_SQ[..., :-1] = np.diff(self._score_SQ) / np.diff(self._known_SQ)
        self._first_S = np.arange(len(knots)) * self._known_SQ.shape[-1]

    def __call__(self, stats_NS: _Statistics) -> _Statistics:
        """Return the scores (N, S), or the statistics themselves if there are no ranks.

        All columns at once: for one frame, a call of `np.interp` for each of them takes three times as long.
        """
        if not len(self._known_SQ):
            return stats_NS
        within_NS = np.minimum(np.maximum(stats_NS, self._known_SQ[:, 0]), self._known_SQ[:, -1])
        at_NS = np.add.reduce(within_NS[:, :, None] >= self._known_SQ[:, 1:-1], axis=2, dtype=np.intp)
        at_NS += self._first_S
        apart_NS = within_NS - self._known_SQ.ravel()[at_NS]
        scores_NS: _Statistics = self._rise_SQ.ravel()[at_NS] * apart_NS + self._score_SQ.ravel()[at_NS]
        return scores_NS


def _knots(values: Ranks) -> tuple[_Statistics, _Statistics]:
    count, eighth = len(values), max(1, len(values) // 8)
    scores = [NormalDist().inv_cdf((rank + 0.5) / count) for rank in range(count)]
    step = scores[eighth] - scores[0]
    low = max(values[eighth] - values[0], _MIN_RISE * step)
    high = max(values[-1] - values[-1 - eighth], _MIN_RISE * step)
    known_Q = np.array([values[0] - _FAR * low, *values, values[-1] + _FAR * high])
    return known_Q, np.array([scores[0] - _FAR * step, *scores, scores[-1] + _FAR * step])
