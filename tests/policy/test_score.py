"""What a point is worth: a blend that lets go of accuracy in favour of the worst case as trust falls."""

import numpy as np
import pytest

from oat_runtime.operating_point import MEASURED_REGIMES, OperatingPoint, OperatingTable, Regime
from policy.config import PolicyConfig
from policy.score import Belief, Scores


def _random_table(table: OperatingTable, rng: np.random.Generator) -> OperatingTable:
    """Three λ at one width with counts drawn at random: the laws hold whatever was measured."""
    rows = tuple(
        row.model_copy(
            update={
                "measurements": tuple(
                    each.model_copy(update={"num_correct": int(rng.integers(0, each.num_total + 1))})
                    for each in row.measurements
                )
            }
        )
        for row in table.rows
        if row.width == 1.0 and row.lam in (0.0, 0.4, 1.0)
    )
    return table.model_copy(update={"rows": rows})


def _random_masses(rng: np.random.Generator) -> dict[Regime, float]:
    return dict(zip(Regime, rng.dirichlet(np.full(len(Regime), 0.3)).clip(1e-9).tolist(), strict=True))


def test_lower_confidence_never_lowers_the_minimax_accuracy_of_the_best_point(table: OperatingTable) -> None:
    rng = np.random.default_rng(0)
    num_different = 0
    for _ in range(150):
        drawn = _random_table(table, rng)
        scores = Scores(drawn, PolicyConfig(switch_cost=float(rng.uniform(0, 0.3)), hedge=float(rng.random())))
        points = [row.point for row in drawn.rows]
        for _ in range(40):
            masses, present = _random_masses(rng), points[rng.integers(len(points))]
            best = []
            for confidence in sorted(rng.random(2)):
                belief = Belief.of(masses, confidence=float(confidence), credible_mass=0.1)
                best.append(max(points, key=lambda point: scores.net(point, belief, present=present)))
            cautious, trusting = (drawn.row(point).minimax() for point in best)
            assert cautious >= trusting
            num_different += best[0] != best[1]
    assert num_different > 100


def test_full_trust_is_the_hedged_expectation_and_none_is_minimax(table: OperatingTable) -> None:
    point = OperatingPoint(0.4, 1.0)
    row = table.row(point)
    bounds = {regime: row.accuracy(regime).interval()[0] for regime in MEASURED_REGIMES}
    masses = {**dict.fromkeys(Regime, 0.0), Regime.CLEAN: 0.75, Regime.LOW_FREQUENCY: 0.25}
    scores = Scores(table, PolicyConfig(hedge=0.2))
    trusted = scores.blended(point, Belief.of(masses, confidence=1.0, credible_mass=0.1))
    expected = 0.75 * bounds[Regime.CLEAN] + 0.25 * bounds[Regime.LOW_FREQUENCY]
    assert trusted == pytest.approx(0.8 * expected + 0.2 * bounds[Regime.LOW_FREQUENCY])
    untrusted = scores.blended(point, Belief.of(masses, confidence=0.0, credible_mass=0.1))
    assert untrusted == scores.blended(point, Belief.unknown("no reason")) == row.minimax()


def test_rank_is_a_total_order_by_minimax_accuracy(table: OperatingTable) -> None:
    scores = Scores(table, PolicyConfig())
    ordered = sorted((row.point for row in table.rows), key=scores.rank)
    assert len({scores.rank(point) for point in ordered}) == len(ordered)
    minimax = [table.row(point).minimax() for point in ordered]
    assert minimax == sorted(minimax)
    assert ordered[-1] == OperatingPoint(1.0, 1.0)
