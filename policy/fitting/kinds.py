"""Fit a density to the image statistics of each kind of image. This needs images and corruptions, but no network.

Shape legend: F frames, N inputs, G frames that are corrupted, H height, W width, C channels (RGB), S statistics.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from oat_runtime.operating_point import Regime
from oat_runtime.report import progress
from policy.belief.constants import PRIOR, STRENGTHS, EstimatorConstants, ImageKind, NetworkRates
from policy.belief.ranks import NormalScores, ranks_of
from policy.fitting.frames import Frames, Statistics, statistics_of
from policy.fitting.rates import Corrupt
from policy.image import ImageStatistics

_SHRINKAGE = 0.3
"""Share of the pooled covariance that is mixed into each kind's own, which helps with kinds that are not fitted."""
_OUTLIER_QUANTILE = 0.001
_MOST_REFERENCE = 400
"""Clean frames that are kept for the alarm; a price by 400 takes 40 µs a frame."""
_OUTLIER_SLACK_NATS = 10.0
"""How far below that quantile an image must lie to count as unlike anything fitted."""
MOST_CORRUPTED = 400
"""Frames that a fit corrupts, evenly spread. More frames cost time and change little."""


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredKinds:
    """Statistics of clean frames, and of corrupted copies of some of them.

    Attributes:
        clean_FS: of all frames, session by session.
        session_F: number of the session of each.
        frame_s: seconds between two frames of a session.
        at_G: places of the frames that were corrupted.
        corrupted_GS: by the name of the kind, its regime and the statistics of its copies.
    """

    clean_FS: Statistics
    session_F: NDArray[np.int64]
    frame_s: float
    at_G: NDArray[np.int64]
    corrupted_GS: dict[str, tuple[Regime, Statistics]]

    @property
    def streams(self) -> list[Statistics]:
        """The clean frames, session by session."""
        return np.split(self.clean_FS, np.flatnonzero(np.diff(self.session_F)) + 1)

    def in_blocks(self, num: int) -> MeasuredKinds:
        """Return the same frames, with equal parts of them as sessions."""
        return replace(self, session_F=np.arange(len(self.clean_FS)) * num // len(self.clean_FS))

    def of_sessions(self, sessions: NDArray[np.int64]) -> MeasuredKinds:
        """Return what was measured of these sessions alone."""
        here_F = np.isin(self.session_F, sessions)
        here_G = here_F[self.at_G]
        return MeasuredKinds(
            self.clean_FS[here_F],
            self.session_F[here_F],
            self.frame_s,
            (np.cumsum(here_F) - 1)[self.at_G[here_G]],
            {name: (regime, stats_GS[here_G]) for name, (regime, stats_GS) in self.corrupted_GS.items()},
        )


def measure_kinds(
    frames: Frames,
    *,
    corrupt: Corrupt,
    regimes: Mapping[str, Regime],
    rng: np.random.Generator,
    most_corrupted: int | None = None,
) -> MeasuredKinds:
    """Measure clean frames, and copies of them under each kind of corruption at three strengths.

    Args:
        frames: clean ones, never of a test set.
        corrupt: makes a corrupted copy.
        regimes: the kinds of corruption and their regimes (the fitting half only).
        rng: draws the corruptions.
        most_corrupted: frames that are corrupted at most, evenly spread; None: all.
    """
    at_G = frames.spread(len(frames) if most_corrupted is None else most_corrupted)
    chosen = frames.at(at_G)
    corrupted = {}
    for name, regime in progress(regimes.items(), "the kinds of image"):
        for strength, severities in STRENGTHS.items():
            drawn_G = rng.choice(severities, size=len(at_G))
            pairs = zip(chosen.images_NHWC, np.repeat(drawn_G, chosen.num_inputs_F), strict=True)
            images_NHWC = np.stack([corrupt(image, name, int(severity), rng=rng) for image, severity in pairs])
            corrupted[f"{name}-{strength}"] = regime, statistics_of(images_NHWC, chosen.start_F)
    return MeasuredKinds(frames.statistics(), frames.session_F, frames.frame_s, at_G, corrupted)


def fit_kinds(
    measured: MeasuredKinds,
    *,
    attacked: Mapping[str, Statistics] | None = None,
    network: tuple[NetworkRates, ...] = (),
    spread: Mapping[Regime, float] | None = None,
    fitted_on: str = "",
) -> EstimatorConstants:
    """Fit the constants to clean frames, to each kind of corruption, and to attacked frames, if any.

    One more kind stands for weather that is not fitted: the mean of the low-frequency kinds at medium strength. With
    it, frost is noticed half a frame earlier.

    Args:
        measured: statistics of frames and of their corrupted copies.
        attacked: statistics of attacked frames by name (F, S). An attack may leave no trace in the statistics, so one
            adversarial kind always looks like clean images; it is told apart by the network's own signals only.
        network: rates from `policy.fitting.rates.measure_rates`, one for each λ.
        spread: from the same.
        fitted_on: provenance, for people.
    """
    ranks = ranks_of(measured.clean_FS)
    normal = NormalScores(ranks)
    clean = normal(measured.clean_FS)
    groups: list[tuple[str, Regime, Statistics]] = [
        ("clean", Regime.CLEAN, clean),
        ("attack-without-trace", Regime.ADVERSARIAL, clean),
    ]
    groups += [(name, Regime.ADVERSARIAL, normal(stats_FS)) for name, stats_FS in (attacked or {}).items()]
    groups += [(name, regime, normal(stats_GS)) for name, (regime, stats_GS) in measured.corrupted_GS.items()]
    own = [np.cov(stats_NS.T) for _, _, stats_NS in groups]
    pooled = np.mean(own, axis=0)
    covariances = [(1 - _SHRINKAGE) * covariance + _SHRINKAGE * pooled for covariance in own]
    kinds = tuple(
        image_kind(name, regime, stats_NS.mean(axis=0), covariance)
        for (name, regime, stats_NS), covariance in zip(groups, covariances, strict=True)
    )
    weather = [i for i, kind in enumerate(kinds) if _is_medium_haze(kind)]
    if len(weather) > 1:
        middle_S = np.mean([kinds[i].mean for i in weather], axis=0)
        covariance = np.mean([covariances[i] for i in weather], axis=0)
        name = f"{Regime.LOW_FREQUENCY}-medium"
        kinds += (image_kind(name, Regime.LOW_FREQUENCY, middle_S, covariance),)
    kept = np.linspace(0, len(clean) - 1, min(_MOST_REFERENCE, len(clean))).astype(int)
    lowest = float(np.quantile(_best_log_density(clean, kinds), _OUTLIER_QUANTILE))
    return EstimatorConstants(
        statistics=ImageStatistics._fields,
        kinds=kinds,
        ranks=ranks,
        outlier_log_density=lowest - _OUTLIER_SLACK_NATS,
        reference=tuple(tuple(round(score, 3) for score in scores_S) for scores_S in clean[kept].tolist()),
        prior=PRIOR,
        network=network,
        spread=dict(spread or {}),
        fitted_on=fitted_on,
    )


def _is_medium_haze(kind: ImageKind) -> bool:
    return kind.regime is Regime.LOW_FREQUENCY and kind.severities == STRENGTHS["medium"]


def image_kind(name: str, regime: Regime, mean_S: Statistics, covariance_SS: Statistics) -> ImageKind:
    """Return a kind with this mean and covariance, rounded to six significant digits to keep the file small."""
    lower_SS = np.linalg.inv(np.linalg.cholesky(covariance_SS + 1e-9 * np.eye(len(covariance_SS))))
    triangle = lower_SS[np.tril_indices(len(covariance_SS))]
    return ImageKind(name=name, regime=regime, mean=_rounded(mean_S), whitening=_rounded(triangle))


def _rounded(values: Statistics) -> tuple[float, ...]:
    return tuple(float(f"{value:.6g}") for value in values)


def _best_log_density(stats_NS: Statistics, kinds: tuple[ImageKind, ...]) -> Statistics:
    densities = []
    for kind in kinds:
        whitening_SS = kind.whitening_SS()
        white_NS = (stats_NS - np.array(kind.mean)) @ whitening_SS.T
        densities.append(np.log(np.diag(whitening_SS)).sum() - 0.5 * (white_NS**2).sum(axis=1))
    best: Statistics = np.max(densities, axis=0)
    return best
