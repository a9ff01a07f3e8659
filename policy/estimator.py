"""Belief over regimes: a hidden Markov filter over kinds of image, with a Gaussian for each kind.

A hidden state is one kind of image (clean, one corruption at one strength, under attack); kinds add up to regimes. A
kind persists, so weak evidence from many frames adds up, while one odd frame is capped and forgotten. Single natural
images differ so much that one frame alone calls one clean image in seven corrupted.

Shape legend: K kinds (the last one is "like nothing that was fitted"), S statistics.
"""

from __future__ import annotations

import math
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from oat_runtime.operating_point import MEASURED_REGIMES, Regime, StrictModel
from policy.config import PolicyConfig
from policy.image import ImageStatistics
from policy.signals import NetworkSignals

_Vector = NDArray[np.float64]
_MIN_FORGETTING = 1e-4
"""Least share of belief that returns to the prior each frame, so that no belief ever becomes certain."""
_NUM_STATISTICS = len(ImageStatistics._fields)
PRIOR = {
    Regime.CLEAN: 0.5,
    Regime.HIGH_FREQUENCY: 0.22,
    Regime.LOW_FREQUENCY: 0.22,
    Regime.ADVERSARIAL: 0.04,
    Regime.UNKNOWN: 0.02,
}
"""Belief before any frame; what is forgotten returns to it. Nearly nothing hangs on it once frames come in."""


class ImageKind(StrictModel):
    """Gaussian over the statistics of one kind of image."""

    name: str
    regime: Regime
    mean: tuple[float, ...] = Field(min_length=_NUM_STATISTICS, max_length=_NUM_STATISTICS)
    whitening: tuple[float, ...] = Field(min_length=_NUM_STATISTICS * (_NUM_STATISTICS + 1) // 2)
    """Lower triangle, row by row, of the W with W·(s − mean) ~ N(0, I)."""

    @model_validator(mode="after")
    def _is_a_density(self) -> Self:
        if self.regime is Regime.UNKNOWN:
            raise ValueError(f"{self.name}: a kind of image belongs to a measurable regime, not to 'unknown'")
        if len(self.whitening) != _NUM_STATISTICS * (_NUM_STATISTICS + 1) // 2:
            raise ValueError(f"{self.name}: whitening must be a lower triangle of {_NUM_STATISTICS} rows")
        if not np.all(np.diag(self.whitening_SS()) > 0):
            raise ValueError(f"{self.name}: the diagonal of whitening must be positive")
        return self

    def whitening_SS(self) -> _Vector:
        """The triangle as a square matrix."""
        square = np.zeros((_NUM_STATISTICS, _NUM_STATISTICS))
        square[np.tril_indices(_NUM_STATISTICS)] = self.whitening
        return square


class NetworkRates(StrictModel):
    """How often the network at one λ hesitates, and disagrees with the opposite λ, in each regime."""

    lam: float = Field(ge=0, le=1)
    low_confidence: dict[Regime, float]
    """Share of frames with calibrated confidence under `EstimatorConstants.low_confidence_below`."""
    disagreement: dict[Regime, float]
    """Share of frames on which the probed opposite λ gives another label."""

    @model_validator(mode="after")
    def _rates_are_open(self) -> Self:
        for rates in (self.low_confidence, self.disagreement):
            if set(rates) != set(MEASURED_REGIMES) or not all(0 < rate < 1 for rate in rates.values()):
                raise ValueError(f"λ={self.lam:g}: expected one rate in (0, 1) for each measurable regime, got {rates}")
        return self


class EstimatorConstants(StrictModel):
    """Everything that `policy.fit` fitted, as it ships in a bundle (`estimator.json`)."""

    schema_version: int = Field(default=1, ge=1, le=1)
    statistics: tuple[str, ...]
    """Names of the statistics in order; refused where they differ from this version's."""
    kinds: tuple[ImageKind, ...] = Field(min_length=1)
    outlier_log_density: float
    """An image whose best kind is under this log density looks like nothing that was fitted."""
    prior: dict[Regime, float]
    network: tuple[NetworkRates, ...] = ()
    """Empty: the network's own signals are not used as evidence."""
    low_confidence_below: float = Field(default=0.5, gt=0, lt=1)
    fitted_on: str = ""

    @model_validator(mode="after")
    def _fits_this_version(self) -> Self:
        if self.statistics != ImageStatistics._fields:
            raise ValueError(f"constants of another version: expected {ImageStatistics._fields}, got {self.statistics}")
        missing = set(MEASURED_REGIMES) - {kind.regime for kind in self.kinds}
        if missing:
            raise ValueError(f"no kind of image for {sorted(missing)}: fit at least one for each measurable regime")
        if set(self.prior) != set(Regime) or not all(p > 0 for p in self.prior.values()):
            raise ValueError(f"prior must be positive for each regime, got {self.prior}")
        return self


class RegimeFilter:
    """Belief over regimes, updated once a frame. Bit-exact for the same inputs on the same machine."""

    def __init__(self, constants: EstimatorConstants, config: PolicyConfig) -> None:
        """Start from the prior."""
        self._constants = constants
        self._config = config
        self._means_KS = np.array([kind.mean for kind in constants.kinds])
        self._whitening_KSS = np.stack([kind.whitening_SS() for kind in constants.kinds])
        self._log_scale_K = np.log(np.einsum("kss->ks", self._whitening_KSS)).sum(axis=1)
        self._regimes_K = (*(kind.regime for kind in constants.kinds), Regime.UNKNOWN)
        total = sum(constants.prior.values())
        self._prior_K = np.array(
            [constants.prior[regime] / total / self._regimes_K.count(regime) for regime in self._regimes_K]
        )
        self._belief_K = self._prior_K.copy()

    def update(self, image: ImageStatistics | None, network: NetworkSignals | None, *, elapsed_s: float) -> None:
        """Forget a little, then take in what may be used of this frame (None: nothing; never a guess)."""
        config = self._config
        forgetting = max(_MIN_FORGETTING, -math.expm1(-elapsed_s / config.regime_persistence_s))
        evidence_K = np.zeros(len(self._regimes_K))
        if image is not None:
            evidence_K += config.evidence_weight * self._image_evidence(image)
        if network is not None:
            evidence_K += self._network_evidence(network)
        evidence_K = np.maximum(evidence_K - evidence_K.max(), -config.evidence_cap_nats)
        belief_K = ((1 - forgetting) * self._belief_K + forgetting * self._prior_K) * np.exp(evidence_K)
        self._belief_K = belief_K / belief_K.sum()

    def posterior(self) -> dict[Regime, float]:
        """Belief summed over the kinds of each regime."""
        masses = {regime: 0.0 for regime in Regime}
        for regime, mass in zip(self._regimes_K, self._belief_K.tolist(), strict=True):
            masses[regime] += mass
        return masses

    def _image_evidence(self, image: ImageStatistics) -> _Vector:
        white_KS = np.einsum("kij,kj->ki", self._whitening_KSS, np.array(image) - self._means_KS)
        log_density_K = self._log_scale_K - 0.5 * np.einsum("ki,ki->k", white_KS, white_KS)
        return np.append(log_density_K, self._constants.outlier_log_density)

    def _network_evidence(self, network: NetworkSignals) -> _Vector:
        if not self._constants.network:
            return np.zeros(len(self._regimes_K))
        rates = min(self._constants.network, key=lambda known: (abs(known.lam - network.point.lam), known.lam))
        low = network.confidence < self._constants.low_confidence_below
        evidence_K = self._config.evidence_weight * self._log_rates(rates.low_confidence, low)
        if network.disagrees is not None:
            evidence_K = evidence_K + self._log_rates(rates.disagreement, network.disagrees)
        return evidence_K

    def _log_rates(self, rates: dict[Regime, float], happened: bool) -> _Vector:
        """Log probability of what happened, for each kind; for the unknown kind at the mean rate of the regimes."""
        with_unknown = {**rates, Regime.UNKNOWN: sum(rates[regime] for regime in MEASURED_REGIMES) / len(rates)}
        return np.array([math.log(with_unknown[r] if happened else 1 - with_unknown[r]) for r in self._regimes_K])
