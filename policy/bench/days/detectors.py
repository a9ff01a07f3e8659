"""Raise alarms on a stream of frames: ours, the belief, and what others use. Each says on which frames it is raised.

ADWIN and the Mahalanobis distance are a few lines of our own, after the papers that are named: the libraries that have
them would bring pandas, and torch models of their own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from policy.belief.constants import EstimatorConstants
from policy.config import PolicyConfig
from policy.fitting.drives import stream

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
_EWMA_GAIN = 0.2
_MOST_WINDOW, _LEAST_PART, _HELD = 400, 5, 10


def ours(
    stats_TS: Floats, constants: EstimatorConstants, config: PolicyConfig, *, frame_s: float
) -> tuple[Bools, Bools]:
    """Return (whether our alarm is raised, whether the belief alone would raise one) on each frame."""
    raised, unusual = [], []
    for belief in stream(constants, stats_TS, frame_s=frame_s, config=config):
        raised.append(belief.alarmed())
        unusual.append(belief.unusual())
    return np.array(raised, bool), np.array(unusual, bool)


def adwin(value_T: Floats, *, delta: float) -> Bools:
    """Return where a window of values in [0, 1] fell apart into two means, and the ten frames from there on.

    Bifet and Gavaldà, "Learning from time-changing data with adaptive windowing", SDM 2007.
    """
    raised_T, window = np.zeros(len(value_T), bool), np.empty(0)
    for t, value in enumerate(value_T.tolist()):
        window = np.append(window, value)[-_MOST_WINDOW:]
        while len(window) >= 2 * _LEAST_PART:
            cuts = np.arange(_LEAST_PART, len(window) - _LEAST_PART + 1)
            sums = np.cumsum(window)
            first = sums[cuts - 1] / cuts
            second = (sums[-1] - sums[cuts - 1]) / (len(window) - cuts)
            inverse = 1 / cuts + 1 / (len(window) - cuts)
            log = max(0.05, float(np.log(2 * np.log(len(window)) / delta)))
            most = np.sqrt(2 * inverse * window.var() * log) + 2 / 3 * inverse * log
            apart = np.flatnonzero(np.abs(first - second) > most)
            if not len(apart):
                break
            raised_T[t : t + _HELD] = True
            window = window[cuts[apart[-1]] :]
    return raised_T


def mahalanobis(train_NC: NDArray[np.float32], labels_N: NDArray[np.int64], feature_NC: NDArray[np.float32]) -> Floats:
    """Return each region's least distance to a class mean of known features (Lee et al., NeurIPS 2018)."""
    classes = np.unique(labels_N)
    means_KC = np.stack([train_NC[labels_N == one].mean(axis=0) for one in classes])
    centred_NC = train_NC - means_KC[np.searchsorted(classes, labels_N)]
    covariance_CC = np.cov(centred_NC.T) + 1e-3 * np.eye(train_NC.shape[1])
    whitening_CC = np.linalg.inv(np.linalg.cholesky(covariance_CC))
    white_KC, white_NC = means_KC @ whitening_CC.T, feature_NC @ whitening_CC.T
    square_NK = (white_NC**2).sum(axis=1)[:, None] - 2 * white_NC @ white_KC.T + (white_KC**2).sum(axis=1)
    least_N: Floats = np.sqrt(np.maximum(square_NK, 0)).min(axis=1)
    return least_N


def above_mean(value_T: Floats, *, limit: float) -> Bools:
    """Return where the running mean of a distance is above a limit."""
    raised, mean = [], float(value_T[0])
    for value in value_T.tolist():
        mean += _EWMA_GAIN * (value - mean)
        raised.append(mean > limit)
    return np.array(raised)
