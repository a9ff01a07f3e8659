"""What a point is worth: a blend that lets go of accuracy in favour of the worst case as trust falls."""

import numpy as np
import pytest

from oat_runtime.operating_point import MEASURED_REGIMES, Measurement, OperatingPoint, OperatingTable, Regime
from policy.config import PolicyConfig
from policy.estimator import EstimatorConstants
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


def _random_kinds(rng: np.random.Generator, num_kinds: int) -> np.ndarray | None:
    """Every other time only the regimes are known."""
    return rng.dirichlet(np.full(num_kinds, 0.3)) if rng.random() < 0.5 else None


def _random_masses(rng: np.random.Generator) -> dict[Regime, float]:
    return dict(zip(Regime, rng.dirichlet(np.full(len(Regime), 0.3)).clip(1e-9).tolist(), strict=True))


def test_lower_confidence_never_lowers_the_minimax_accuracy_of_the_best_point(
    table: OperatingTable, constants: EstimatorConstants
) -> None:
    rng = np.random.default_rng(0)
    num_different = 0
    for _ in range(150):
        drawn = _random_table(table, rng)
        scores = Scores(
            drawn, PolicyConfig(switch_cost=float(rng.uniform(0, 0.3)), hedge=float(rng.random())), constants.kinds
        )
        points = [row.point for row in drawn.rows]
        for _ in range(40):
            masses, present = _random_masses(rng), points[rng.integers(len(points))]
            kinds = _random_kinds(rng, len(constants.kinds))
            best = []
            for confidence in sorted(rng.random(2)):
                belief = Belief.of(masses, confidence=float(confidence), credible_mass=0.1, kinds=kinds)
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


def _with_fog(table: OperatingTable) -> OperatingTable:
    """In mild fog λ=0 is best, in strong fog λ=1, and nothing else was counted of low frequency."""
    right = {2: {0.0: 900, 0.4: 850, 1.0: 800}, 4: {0.0: 500, 0.4: 550, 1.0: 700}}

    def counted(lam: float) -> tuple[Measurement, ...]:
        return tuple(
            Measurement(
                condition=f"fog-{severity}",
                regime=Regime.LOW_FREQUENCY,
                num_correct=by_lam[lam],
                num_total=1000,
            )
            for severity, by_lam in right.items()
        )

    rows = tuple(
        row.model_copy(
            update={
                "measurements": counted(row.lam)
                + tuple(each for each in row.measurements if each.regime is not Regime.LOW_FREQUENCY)
            }
        )
        for row in table.rows
        if row.width == 1.0 and row.lam in right[2]
    )
    return table.model_copy(update={"rows": rows})


def test_a_kind_of_image_is_worth_what_was_counted_under_it(
    table: OperatingTable, constants: EstimatorConstants
) -> None:
    drawn = _with_fog(table)
    like = next(kind for kind in constants.kinds if kind.regime is Regime.LOW_FREQUENCY)
    names = ("fog-mild", "fog-medium", "fog-strong", "haze-mild")
    kinds = tuple(like.model_copy(update={"name": name}) for name in names)
    scores = Scores(drawn, PolicyConfig(), kinds)
    masses = {**dict.fromkeys(Regime, 0.0), Regime.LOW_FREQUENCY: 1.0}

    def worth(lam: float, *shares: float) -> float:
        belief = Belief.of(masses, confidence=1.0, credible_mass=0.1, kinds=np.array(shares))
        return scores.blended(OperatingPoint(lam, 1.0), belief)

    mild, strong = (
        drawn.row(OperatingPoint(0.0, 1.0)).condition(f"fog-{severity}").interval()[0] for severity in (2, 4)
    )
    assert worth(0.0, 1, 0, 0, 0) == pytest.approx(mild)
    assert worth(0.0, 0, 0, 1, 0) == pytest.approx(strong)
    assert worth(0.0, 0.25, 0, 0.75, 0) == pytest.approx(0.25 * mild + 0.75 * strong)
    assert worth(0.0, 1, 0, 0, 0) > worth(1.0, 1, 0, 0, 0)
    assert worth(0.0, 0, 0, 1, 0) < worth(1.0, 0, 0, 1, 0)
    # A severity that was not counted: all of its corruption. A corruption that was not: all of its regime.
    pooled = drawn.row(OperatingPoint(0.0, 1.0)).accuracy(Regime.LOW_FREQUENCY).interval()[0]
    assert worth(0.0, 0, 1, 0, 0) == worth(0.0, 0, 0, 0, 1) == pytest.approx(pooled)


def test_rank_is_a_total_order_by_minimax_accuracy(table: OperatingTable) -> None:
    scores = Scores(table, PolicyConfig())
    ordered = sorted((row.point for row in table.rows), key=scores.rank)
    assert len({scores.rank(point) for point in ordered}) == len(ordered)
    minimax = [table.row(point).minimax() for point in ordered]
    assert minimax == sorted(minimax)
    assert ordered[-1] == OperatingPoint(1.0, 1.0)
