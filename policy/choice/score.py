"""Score an operating point under a belief. All accuracies are lower 95 % bounds of measured shares."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from oat_runtime.compat import Self
from oat_runtime.operating_point import (
    MEASURED_REGIMES,
    OperatingPoint,
    OperatingRow,
    OperatingTable,
    Proportion,
    Regime,
)
from policy.belief.constants import PRIOR, ImageKind
from policy.config import PolicyConfig

_Vector = NDArray[np.float64]
_CHANCE = 2.2
"""Square of the tilts of kinds, in those that chance gives on average, beyond which they count (Efron and Morris 1973).
"""
_Z_95 = NormalDist().inv_cdf(0.95)
_HAIR = 1e-9
"""What a wider network is taken to be better by, if the counts say nothing of the kind."""


@dataclass(frozen=True, slots=True)
class Belief:
    """The belief about the environment, ready for scoring.

    Attributes:
        trust: how far the measured regimes are trusted, in [0, 1]; 1 − trust is the probability of "unknown".
        shares: probability of each measured regime, given that the regime is not unknown.
        credible: regimes with enough probability to hedge against, before the external confidence is applied.
        posterior: the probabilities of all five regimes, for the record.
        doubt: why the trust is not full, for people; empty if only the estimator itself doubts.
        kinds: probability of each fitted kind of image, in their order; empty if only the regimes are known.
    """

    trust: float
    shares: dict[Regime, float]
    credible: tuple[Regime, ...]
    posterior: dict[Regime, float]
    doubt: str = ""
    kinds: _Vector = field(default_factory=lambda: np.empty(0))

    @classmethod
    def of(
        cls,
        masses: dict[Regime, float],
        *,
        confidence: float,
        credible_mass: float,
        doubt: str = "",
        kinds: _Vector | None = None,
    ) -> Self:
        """Return the belief that follows from the estimator's masses, trusted as far as the external confidence."""
        known = sum(masses[regime] for regime in MEASURED_REGIMES)
        trust = confidence * known
        shares = {regime: masses[regime] / known for regime in MEASURED_REGIMES}
        credible = tuple(regime for regime in MEASURED_REGIMES if shares[regime] >= credible_mass)
        posterior = {regime: trust * share for regime, share in shares.items()}
        posterior[Regime.UNKNOWN] = max(0.0, 1.0 - trust)
        return cls(trust, shares, credible, posterior, doubt, np.empty(0) if kinds is None else kinds)

    @classmethod
    def unknown(cls, doubt: str) -> Self:
        """Return the belief that nothing is known, under which the score is the minimax accuracy."""
        shares = {regime: 1 / len(MEASURED_REGIMES) for regime in MEASURED_REGIMES}
        return cls(0.0, shares, (), {**dict.fromkeys(MEASURED_REGIMES, 0.0), Regime.UNKNOWN: 1.0}, doubt)


class Scores:
    """Score operating points by their lower-bound accuracies, which are read from the table once."""

    def __init__(
        self,
        table: OperatingTable,
        config: PolicyConfig,
        kinds: Sequence[ImageKind] = (),
        spread: Mapping[Regime, float] | None = None,
    ) -> None:
        """Read the bounds for each regime, and for each kind of image that the estimator knows.

        Args:
            table: the bundle's `select` table.
            config: weights and costs.
            kinds: of the estimator.
            spread: of the estimator, by which leads of a λ that chance explains do not count. None, empty: all count.
        """
        self._hedge = config.hedge
        self._switch_cost = config.switch_cost
        self._bounds = {
            row.point: {regime: row.accuracy(regime).interval()[0] for regime in MEASURED_REGIMES} for row in table.rows
        }
        if spread:
            self._bounds = _without_chance(table, self._bounds, spread)
        self._minimax = {point: min(bounds.values()) for point, bounds in self._bounds.items()}
        self._expected: dict[OperatingPoint, tuple[float, ...]] = {
            point: (sum(PRIOR[regime] * bounds[regime] for regime in MEASURED_REGIMES),) if spread else ()
            for point, bounds in self._bounds.items()
        }
        self._members_RK = np.array([[kind.regime is regime for kind in kinds] for regime in MEASURED_REGIMES])
        self._kind_bounds_PK = _kind_bounds(table, kinds, self._bounds, spread or {})
        self._bounds_RP = np.array(
            [[bounds[regime] for bounds in self._bounds.values()] for regime in MEASURED_REGIMES]
        )
        self._minimax_P = np.array(list(self._minimax.values()))
        self._told: tuple[Belief, dict[OperatingPoint, float]] | None = None

    def rank(self, point: OperatingPoint) -> tuple[float, ...]:
        """Return the key of the one fixed total order: minimax accuracy, then λ, then width.

        Where the counts prove no difference in the worst case, the accuracy before any frame comes second.
        """
        return self._minimax[point], *self._expected[point], point.lam, point.width

    def blended(self, point: OperatingPoint, belief: Belief) -> float:
        """Return trust · ((1 − hedge) · expectation + hedge · worst credible regime) + (1 − trust) · minimax."""
        if not belief.trust:
            return self._minimax[point]
        if self._told is None or self._told[0] is not belief:
            self._told = belief, dict(zip(self._bounds, self._blended_P(belief).tolist(), strict=True))
        return self._told[1][point]

    def _blended_P(self, belief: Belief) -> _Vector:
        """Return the score of all points at once: one by one, they took most of a decision's time.

        The accuracy in a regime is the mean over its kinds, weighted by their probabilities. If the belief has no
        kinds, it is the bound of the regime.
        """
        bounds_RP = self._bounds_RP
        if len(belief.kinds):
            weights_RK = self._members_RK * belief.kinds
            bounds_RP = (self._kind_bounds_PK @ (weights_RK / np.maximum(weights_RK.sum(axis=1), 1e-300)[:, None]).T).T
        by_regime = dict(zip(MEASURED_REGIMES, bounds_RP, strict=True))
        expected_P: _Vector = sum(belief.shares[regime] * by_regime[regime] for regime in MEASURED_REGIMES)
        worst_P = (
            np.minimum.reduce([by_regime[regime] for regime in belief.credible]) if belief.credible else expected_P
        )
        informed_P = (1 - self._hedge) * expected_P + self._hedge * worst_P
        blended_P: _Vector = belief.trust * informed_P + (1 - belief.trust) * self._minimax_P
        return blended_P

    def switching(self, point: OperatingPoint, belief: Belief, *, present: OperatingPoint) -> float:
        """Return the cost of switching from `present` to this point.

        The cost counts only as far as the regimes are trusted. So lower trust never lowers the minimax accuracy of the
        best point: its score is trust · a(point) + (1 − trust) · minimax(point), and more weight on the second term
        cannot favour a point with a lower minimax accuracy.
        """
        return belief.trust * (0.0 if point == present else self._switch_cost)


def _without_chance(
    table: OperatingTable, bounds: Mapping[OperatingPoint, Mapping[Regime, float]], spread: Mapping[Regime, float]
) -> dict[OperatingPoint, dict[Regime, float]]:
    """Return bounds whose leads are as large as the counts prove: each is drawn to its mean over λ."""
    sure = {point: dict(by_regime) for point, by_regime in bounds.items()}
    for regime in MEASURED_REGIMES:
        for width in table.widths:
            rows = [row for row in table.rows if row.width == width]
            own_L = np.array([bounds[row.point][regime] for row in rows])
            rate_L = np.array([row.accuracy(regime).rate for row in rows])
            square = float(((rate_L - rate_L.mean()) ** 2).sum())
            noise = spread[regime] / rows[0].accuracy(regime).num_total
            kept = _proved(square, noise, _chance(len(rows)))
            kept_L = own_L.mean() + kept * (own_L - own_L.mean())
            for row, value in zip(rows, kept_L.tolist(), strict=True):
                sure[row.point][regime] = value
    values_PR = np.array([[sure[row.point][regime] for regime in MEASURED_REGIMES] for row in table.rows])
    return {
        row.point: dict(zip(MEASURED_REGIMES, values_R, strict=True))
        for row, values_R in zip(table.rows, _widening(table, values_PR).tolist(), strict=True)
    }


def _chance(num_lambdas: int) -> float:
    """Return the square of a lead, in those that chance gives on average, that chance exceeds in one table of twenty.

    It is χ² over its degrees of freedom (Wilson and Hilferty 1931), to one place: 2.2 for six values of λ.
    """
    spread = 2 / (9 * max(1, num_lambdas - 1))
    return round(float((1 - spread + _Z_95 * math.sqrt(spread)) ** 3), 1)


def _proved(square: float, noise: float, chance: float = _CHANCE) -> float:
    """Return the share of a lead that chance does not explain, from its square and what chance alone gives."""
    return max(0.0, 1.0 - chance * noise / square) if square > 0 else 0.0


def _widening(table: OperatingTable, values_PX: _Vector) -> _Vector:
    """Return values at each point, none of them above that of the next wider network at the same λ."""
    kept_PX: _Vector = values_PX.copy()
    order = sorted(range(len(table.rows)), key=lambda p: (table.rows[p].lam, -table.rows[p].width))
    for wider, narrower in itertools.pairwise(order):
        if table.rows[wider].lam == table.rows[narrower].lam:
            kept_PX[narrower] = np.minimum(kept_PX[narrower], kept_PX[wider] - _HAIR)
    return kept_PX


def _kind_bounds(
    table: OperatingTable,
    kinds: Sequence[ImageKind],
    bounds: Mapping[OperatingPoint, Mapping[Regime, float]],
    spread: Mapping[Regime, float],
) -> _Vector:
    """Return each point's bound under each kind (P, K): its regime's curve over λ, raised and tilted to fit counts.

    A few hundred images of one kind tell how far it lies above its regime, and which end of λ suits it better. They do
    not tell which of two neighbouring λ is better; the thousands of images of its regime do. The tilt is in √λ, because
    half of the effect of λ happens below 0.2 (validation images; docs/log/policy-choosing.md).
    """
    bounds_PK = np.array([[_counted(row, kind).interval()[0] for kind in kinds] for row in table.rows])
    if not bounds_PK.size:
        return bounds_PK
    regime_PK = np.array([[bounds[row.point][kind.regime] for kind in kinds] for row in table.rows])
    for width in table.widths:
        same = np.array([row.width == width for row in table.rows])
        rows = [row for row in table.rows if row.width == width]
        roots = np.sqrt([row.lam for row in rows])
        line_L2 = np.stack([np.ones_like(roots), roots], axis=1)
        tilt_2K = np.linalg.pinv(line_L2) @ (bounds_PK - regime_PK)[same]
        if spread and len(roots) > 1:
            for regime in MEASURED_REGIMES:
                of_regime = [k for k, kind in enumerate(kinds) if kind.regime is regime]
                kept = _proved_tilt(rows, [kinds[k] for k in of_regime], roots, spread[regime])
                tilt_2K[0, of_regime] += (1 - kept) * tilt_2K[1, of_regime] * roots.mean()
                tilt_2K[1, of_regime] *= kept
        bounds_PK[same] = np.clip(regime_PK[same] + line_L2 @ tilt_2K, 0.0, 1.0)
    return _widening(table, bounds_PK) if spread else bounds_PK


def _proved_tilt(rows: Sequence[OperatingRow], kinds: Sequence[ImageKind], roots: _Vector, spread: float) -> float:
    """Return the share of the tilts of a regime's kinds over √λ that chance does not explain."""
    if not kinds:
        return 1.0
    lever_L = (roots - roots.mean()) / ((roots - roots.mean()) ** 2).sum()
    counts = [[_counted(row, kind) for kind in kinds] for row in rows]
    above_LK = np.array([[own.rate for own in of_row] for of_row in counts])
    above_LK -= np.array([[row.accuracy(kind.regime).rate for kind in kinds] for row in rows])
    tilt_K = lever_L @ above_LK
    noise_K = spread / np.array([own.num_total for own in counts[0]]) * (lever_L @ lever_L) / (len(rows) - 1)
    return _proved(float((tilt_K**2).mean()), float(noise_K.mean()))


def _counted(row: OperatingRow, kind: ImageKind) -> Proportion:
    """Return the counts for this kind of image, or for its corruption at any severity, or for its regime."""
    corruption, _, _ = kind.name.rpartition("-")
    of_corruption = {
        measured.condition: row.condition(measured.condition)
        for measured in row.measurements
        if corruption and measured.condition.rpartition("-")[0] == corruption
    }
    own = [counts for name, counts in of_corruption.items() if int(name.rpartition("-")[2]) in kind.severities]
    counted = own or list(of_corruption.values())
    if not counted:
        return row.accuracy(kind.regime)
    return Proportion.pooled(counted)
