"""Raise an alarm when frames stop being like those of the calibration, with a bound on how often that is false.

Each frame gives an *e-value*: a bet against "this frame is like the calibration's" that pays 1 or less on average if it
is. The bet is a likelihood ratio, of the unusual kinds as far as the frames before made them probable, to clean. Its
price is what it pays on the calibration's own frames, so that no density has to be right.

The *evidence* R is a Shiryaev-Roberts statistic: at each frame, R becomes (R + time since the frame before) · e-value,
and the alarm is raised when R reaches `hours`. Whatever the length of a drive, even if data decide when it ends, the
expected number of false alarms in T hours is then at most T / `hours`, and so is the probability of any: R + `hours` ·
alarms − time is a supermartingale (Shin, Ramdas and Rinaldo, "E-detectors", 2023; for a single test, Ville 1939).

This holds if each frame, given those before, is distributed as the calibration's frames are. Frames that resemble their
neighbours break it. If up to 1 / `independence` neighbours repeat each other, the e-value to the power `independence`
is one again, by Hölder's inequality; `oat-calibrate` measures the independence.

Shape legend: N calibration frames, K kinds of image, the last two of them drifted and unknown; S statistics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policy.snapshot import Remembering

_Array = NDArray[np.float64]
_MOST_RATIO = 20.0
"""Largest pay of a bet. A twentieth of the calibration's frames would have to pay it to raise the price by 1."""
_SLACK = 1.0
"""Standard errors of the price that are added to it: few frames know it inexactly."""
_MOST_STEP_S = 1.0
"""Largest time between frames that counts. A pause brings no evidence."""
_FADING_S, _END = 1.0, 0.05
"""While the alarm is raised, its evidence fades with this time constant; it ends at this share of `hours`."""
_MOST_LOG = 50.0
DEGREES_OF_FREEDOM = 4.0
"""Kinds are multivariate Student t. With Gaussian tails, contrast at severity 5 was unlike anything fitted, and 35 of
27,000 clean frames looked corrupted instead of 2 (validation images)."""


def log_t(square: float | _Array, num_statistics: int) -> float | _Array:
    """Return the log density of a Student t at a squared whitened distance, up to a constant."""
    return -0.5 * (DEGREES_OF_FREEDOM + num_statistics) * np.log1p(square / DEGREES_OF_FREEDOM)


def ratios(log_density_K: _Array, clean: float | _Array) -> _Array:
    """Return likelihood ratios to clean, from log densities; far beyond any pay of a bet they are cut off."""
    capped: _Array = np.exp(np.minimum(log_density_K - clean, _MOST_LOG))
    return capped


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """The calibration's frames, which say what a bet pays while all is well.

    Attributes:
        ratio_NK: likelihood ratio of each frame under each fitted kind and under *unknown* to clean; that under
            *drifted*, before the last, is not used.
        white_NS: whitened distance of each frame from clean.
    """

    ratio_NK: _Array
    white_NS: _Array

    def price(self, weight_K: _Array, shift_S: _Array) -> float:
        """Return what a bet pays on average, and a standard error more.

        Args:
            weight_K: weights of the kinds in the bet; they sum to 1.
            shift_S: how far drifted images lie from clean, whitened.
        """
        apart_NS, num = self.white_NS - shift_S, self.white_NS.shape[1]
        moved_N = np.einsum("ns,ns->n", apart_NS, apart_NS)
        clean_N = np.einsum("ns,ns->n", self.white_NS, self.white_NS)
        drifted_N = np.exp(log_t(moved_N, num) - log_t(clean_N, num))
        fixed_K = weight_K.copy()
        fixed_K[-2] = 0.0
        pay_N = np.minimum(self.ratio_NK @ fixed_K + weight_K[-2] * drifted_N, _MOST_RATIO)
        return float(pay_N.mean() + _SLACK * pay_N.std() / math.sqrt(len(pay_N)))


def e_value(ratio: float, price: float) -> float:
    """Return the e-value of a frame on which a bet with this price has this likelihood ratio."""
    return min(ratio, _MOST_RATIO) / price


class Alarm(Remembering):
    """Add up the evidence that something changed."""

    _REMEMBERED = ("_evidence_h", "_raised")

    def __init__(self, hours: float) -> None:
        """Start without evidence.

        Args:
            hours: mean time between two false alarms that is guaranteed.
        """
        self._hours = hours
        self._evidence_h, self._raised = 0.0, 0.0

    @property
    def raised(self) -> bool:
        """Whether frames are unlike the calibration's now."""
        return self._raised == 1.0

    def update(self, frame: float, *, elapsed_s: float) -> None:
        """Take in a frame's e-value.

        An alarm ends when the frames of about three seconds brought no more evidence; then all begins anew. So it ends
        where an adaptive bet on clean frames is hardly a bet any more, and its e-values are close to 1.
        """
        step_s = min(elapsed_s, _MOST_STEP_S)
        if not self._raised:
            self._evidence_h = (self._evidence_h + step_s / 3600) * frame
            if self._evidence_h >= self._hours:
                self._evidence_h, self._raised = self._hours, 1.0
            return
        self._evidence_h = min(self._evidence_h * frame * math.exp(-step_s / _FADING_S), self._hours)
        if self._evidence_h < _END * self._hours:
            self._evidence_h, self._raised = 0.0, 0.0
