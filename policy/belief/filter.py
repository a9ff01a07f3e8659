"""Estimate the regime: a hidden Markov filter over kinds of image, with a density of image statistics for each kind.

A hidden state is one kind of image: clean, one corruption at one strength, or under attack. Kinds add up to regimes. A
kind persists, so weak evidence from many frames adds up, while one odd frame is capped and forgotten. This is needed
because natural images differ much: judged by one frame, one clean image in seven looks corrupted.

Two states have no density of their own. *Drifted* means that the mean of the last frames has left that of clean images
in any direction; it notices corruptions to which nothing was fitted. *Unknown* means frames unlike anything fitted.

Shape legend: K kinds (the last two are drifted and unknown), S statistics.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oat_runtime.errors import DataError, quoted
from oat_runtime.operating_point import MEASURED_REGIMES, Regime
from policy.belief.alarm import Alarm, Promise, Reference, log_e_value, log_t, promised, ratios
from policy.belief.constants import DRIFT_GAIN, NUM_STATISTICS, STRENGTHS, EstimatorConstants, ImageKind
from policy.belief.ranks import NormalScores
from policy.config import PolicyConfig
from policy.image import ImageStatistics
from policy.signals import NetworkSignals
from policy.snapshot import Remembering

_Vector = NDArray[np.float64]
_CORRUPTED = (Regime.HIGH_FREQUENCY, Regime.LOW_FREQUENCY)
_MIN_FORGETTING = 1e-4
"""Least share of belief that returns to the prior each frame, so that no belief ever becomes certain."""
_UNINFORMED = 1e-3
"""Largest difference of a probability from the prior at which nothing is known any more."""
_DRIFT_PRIOR = 0.02
"""Share of both corrupted regimes' prior that belongs to drift in a direction that was not fitted."""
_MAX_STRAY = 4.5
"""Largest distance from clean that a frame adds to drift, in standard deviations of all statistics together, so that an
odd frame cannot pull the mean. 4 to 5.5 do equally well. At 3.5, the root mean square of clean frames, glass blur is
found two frames later with as many false alarms (576,000 frames of training images; docs/log/policy-noticing.md)."""
_RESEMBLANCE = 0.1
"""Difference of cosines at which drift resembles one kind e times less than another."""
_UNUSUAL_BELOW = 0.4
"""Probability of the usual kinds below which the belief is that something changed."""


class RegimeFilter(Remembering):
    """Update the belief with every frame. The same inputs give the same bits on the same machine."""

    _REMEMBERED = ("_belief_K", "_drift_S", "_alarm")

    def __init__(self, constants: EstimatorConstants, config: PolicyConfig) -> None:
        """Start from the prior."""
        self._constants, self._config = constants, config
        self._normal = NormalScores(constants.ranks)
        self._means_KS = np.array([kind.mean for kind in constants.kinds])
        self._whitening_KSS = np.stack([kind.whitening_SS() for kind in constants.kinds])
        self._log_scale_K = np.log(np.einsum("kss->ks", self._whitening_KSS)).sum(axis=1)
        self._clean = next(k for k, kind in enumerate(constants.kinds) if kind.regime is Regime.CLEAN)
        self._regimes_K = tuple(kind.regime for kind in constants.kinds)
        self._usual_K = np.array([_is_usual(kind) for kind in constants.kinds])
        self._corrupted_K = np.array([regime in _CORRUPTED for regime in self._regimes_K])
        apart_KS = (self._means_KS - self._means_KS[self._clean]) @ self._whitening_KSS[self._clean].T
        self._directions_KS = apart_KS / np.maximum(np.linalg.norm(apart_KS, axis=1, keepdims=True), 1e-12)
        clean_log_scale = float(self._log_scale_K[self._clean])
        far = 2.0 * max(0.0, clean_log_scale - constants.outlier_log_density)
        self._unknown_evidence = clean_log_scale + log_t(far, NUM_STATISTICS)
        self._reference = self._priced_by(constants.reference) if constants.reference else None
        self._promise = promised(constants.drives, num_drives=config.false_alarm_drives, drive_s=config.mission_s)
        self._alarm = Alarm(self._promise.log_limit)
        self._log_rates = {
            rates.lam: (self._log_rates_of(rates.low_confidence), self._log_rates_of(rates.disagreement))
            for rates in constants.network
        }
        self._prior_K = self._priors()
        self._belief_K = self._prior_K.copy()
        self._drift_S = np.zeros(NUM_STATISTICS)

    def update(self, image: ImageStatistics | None, network: NetworkSignals | None, *, elapsed_s: float) -> None:
        """Forget a little, then take in the usable signals of this frame (None: not usable)."""
        config = self._config
        forgetting = max(_MIN_FORGETTING, -math.expm1(-elapsed_s / config.regime_persistence_s))
        self._drift_S = (1 - forgetting) * self._drift_S
        evidence_K = np.zeros(len(self._belief_K))
        if image is not None:
            shift_S = self._shift()
            image_K = self._image_evidence(image)
            if self._reference is not None:
                self._alarm.update(self._log_e_value(self._reference, image_K, shift_S), elapsed_s=elapsed_s)
            evidence_K += config.evidence_weight * self._constants.independence * image_K
        if network is not None:
            evidence_K += self._network_evidence(network)
        evidence_K = np.maximum(evidence_K - evidence_K.max(), -config.evidence_cap_nats)
        belief_K = ((1 - forgetting) * self._belief_K + forgetting * self._prior_K) * np.exp(evidence_K)
        self._belief_K = belief_K / belief_K.sum()

    def restore(self, saved: Any) -> None:
        """As in `Remembering`; the belief is one. Logs of earlier versions hold no alarm."""
        super().restore({"alarm": self._alarm.snapshot()} | saved if isinstance(saved, dict) else saved)
        if self._belief_K.min() < 0.0 or not math.isclose(self._belief_K.sum(), 1.0, rel_tol=1e-6):
            raise DataError(f"expected a belief that sums to 1, got {quoted(saved)}")

    @property
    def informed(self) -> bool:
        """Whether any frame still moves the belief away from the prior; False at the start, and long after the last."""
        return float(np.abs(self._belief_K - self._prior_K).max()) > _UNINFORMED

    def posterior(self) -> dict[Regime, float]:
        """Return the probability of each regime: the sum over its kinds."""
        masses = {regime: 0.0 for regime in Regime}
        for regime, mass in zip(self._regimes_K, self.kinds().tolist(), strict=True):
            masses[regime] += mass
        masses[Regime.UNKNOWN] = float(self._belief_K[-1])
        return masses

    def kinds(self) -> _Vector:
        """Return the probability of each fitted kind, in their order; with that of *unknown* they sum to 1.

        The probability of *drifted* goes to the corrupted kinds in the direction of the drift. Contrast, for example,
        drifts towards fog, and is then scored like fog at each λ.
        """
        *_, drifted, _ = self._belief_K.tolist()
        length = float(np.linalg.norm(self._drift_S))
        cosine_K = self._directions_KS @ self._drift_S / max(length, 1e-12)
        alike_K = self._corrupted_K * self._prior_K[:-2] * np.exp((cosine_K - 1.0) / _RESEMBLANCE)
        spread_K: _Vector = self._belief_K[:-2] + drifted * alike_K / alike_K.sum()
        return spread_K

    @property
    def promise(self) -> Promise | None:
        """What the alarm promises; None without frames of the calibration, where it follows the belief."""
        return None if self._reference is None else self._promise

    @property
    def evidence(self) -> float:
        """Log of the alarm's evidence, in seconds."""
        return self._alarm.evidence

    @property
    def drift2(self) -> float:
        """Squared length of the running mean of the frames, whitened."""
        return float(self._drift_S @ self._drift_S)

    def alarmed(self) -> bool:
        """Return whether the images are unlike the calibration's; `policy.belief.alarm` says how often that is false.

        Constants of earlier versions hold no frames of the calibration, so there it is what is believed.
        """
        return self.unusual() if self._reference is None else self._alarm.raised

    def unusual(self) -> bool:
        """Return whether the belief is that something changed.

        Mild haze, snow and brightness count as usual, because a run of bright or pale scenes looks the same. They
        caused most false alarms. Counting them as usual delayed no alarm for a kind at severity 3 or more
        (docs/log/policy-noticing.md).
        """
        return float(self._belief_K[:-2] @ self._usual_K) < _UNUSUAL_BELOW

    def _priors(self) -> _Vector:
        prior = self._constants.prior
        shares = [prior[regime] / self._regimes_K.count(regime) for regime in self._regimes_K]
        fitted = [1 - _DRIFT_PRIOR if regime in _CORRUPTED else 1.0 for regime in self._regimes_K]
        drifted = _DRIFT_PRIOR * sum(prior[regime] for regime in _CORRUPTED)
        prior_K = np.array([*(np.array(shares) * np.array(fitted)), drifted, prior[Regime.UNKNOWN]])
        normalized_K: _Vector = prior_K / prior_K.sum()
        return normalized_K

    def _image_evidence(self, image: ImageStatistics) -> _Vector:
        score_S = self._normal(np.array([image]))[0]
        white_KS = np.einsum("kij,kj->ki", self._whitening_KSS, score_S - self._means_KS)
        log_density_K = self._log_scale_K + log_t(np.einsum("ki,ki->k", white_KS, white_KS), NUM_STATISTICS)
        drifted = self._drift_evidence(white_KS[self._clean])
        return np.array([*log_density_K, drifted, self._unknown_evidence])

    def _drift_evidence(self, white_S: _Vector) -> float:
        """Return the log density of this frame if clean images had moved as far as the frames before; then follow it.

        The move is estimated without the frame that it is tested on. So on clean frames the likelihood ratio to clean
        is 1 on average: an adaptive CUSUM (Lorden and Pollak, "Nonanticipating estimation", Ann. Statist. 2005). The
        move is shrunk by the length that chance alone gives (James and Stein 1961).
        """
        apart_S = white_S - self._shift()
        stray = float(np.linalg.norm(white_S))
        self._drift_S = self._drift_S + DRIFT_GAIN * (white_S * min(1.0, _MAX_STRAY / max(stray, 1e-9)) - self._drift_S)
        return float(self._log_scale_K[self._clean]) + log_t(float(apart_S @ apart_S), NUM_STATISTICS)

    def _shift(self) -> _Vector:
        """Return how far images have moved from clean, whitened, as far as it is more than chance gives."""
        length2 = float(self._drift_S @ self._drift_S)
        shrink = max(0.0, 1.0 - self._constants.drift_noise / length2) if length2 > 0 else 0.0
        return shrink * self._drift_S

    def _log_e_value(self, reference: Reference, log_density_K: _Vector, shift_S: _Vector) -> float:
        """Return the frame's log e-value: a bet on the unusual kinds, as probable as the frames before made them."""
        unusual_K = self._belief_K * ~np.append(self._usual_K, [False, False])
        weight_K = unusual_K / unusual_K.sum()
        ratio = float(ratios(log_density_K, log_density_K[self._clean]) @ weight_K)
        return self._constants.independence * log_e_value(ratio, reference.price(weight_K, shift_S))

    def _priced_by(self, reference: tuple[tuple[float, ...], ...]) -> Reference:
        apart_NKS = np.array(reference)[:, None, :] - self._means_KS
        white_NKS = np.einsum("kij,nkj->nki", self._whitening_KSS, apart_NKS)
        log_NK = self._log_scale_K + log_t(np.einsum("nki,nki->nk", white_NKS, white_NKS), NUM_STATISTICS)
        beyond_N2 = np.full((len(reference), 2), self._unknown_evidence)
        clean_N1 = log_NK[:, [self._clean]]
        return Reference(ratios(np.hstack([log_NK, beyond_N2]), clean_N1), white_NKS[:, self._clean])

    def _network_evidence(self, network: NetworkSignals) -> _Vector:
        if not self._log_rates:
            return np.zeros(len(self._belief_K))
        lam = min(self._log_rates, key=lambda known: (abs(known - network.point.lam), known))
        low_2K, differs_2K = self._log_rates[lam]
        low = network.confidence is not None and network.confidence < self._constants.low_confidence_below
        evidence_K: _Vector = self._config.evidence_weight * (low * low_2K[0] + (1 - low) * low_2K[1])
        if network.disagrees is not None:
            # Of several regions of a frame, a share of them happened: then this is their mean.
            evidence_K = evidence_K + (network.disagrees * differs_2K[0] + (1 - network.disagrees) * differs_2K[1])
        return evidence_K

    def _log_rates_of(self, rates: dict[Regime, float]) -> _Vector:
        """Return the log probabilities that an event happens and that it does not (2, K), for each kind.

        For the last two kinds, these are the mean rates of their regimes.
        """
        drifted = (rates[Regime.HIGH_FREQUENCY] + rates[Regime.LOW_FREQUENCY]) / 2
        unknown = sum(rates[regime] for regime in MEASURED_REGIMES) / len(rates)
        rates_K = [*(rates[regime] for regime in self._regimes_K), drifted, unknown]
        return np.array([[math.log(rate) for rate in rates_K], [math.log(1 - rate) for rate in rates_K]])


def _is_usual(kind: ImageKind) -> bool:
    mild = kind.severities == STRENGTHS["mild"]
    return kind.regime is Regime.CLEAN or (kind.regime is Regime.LOW_FREQUENCY and mild)
