"""What a point is worth: a blend that lets go of accuracy in favour of the worst case as trust falls."""

import numpy as np
import pytest

from oat_runtime.operating_point import MEASURED_REGIMES, Measurement, OperatingPoint, OperatingTable, Regime
from policy.belief.constants import EstimatorConstants
from policy.choice.score import Belief, Scores
from policy.config import PolicyConfig


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


def net(scores: Scores, point: OperatingPoint, belief: Belief, present: OperatingPoint) -> float:
    return scores.blended(point, belief) - scores.switching(point, belief, present=present)


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
                best.append(max(points, key=lambda point: net(scores, point, belief, present)))
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


_ROOT = 0.4**0.5


def _with_fog(table: OperatingTable, right: dict[int, dict[float, int]]) -> OperatingTable:
    """Counts of fog by severity and λ, of 1,000 each; nothing else was counted of low frequency."""

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


def _worth(drawn: OperatingTable, constants: EstimatorConstants, **shares: float) -> dict[float, float]:
    """Worth of each λ where the regime is low frequency, and its kinds are believed in by these shares."""
    like = next(kind for kind in constants.kinds if kind.regime is Regime.LOW_FREQUENCY)
    kinds = tuple(like.model_copy(update={"name": name.replace("_", "-")}) for name in shares)
    scores = Scores(drawn, PolicyConfig(), kinds)
    masses = {**dict.fromkeys(Regime, 0.0), Regime.LOW_FREQUENCY: 1.0}
    belief = Belief.of(masses, confidence=1.0, credible_mass=0.1, kinds=np.array(list(shares.values())))
    return {row.lam: scores.blended(row.point, belief) for row in drawn.rows}


def test_a_kind_of_image_is_worth_what_was_counted_under_it(
    table: OperatingTable, constants: EstimatorConstants
) -> None:
    """In mild fog λ=0 is best, in strong fog λ=1; how they differ is a straight line in √λ, so nothing is smoothed."""
    mild = {0.0: 900, 0.4: round(900 - 100 * _ROOT), 1.0: 800}
    strong = {0.0: 500, 0.4: round(500 + 200 * _ROOT), 1.0: 700}
    drawn = _with_fog(table, {2: mild, 4: strong})
    bounds = {
        (severity, lam): drawn.row(OperatingPoint(lam, 1.0)).condition(f"fog-{severity}").interval()[0]
        for severity in (2, 4)
        for lam in mild
    }
    for lam in mild:
        assert _worth(drawn, constants, fog_mild=1.0)[lam] == pytest.approx(bounds[2, lam], abs=0.003)
        assert _worth(drawn, constants, fog_strong=1.0)[lam] == pytest.approx(bounds[4, lam], abs=0.003)
        both = _worth(drawn, constants, fog_mild=0.25, fog_strong=0.75)[lam]
        assert both == pytest.approx(0.25 * bounds[2, lam] + 0.75 * bounds[4, lam], abs=0.003)
        # A severity that was not counted: all of its corruption. A corruption that was not: all of its regime.
        pooled = drawn.row(OperatingPoint(lam, 1.0)).accuracy(Regime.LOW_FREQUENCY).interval()[0]
        assert _worth(drawn, constants, fog_medium=1.0)[lam] == pytest.approx(pooled)
        assert _worth(drawn, constants, haze_mild=1.0)[lam] == pytest.approx(pooled)


def test_luck_at_one_lambda_does_not_choose_it(table: OperatingTable, constants: EstimatorConstants) -> None:
    """Mild fog was luckier at λ=0.2 than beside it, strong fog unluckier; their regime is no better there."""
    lambdas = (0.0, 0.1, 0.2, 0.3, 0.4, 1.0)
    curve = {lam: round(700 - 100 * lam) for lam in lambdas}
    lucky = {lam: count + 25 * (lam == 0.2) for lam, count in curve.items()}
    unlucky = {lam: count - 25 * (lam == 0.2) for lam, count in curve.items()}
    drawn = _with_fog(table, {2: lucky, 4: unlucky})
    assert max(lucky, key=lambda lam: lucky[lam]) == 0.2
    worth = _worth(drawn, constants, fog_mild=1.0)
    assert max(worth, key=lambda lam: worth[lam]) == 0.0


def test_rank_is_a_total_order_by_minimax_accuracy(table: OperatingTable) -> None:
    scores = Scores(table, PolicyConfig())
    ordered = sorted((row.point for row in table.rows), key=scores.rank)
    assert len({scores.rank(point) for point in ordered}) == len(ordered)
    minimax = [table.row(point).minimax() for point in ordered]
    assert minimax == sorted(minimax)
    assert ordered[-1] == OperatingPoint(1.0, 1.0)


_SPREAD = dict.fromkeys(MEASURED_REGIMES, 0.1)


def _best(scores: Scores, table: OperatingTable, regime: Regime) -> float:
    masses = {**dict.fromkeys(Regime, 0.0), regime: 1.0}
    belief = Belief.of(masses, confidence=1.0, credible_mass=0.1)
    points = [row.point for row in table.rows if row.width == 1.0]
    worth = {point.lam: scores.blended(point, belief) for point in points}
    return max(worth.values()) - min(worth.values())


def _counted(table: OperatingTable, num: int, rng: np.random.Generator | None = None) -> OperatingTable:
    """The same shares, of `num` images; or, with `rng`, equal shares but for chance."""

    def right(share: float) -> int:
        return round(share * num) if rng is None else int(rng.binomial(num, 0.9))

    rows = tuple(
        row.model_copy(
            update={
                "measurements": tuple(
                    each.model_copy(update={"num_correct": right(each.num_correct / each.num_total), "num_total": num})
                    for each in row.measurements
                )
            }
        )
        for row in table.rows
    )
    return table.model_copy(update={"rows": rows})


def test_a_lead_that_chance_explains_is_none_and_a_proven_one_stays(table: OperatingTable) -> None:
    """Measured on real days: one image of twenty chose the most robust λ, and cost a point."""
    config, rng = PolicyConfig(), np.random.default_rng(0)
    spread = dict.fromkeys(MEASURED_REGIMES, 6 * 0.9 * 0.1 * 5 / 6)  # of six λ that are wrong on images of their own
    by_chance = 0
    for _ in range(100):
        drawn = _counted(table, 200, rng)
        assert _best(Scores(drawn, config), drawn, Regime.CLEAN) > 0.01
        by_chance += _best(Scores(drawn, config, (), spread), drawn, Regime.CLEAN) > config.switch_cost + config.margin
    assert by_chance <= 5
    many = _counted(table, 20_000)
    for regime in MEASURED_REGIMES:
        proven = _best(Scores(many, config, (), spread), many, regime)
        assert proven == pytest.approx(_best(Scores(many, config), many, regime), rel=0.02)


@pytest.mark.parametrize("num_lambdas", [2, 3, 6, 11])
def test_chance_proves_a_lead_in_one_table_of_twenty_however_many_lambdas_there_are(
    table: OperatingTable, num_lambdas: int
) -> None:
    """Regression: of two λ, chance proved a lead in one table of seven."""
    rng, spread = np.random.default_rng(0), dict.fromkeys(MEASURED_REGIMES, (num_lambdas - 1) * 0.9 * 0.1)
    like = table.row(OperatingPoint(0.0, 1.0))
    rows = tuple(like.model_copy(update={"lam": lam}) for lam in np.linspace(0, 1, num_lambdas).tolist())
    proved = []
    for _ in range(250):
        drawn = _counted(table.model_copy(update={"rows": rows}), 1000, rng)
        scores = Scores(drawn, PolicyConfig(), (), spread)
        proved += [_best(scores, drawn, regime) > 1e-9 for regime in MEASURED_REGIMES]
    assert 0.03 <= np.mean(proved) <= 0.07


def test_where_the_worst_case_proves_nothing_the_order_is_by_accuracy_before_any_frame(table: OperatingTable) -> None:
    few = _counted(table, 100)
    scores = Scores(few, PolicyConfig(), (), dict.fromkeys(MEASURED_REGIMES, 1e3))
    ranked = {scores.rank(row.point)[:2] for row in few.rows if row.width == 1.0}
    assert len(ranked) == 1, "nothing at all is proven: all are equal, and the most robust one wins"
    assert max((row.point for row in few.rows), key=scores.rank) == OperatingPoint(1.0, 1.0)
    only_clean = {**dict.fromkeys(MEASURED_REGIMES, 1e3), Regime.CLEAN: 1e-6}
    scores = Scores(few, PolicyConfig(), (), only_clean)
    best = max((row for row in few.rows if row.width == 1.0), key=lambda row: row.accuracy(Regime.CLEAN).rate)
    assert max((row.point for row in few.rows), key=scores.rank).lam == best.lam


def test_a_narrower_network_is_never_taken_for_the_better_one(
    table: OperatingTable, constants: EstimatorConstants
) -> None:
    drawn = _counted(table, 20, np.random.default_rng(3))
    scores = Scores(drawn, PolicyConfig(), constants.kinds, _SPREAD)
    rng = np.random.default_rng(0)
    for _ in range(50):
        kinds = _random_kinds(rng, len(constants.kinds))
        belief = Belief.of(_random_masses(rng), confidence=float(rng.random()), credible_mass=0.1, kinds=kinds)
        for lam in drawn.lambdas:
            worth = [scores.blended(OperatingPoint(lam, width), belief) for width in drawn.widths]
            assert worth == sorted(worth) and len(set(worth)) == len(worth)
