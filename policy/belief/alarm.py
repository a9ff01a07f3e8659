"""Raise an alarm when frames stop being like those of the calibration, with a bound on how often that is false.

Each frame gives an *e-value*: a bet against "this frame is like the calibration's" that pays 1 or less on average if it
is. The bet is a likelihood ratio, of the unusual kinds as far as the frames before made them probable, to clean. Its
price is what it pays on the calibration's own frames, so that no density has to be right. The *evidence* R is a
Shiryaev-Roberts statistic, in seconds: at each frame, R becomes (R + time since the frame before) · e-value. The alarm
is raised when R reaches a limit. There are two promises, and `promised` says which one a calibration allows.

**By drives.** The calibration saw K drives, and says the largest R of each, by constants that did not see that drive.
If the next drive is like one more of them, all K + 1 orders of their largest R are equally probable. So R exceeds the
k-th smallest in at most (K + 1 − k) / (K + 1) of all drives (conformal prediction, Vovk et al. 2005). Nothing is said
about the frames of a drive: they may resemble each other, and have a mean of their own. It holds in drives that are no
longer than the calibration's. The constants in use are fitted to all K drives, and those that judged a
drive to four fifths of them. The promise is exact as far as these two fits judge a new drive alike; simulated, 3 to 5 %
of the drives raise an alarm where 5 % are promised (docs/log/policy-noticing.md).

**By frames.** The calibration knows no drives. If each frame, given those before, is distributed as the calibration's
are, the probability of R reaching a limit within T seconds is at most T / limit, whatever data decide when a drive
ends: R − time is a supermartingale (Shin, Ramdas and Rinaldo, "E-detectors", 2023). If up to 1 / `independence`
neighbours repeat each other, the e-value to the power `independence` is one again, by Hölder's inequality. But a hall
that the calibration did not see breaks it: there every frame is unlike the calibration's.

Shape legend: N calibration frames, K kinds of image, the last two of them drifted and unknown; S statistics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from policy.snapshot import Remembering

_Array = NDArray[np.float64]
_MOST_RATIO = 20.0
"""Largest pay of a bet. A twentieth of the calibration's frames would have to pay it to raise the price by 1."""
_LEAST_RATIO = 1e-12
_SLACK = 1.0
"""Standard errors of the price that are added to it: few frames know it inexactly."""
_MOST_STEP_S = 1.0
"""Largest time between frames that counts. A pause brings no evidence."""
_FADING_S, _LOG_END = 1.0, math.log(0.05)
"""While the alarm is raised, its evidence fades with this time constant; it ends at this share of the limit."""
_NONE = -1e3
"""Log of evidence that is none: a state holds finite numbers only."""
_MOST_LOG = 50.0
DEGREES_OF_FREEDOM = 4.0
"""Kinds are multivariate Student t. With Gaussian tails, contrast at severity 5 was unlike anything fitted, and 35 of
27,000 clean frames looked corrupted instead of 2 (validation images)."""


@overload
def log_t(square: float, num_statistics: int) -> float: ...
@overload
def log_t(square: _Array, num_statistics: int) -> _Array: ...
def log_t(square: float | _Array, num_statistics: int) -> float | _Array:
    """Return the log density of a Student t at squared whitened distances, up to a constant.

    One number goes by the C library's logarithm and an array by NumPy's. They differ in the last bit, and recorded
    decisions are replayed to the bit: so each keeps its own.

    Args:
        square: squared distances, float or float64 of any shape.
        num_statistics: dimensions of the distances.
    """
    log1p = math.log1p if isinstance(square, float) else np.log1p
    return -0.5 * (DEGREES_OF_FREEDOM + num_statistics) * log1p(square / DEGREES_OF_FREEDOM)


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
        num_N, mean = len(pay_N), float(pay_N.mean())
        variance = max(0.0, float(pay_N @ pay_N) / num_N - mean**2)
        return mean + _SLACK * math.sqrt(variance / num_N)


def log_e_value(ratio: float, price: float) -> float:
    """Return the log e-value of a frame on which a bet with this price has this likelihood ratio."""
    return math.log(max(min(ratio, _MOST_RATIO), _LEAST_RATIO) / price)


@dataclass(frozen=True, slots=True)
class Promise:
    """What the alarm promises.

    Attributes:
        num_drives: at most one drive in so many raises a false alarm.
        asked: the number that was asked for, which takes one drive less to calibrate on.
        log_limit: log of the evidence at which the alarm is raised, in seconds.
        assumed: under which condition, for people.
    """

    num_drives: int
    asked: int
    log_limit: float
    assumed: str

    def __str__(self) -> str:
        """As in `at most one drive in 20 raises a false alarm, if ...`."""
        few = self.num_drives < self.asked
        less = f" ({self.asked} were asked for: calibrate on {self.asked - 1} drives)" if few else ""
        return f"at most one drive in {self.num_drives} raises a false alarm, if {self.assumed}{less}"


def promised(drives: Sequence[float], *, num_drives: int, drive_s: float) -> Promise:
    """Return what can be promised.

    Args:
        drives: largest log evidence of each drive of the calibration, ascending; empty: it knows none.
        num_drives: what is asked for: at most one drive in so many.
        drive_s: length of a drive; it counts if the calibration knows none.
    """
    if not drives:
        assumed = f"it lasts {drive_s:g} s and its frames are like the calibration's: no other hall, light or camera"
        return Promise(num_drives, num_drives, math.log(num_drives * drive_s), assumed)
    known = len(drives)
    # Exact in whole numbers: the least k with k / (K + 1) >= 1 − 1 / num_drives.
    rank = min(-(-(known + 1) * (num_drives - 1) // num_drives), known)
    assumed = f"it is like one more of the {known} drives of the calibration, and lasts no longer"
    return Promise(min(num_drives, known + 1), num_drives, drives[rank - 1], assumed)


class Alarm(Remembering):
    """Add up the evidence that something changed."""

    _REMEMBERED = ("_evidence", "_raised")

    def __init__(self, log_limit: float) -> None:
        """Start without evidence.

        Args:
            log_limit: log of the evidence above which the alarm is raised, in seconds.
        """
        self._log_limit = log_limit
        self._evidence, self._raised = _NONE, 0.0

    @property
    def evidence(self) -> float:
        """Log of the evidence, in seconds."""
        return self._evidence

    @property
    def raised(self) -> bool:
        """Whether frames are unlike the calibration's now."""
        return self._raised == 1.0

    def update(self, log_e: float, *, elapsed_s: float) -> None:
        """Take in the log of a frame's e-value.

        An alarm ends when the frames of about three seconds brought no more evidence; then all begins anew. So it ends
        where an adaptive bet on clean frames is hardly a bet any more, and its e-values are close to 1.
        """
        step_s = min(elapsed_s, _MOST_STEP_S)
        if not self._raised:
            before = self._evidence if step_s <= 0 else float(np.logaddexp(self._evidence, math.log(step_s)))
            self._evidence = max(before + log_e, _NONE)
            if self._evidence > self._log_limit:
                self._evidence, self._raised = self._log_limit, 1.0
            return
        self._evidence = min(self._evidence + log_e - step_s / _FADING_S, self._log_limit)
        if self._evidence < self._log_limit + _LOG_END:
            self._evidence, self._raised = _NONE, 0.0
