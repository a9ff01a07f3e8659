"""Fit a density to the image statistics of each kind of image. This needs images and corruptions, but no network.

Shape legend: N images, H height, W width, C channels (RGB), S statistics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from oat_runtime.data import LEAST_TO_FIT
from oat_runtime.errors import InputError
from oat_runtime.image import unit_planes
from oat_runtime.operating_point import Regime
from policy.belief.constants import DRIFT_NOISE, PRIOR, STRENGTHS, EstimatorConstants, ImageKind, NetworkRates
from policy.belief.filter import RegimeFilter
from policy.belief.ranks import NormalScores, ranks_of
from policy.config import PolicyConfig
from policy.fitting.rates import Corrupt
from policy.image import Images, ImageStatistics, image_statistics

Statistics = NDArray[np.float64]
_SHRINKAGE = 0.3
"""Share of the pooled covariance that is mixed into each kind's own, which helps with kinds that are not fitted."""
_OUTLIER_QUANTILE = 0.001
_MOST_REFERENCE = 400
"""Clean frames that are kept for the alarm; a price by 400 takes 40 µs a frame."""
_OUTLIER_SLACK_NATS = 10.0
"""How far below that quantile an image must lie to count as unlike anything fitted."""
_DRIFT_FACTORS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 1000.0)
_FRAME_S = 1 / 30


def fit_estimator(
    images_NHWC: Images,
    *,
    corrupt: Corrupt,
    regimes: Mapping[str, Regime],
    attacked: Mapping[str, Images] | None = None,
    network: tuple[NetworkRates, ...] = (),
    rng: np.random.Generator,
    fitted_on: str = "",
) -> EstimatorConstants:
    """Fit the constants to clean images, to each kind of corruption at three strengths, and to attacked images, if any.

    One more kind stands for weather that is not fitted: the mean of the low-frequency kinds at medium strength. With
    it, frost is noticed half a frame earlier.

    Args:
        images_NHWC: uint8 RGB, clean, at the network's input size; at least 100, never test images.
        corrupt: makes a corrupted copy.
        regimes: the kinds to fit and their regimes (the fitting half only).
        attacked: sets of attacked uint8 images by name. An attack may leave no trace in the statistics, so one
            adversarial kind always looks like clean images; it is told apart by the network's own signals only.
        network: rates from `policy.fitting.rates.measure_rates`, one for each λ.
        rng: draws the corruptions.
        fitted_on: provenance, for people.

    Raises:
        InputError: too few images, or not uint8 RGB.
    """
    if images_NHWC.dtype != np.uint8 or images_NHWC.ndim != 4 or len(images_NHWC) < LEAST_TO_FIT:
        raise InputError(
            f"expected uint8 RGB images (N, H, W, 3) with N >= {LEAST_TO_FIT}, "
            f"got {images_NHWC.dtype} {images_NHWC.shape}"
        )
    stats_NS = statistics_of(images_NHWC)
    ranks = ranks_of(stats_NS)
    normal = NormalScores(ranks)
    clean = normal(stats_NS)
    groups: list[tuple[str, Regime, Statistics]] = [
        ("clean", Regime.CLEAN, clean),
        ("attack-without-trace", Regime.ADVERSARIAL, clean),
    ]
    for name, images in (attacked or {}).items():
        groups.append((name, Regime.ADVERSARIAL, normal(statistics_of(images))))
    for name, regime in regimes.items():
        for strength, severities in STRENGTHS.items():
            drawn = rng.choice(severities, size=len(images_NHWC))
            images = np.stack(
                [
                    corrupt(image, name, int(severity), rng=rng)
                    for image, severity in zip(images_NHWC, drawn, strict=True)
                ]
            )
            groups.append((f"{name}-{strength}", regime, normal(statistics_of(images))))
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
    spread = np.linspace(0, len(clean) - 1, min(_MOST_REFERENCE, len(clean))).astype(int)
    lowest = float(np.quantile(_best_log_density(clean, kinds), _OUTLIER_QUANTILE))
    return EstimatorConstants(
        statistics=ImageStatistics._fields,
        kinds=kinds,
        ranks=ranks,
        outlier_log_density=lowest - _OUTLIER_SLACK_NATS,
        reference=tuple(tuple(round(score, 3) for score in scores_S) for scores_S in clean[spread].tolist()),
        prior=PRIOR,
        network=network,
        fitted_on=fitted_on,
    )


def statistics_of(images_NHWC: Images) -> Statistics:
    """Return the image statistics (N, S) of uint8 RGB network inputs."""
    return np.array([image_statistics(unit_planes(image)) for image in images_NHWC])


def _is_medium_haze(kind: ImageKind) -> bool:
    return kind.regime is Regime.LOW_FREQUENCY and kind.severities == STRENGTHS["medium"]


def image_kind(name: str, regime: Regime, mean_S: Statistics, covariance_SS: Statistics) -> ImageKind:
    """Return a kind with this mean and covariance, rounded to six significant digits to keep the file small."""
    lower_SS = np.linalg.inv(np.linalg.cholesky(covariance_SS + 1e-9 * np.eye(len(covariance_SS))))
    triangle = lower_SS[np.tril_indices(len(covariance_SS))]
    return ImageKind(name=name, regime=regime, mean=_rounded(mean_S), whitening=_rounded(triangle))


def count_alarms(constants: EstimatorConstants, stats_NS: Statistics) -> int:
    """Count the frames in alarm, by image evidence alone, in a stream of these frames at 30 Hz."""
    return sum(belief.alarmed() for belief in _stream(constants, stats_NS))


def _count_unusual(constants: EstimatorConstants, stats_NS: Statistics) -> int:
    return sum(belief.unusual() for belief in _stream(constants, stats_NS))


def _stream(constants: EstimatorConstants, stats_NS: Statistics) -> Iterator[RegimeFilter]:
    belief = RegimeFilter(constants, PolicyConfig())
    for frame_S in stats_NS:
        belief.update(ImageStatistics(*frame_S.tolist()), None, elapsed_s=_FRAME_S)
        yield belief


def with_drift_noise(constants: EstimatorConstants, streams: list[Statistics]) -> EstimatorConstants:
    """Return the constants with the least `drift_noise` at which ordered clean streams (N, S) look unusual least."""

    def at(factor: float) -> EstimatorConstants:
        return constants.model_copy(update={"drift_noise": factor * DRIFT_NOISE})

    fewest = sum(_count_unusual(at(_DRIFT_FACTORS[-1]), stats_NS) for stats_NS in streams)
    for factor in _DRIFT_FACTORS:
        if sum(_count_unusual(at(factor), stats_NS) for stats_NS in streams) <= fewest:
            return at(factor)
    return at(_DRIFT_FACTORS[-1])


def independence(stats_NS: Statistics) -> float:
    """Return how much of a frame's evidence is new: (1 − ρ) / (1 + ρ), with ρ the mean correlation of neighbours.

    In a first-order autoregressive series, this is the effective share of independent draws.
    """
    centred_NS = (stats_NS - stats_NS.mean(axis=0)) / (stats_NS.std(axis=0) + 1e-9)
    rho = float(np.mean(centred_NS[1:] * centred_NS[:-1]))
    rho = min(max(rho, 0.0), 0.99)
    return (1 - rho) / (1 + rho)


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
