"""Fit what frames that follow each other have in common: how far they drift, how much they repeat, how odd a drive is.

A *drive* is a session of frames. Frames of one drive resemble each other more than those of another: each hall, day and
camera has a mean of its own. So a fit to single frames takes every new drive for a change. Here that is measured: the
length of the drift that drives have by themselves, and the largest evidence that each of them gives the alarm.

Shape legend: F frames, S statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from policy.belief.alarm import Promise, promised
from policy.belief.constants import DRIFT_NOISE, EstimatorConstants
from policy.belief.filter import RegimeFilter
from policy.config import PolicyConfig
from policy.fitting.frames import Statistics
from policy.fitting.kinds import MeasuredKinds
from policy.image import ImageStatistics

_DRIFT_FACTORS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 1000.0)
_MOST_FOLDS = 5
LEAST_TO_JUDGE = 40
"""Corrupted frames that a fit needs at least to judge the drives that it did not see, and so as many clean ones;
densities have twelve statistics. Of two copies, a kind so thin was made that a clean drive's evidence was e^61."""
Fit = Callable[[MeasuredKinds], EstimatorConstants]


def fit_drives(measured: MeasuredKinds, fit: Fit) -> EstimatorConstants:
    """Return what `fit` returns, fitted to the order of the frames and to their drives as well.

    Each fifth of the drives is judged by a fit to the others, so that no drive is judged by constants that saw it. If
    that leaves too few frames to fit, these drives are not judged.

    Args:
        measured: frames, drive by drive.
        fit: makes constants of frames, without regard to their order.
    """
    sessions = np.unique(measured.session_F)
    folds = min(_MOST_FOLDS, len(sessions))
    peaks: list[float] = []
    for fold in range(folds):
        judged = sessions[fold::folds]
        others = measured.of_sessions(np.setdiff1d(sessions, judged))
        if len(others.at_G) >= LEAST_TO_JUDGE:
            streams = measured.of_sessions(judged).streams
            peaks += peaks_of(_ordered(others, fit), streams, frame_s=measured.frame_s)
    return _ordered(measured, fit).model_copy(update={"drives": tuple(sorted(round(peak, 3) for peak in peaks))})


def peaks_of(constants: EstimatorConstants, streams: Sequence[Statistics], *, frame_s: float) -> list[float]:
    """Return the largest log evidence of a change that each drive gives the alarm; see `EstimatorConstants.drives`."""
    endless = constants.model_copy(update={"drives": (np.inf,)})
    return [max(belief.evidence for belief in stream(endless, one_FS, frame_s=frame_s)) for one_FS in streams]


def promise_of(constants: EstimatorConstants) -> Promise:
    """Return what the alarm promises with these constants and default settings."""
    config = PolicyConfig()
    return promised(constants.drives, num_drives=config.false_alarm_drives, drive_s=config.mission_s)


def stream(
    constants: EstimatorConstants, stats_FS: Statistics, *, frame_s: float, config: PolicyConfig | None = None
) -> Iterator[RegimeFilter]:
    """Yield the belief after each frame of a drive, by image evidence alone; without `config`, at its defaults."""
    belief = RegimeFilter(constants, PolicyConfig() if config is None else config)
    for frame_S in stats_FS:
        belief.update(ImageStatistics(*frame_S.tolist()), None, elapsed_s=frame_s)
        yield belief


def count_alarms(constants: EstimatorConstants, stats_FS: Statistics, *, frame_s: float) -> int:
    """Count the frames of a drive that are in alarm, by image evidence alone."""
    return sum(belief.alarmed() for belief in stream(constants, stats_FS, frame_s=frame_s))


def _ordered(measured: MeasuredKinds, fit: Fit) -> EstimatorConstants:
    """Fit, then measure `independence` and `drift_noise` on the frames in their order."""
    streams = measured.streams
    constants = fit(measured).model_copy(update={"independence": independence(streams)})
    if len(streams) == 1:
        return with_drift_noise(constants, streams[0], frame_s=measured.frame_s)
    lengths = [
        belief.drift2 for stats_FS in streams for belief in stream(constants, stats_FS, frame_s=measured.frame_s)
    ]
    return constants.model_copy(update={"drift_noise": max(DRIFT_NOISE, float(np.mean(lengths)))})


def with_drift_noise(constants: EstimatorConstants, stats_FS: Statistics, *, frame_s: float) -> EstimatorConstants:
    """Return the constants with the least `drift_noise` at which a clean stream looks unusual least."""

    def unusual(factor: float) -> int:
        return sum(belief.unusual() for belief in stream(at(factor), stats_FS, frame_s=frame_s))

    def at(factor: float) -> EstimatorConstants:
        return constants.model_copy(update={"drift_noise": factor * DRIFT_NOISE})

    fewest = unusual(_DRIFT_FACTORS[-1])
    return at(next(factor for factor in _DRIFT_FACTORS if unusual(factor) <= fewest))


def independence(streams: Sequence[Statistics]) -> float:
    """Return how much of a frame's evidence is new: (1 − ρ) / (1 + ρ), with ρ the mean correlation of neighbours.

    In a first-order autoregressive series, this is the effective share of independent draws. What the frames of a drive
    have in common counts as repeated.
    """
    together_FS = np.concatenate(streams)
    mean_S, scale_S = together_FS.mean(axis=0), together_FS.std(axis=0) + 1e-9
    centred = [(stats_FS - mean_S) / scale_S for stats_FS in streams]
    products = [one_FS[1:] * one_FS[:-1] for one_FS in centred]
    rho = float(np.mean(np.concatenate(products))) if sum(map(len, products)) else 0.0
    rho = min(max(rho, 0.0), 0.99)
    return (1 - rho) / (1 + rho)
