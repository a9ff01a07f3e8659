"""The laws of the policy: what it never does, on any input, and who has the last word."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oat_runtime.errors import ConfigError
from oat_runtime.operating_point import OperatingPoint, OperatingTable, Regime
from policy.belief.constants import EstimatorConstants
from policy.config import BatteryStep, PolicyConfig
from policy.controller import AdaptivePolicy
from policy.decision import ChosenBy, Decision, Rule
from policy.image import UNUSABLE, ImageStatistics
from policy.signals import NetworkSignals, Override, Reading, Signals, SignalState

Typical = dict[Regime, ImageStatistics]
FRAME_S = 0.1
LADDER = (
    BatteryStep(min_charge=0.5, max_width=1.0),
    BatteryStep(min_charge=0.2, max_width=0.75),
    BatteryStep(min_charge=0.0, max_width=0.5, max_rate_hz=5.0),
)
CLEAR = Reading(1.0, 0.0, "test")
FULL = Reading(1.0, 0.0, "test")

readings = st.builds(
    Reading,
    st.none() | st.floats(0, 1) | st.sampled_from([math.nan, 87.0, -0.01, math.inf]),
    st.floats(-1, 20) | st.just(math.nan),
)
images = st.sampled_from([Regime.CLEAN, Regime.HIGH_FREQUENCY, Regime.LOW_FREQUENCY, Regime.UNKNOWN, None])
networks = st.none() | st.builds(
    NetworkSignals,
    st.just(OperatingPoint(0.4, 1.0)),
    st.floats(0, 1) | st.just(math.nan),
    disagrees=st.sampled_from([True, False, None]),
    latency_ms=st.none() | st.floats(0, 50) | st.just(math.nan),
    age_s=st.floats(-1, 3),
)
gaps = st.sampled_from([FRAME_S, FRAME_S, 1.0]) | st.floats(-1, 3) | st.just(math.nan)
frames = st.tuples(gaps, images, networks, st.just(CLEAR) | readings, readings)
# Frames repeat, since what never settles never gives the hysteresis anything to do.
streams = st.lists(st.tuples(frames, st.integers(1, 12)), min_size=1, max_size=12).map(
    lambda runs: [frame for frame, repeats in runs for _ in range(repeats)]
)
quick = settings(max_examples=60)


def _signals(typical: Typical, stream: list[tuple[Any, ...]]) -> list[Signals]:
    now_s, signals = 100.0, []
    for gap_s, regime, network, confidence, battery in stream:
        now_s += gap_s if math.isfinite(gap_s) else 0.0
        image = UNUSABLE if regime is Regime.UNKNOWN else None if regime is None else typical[regime]
        signals.append(Signals(now_s if math.isfinite(gap_s) else math.nan, image, network, confidence, battery))
    return signals


def _settle(policy: AdaptivePolicy, image: ImageStatistics | None, *, frames: int = 100, **changes: Any) -> Decision:
    start_s = 0.0 if policy._last_now_s is None else policy._last_now_s + FRAME_S
    for index in range(frames):
        signals = Signals(start_s + index * FRAME_S, image, confidence=CLEAR, battery=FULL)
        decision = policy.step(replace(signals, **changes))
    return decision


@pytest.mark.parametrize(
    ("regime", "best"),
    [(Regime.CLEAN, (0.0, 0.1)), (Regime.HIGH_FREQUENCY, (0.4,)), (Regime.LOW_FREQUENCY, (0.0, 0.1))],
)
def test_each_regime_settles_on_what_the_table_measured_best(
    table: OperatingTable, constants: EstimatorConstants, typical: Typical, regime: Regime, best: tuple[float, ...]
) -> None:
    decision = _settle(AdaptivePolicy(table, PolicyConfig(), constants), typical[regime])
    assert decision.point.lam in best
    assert decision.point.width == 1.0
    assert decision.lam_source is ChosenBy.ADAPTIVE


def test_low_frequency_lowers_lambda_although_confidence_in_the_network_falls(
    table: OperatingTable, constants: EstimatorConstants, typical: Typical
) -> None:
    """A robust network loses under fog: the choice comes from the table, never from 'less confident, so more λ'."""
    policy = AdaptivePolicy(table, PolicyConfig(), constants)
    assert _settle(policy, typical[Regime.HIGH_FREQUENCY]).point.lam == 0.4
    unsure = NetworkSignals(OperatingPoint(0.4, 1.0), confidence=0.2, disagrees=False)
    assert _settle(policy, typical[Regime.LOW_FREQUENCY], network=unsure).point.lam <= 0.1


@pytest.mark.parametrize(
    ("switch_cost", "margin", "moves"), [(0.08, 0.0, True), (0.0, 0.08, True), (0.08, 0.08, False)]
)
def test_switch_cost_and_margin_add_up(
    table: OperatingTable,
    constants: EstimatorConstants,
    typical: Typical,
    switch_cost: float,
    margin: float,
    moves: bool,
) -> None:
    """Under low-frequency images λ=0 is 0.11 better than λ=0.4 and less robust: 0.08 let it pass, 0.16 do not."""
    policy = AdaptivePolicy(table, PolicyConfig(switch_cost=switch_cost, margin=margin), constants)
    policy._lam_rule._current = 0.4
    assert (_settle(policy, typical[Regime.LOW_FREQUENCY]).point.lam != 0.4) == moves


def test_the_page_names_the_default_sum_of_switch_cost_and_margin() -> None:
    page = (Path(__file__).parents[2] / "docs" / "policy.md").read_text(encoding="utf-8")
    config = PolicyConfig()
    assert f"gain {100 * (config.switch_cost + config.margin):g} points" in " ".join(page.split())


def test_disagreeing_probes_raise_lambda(
    table: OperatingTable, constants: EstimatorConstants, typical: Typical
) -> None:
    policy = AdaptivePolicy(table, PolicyConfig(), constants)
    assert _settle(policy, typical[Regime.CLEAN]).point.lam <= 0.1
    attacked = NetworkSignals(OperatingPoint(0.0, 1.0), confidence=0.99, disagrees=True)
    decision = _settle(policy, typical[Regime.CLEAN], frames=20, network=attacked)
    assert decision.point.lam == 1.0


@quick
@given(stream=streams, data=st.data())
def test_battery_never_moves_lambda(
    profiled_table: OperatingTable,
    constants: EstimatorConstants,
    typical: Typical,
    stream: list[tuple[Any, ...]],
    data: st.DataObject,
) -> None:
    config = PolicyConfig(battery_ladder=LADDER, dwell_s=0.5, width_dwell_s=0.5, deadline_ms=20)
    signals = _signals(typical, stream)
    one, other = (AdaptivePolicy(profiled_table, config, constants) for _ in range(2))
    for each in signals:
        swapped = replace(each, battery=data.draw(readings))
        assert one.step(each).point.lam == other.step(swapped).point.lam


@quick
@given(stream=streams, floor=st.sampled_from([0.0, 0.1, 0.4, 1.0]))
def test_no_sensor_signal_goes_below_the_floor_or_crashes_or_chatters(
    table: OperatingTable, constants: EstimatorConstants, typical: Typical, stream: list[tuple[Any, ...]], floor: float
) -> None:
    config = PolicyConfig(battery_ladder=LADDER, lambda_floor=floor, dwell_s=0.5, width_dwell_s=1.0)
    policy = AdaptivePolicy(table, config, constants)
    num_changes, forward_s, last_s = 0, 0.0, None
    for signals in _signals(typical, stream):
        decision = policy.step(signals)
        assert decision.point.lam >= floor
        assert sum(decision.posterior.values()) == pytest.approx(1.0)
        num_changes += decision.changed
        if math.isfinite(signals.now_s):
            forward_s += max(0.0, signals.now_s - last_s) if last_s is not None else 0.0
            last_s = signals.now_s
        assert num_changes <= len(table.lambdas) + len(table.widths) + forward_s / 0.5 + forward_s / 1.0


@quick
@given(stream=streams, percents=st.tuples(st.integers(0, 100), st.integers(0, 100)))
def test_lower_confidence_never_lowers_the_targets_worst_case(
    table: OperatingTable,
    constants: EstimatorConstants,
    typical: Typical,
    stream: list[tuple[Any, ...]],
    percents: tuple[int, int],
) -> None:
    minimax = {}
    for percent in percents:
        policy = AdaptivePolicy(table, PolicyConfig(dwell_s=0.1), constants)
        for signals in _signals(typical, stream):
            policy.step(signals)
        target = _settle(policy, typical[Regime.LOW_FREQUENCY], frames=1, confidence=Reading(percent / 100)).target
        minimax[percent] = table.row(OperatingPoint(target.lam, 1.0)).minimax()
    assert minimax[min(percents)] >= minimax[max(percents)]


@pytest.mark.parametrize(
    "lost",
    [Reading(), Reading(1.0, 9.0), Reading(math.nan), Reading(87.0), Reading(1.0, -1.0), Reading(1.0, math.nan)],
)
def test_lost_confidence_means_unknown_and_the_minimax_row_at_once(
    table: OperatingTable, constants: EstimatorConstants, typical: Typical, lost: Reading
) -> None:
    policy = AdaptivePolicy(table, PolicyConfig(), constants)
    assert _settle(policy, typical[Regime.CLEAN]).point.lam <= 0.1
    decision = _settle(policy, typical[Regime.CLEAN], frames=1, confidence=lost)
    assert decision.point.lam == 1.0
    assert decision.rule is Rule.RAISE
    assert decision.posterior[Regime.UNKNOWN] == 1.0
    assert decision.reason.startswith(
        f"unknown 1.00 (environment confidence {decision.states['confidence'].value}): λ=1"
    )


@pytest.mark.parametrize("image", [None, UNUSABLE])
def test_a_lost_image_means_unknown(
    table: OperatingTable, constants: EstimatorConstants, typical: Typical, image: ImageStatistics | None
) -> None:
    policy = AdaptivePolicy(table, PolicyConfig(), constants)
    _settle(policy, typical[Regime.CLEAN])
    assert _settle(policy, image, frames=1).point.lam == 1.0


def test_the_belief_holds_while_no_region_is_named_and_is_unknown_before_the_first_and_long_after_the_last(
    table: OperatingTable, constants: EstimatorConstants, typical: Typical
) -> None:
    def empty(now_s: float) -> Decision:
        return policy.step(Signals(now_s, confidence=CLEAR, num_regions=0))

    policy = AdaptivePolicy(table, PolicyConfig(), constants)
    assert {empty(0.1 * step).point.lam for step in range(30)} == {1.0}
    believed = _settle(policy, typical[Regime.CLEAN])
    assert believed.point.lam <= 0.1
    assert empty(20.0).point == believed.point
    assert empty(5000.0).point.lam == 1.0


def test_time_going_backwards_is_a_state_and_means_unknown(
    table: OperatingTable, constants: EstimatorConstants, typical: Typical
) -> None:
    policy = AdaptivePolicy(table, PolicyConfig(battery_ladder=LADDER), constants)
    _settle(policy, typical[Regime.CLEAN])
    decision = policy.step(Signals(1.0, typical[Regime.CLEAN], confidence=CLEAR, battery=FULL))
    assert decision.states["clock"] is SignalState.CLOCK_REGRESSED
    assert decision.states["battery"] is SignalState.CLOCK_REGRESSED
    assert decision.point.lam == 1.0
    assert _settle(policy, typical[Regime.CLEAN]).point.lam <= 0.1


def test_a_robot_without_confidence_topic_may_say_so_but_silence_still_counts(
    table: OperatingTable, constants: EstimatorConstants, typical: Typical
) -> None:
    policy = AdaptivePolicy(table, PolicyConfig(confidence_topic="absent"), constants)
    assert _settle(policy, typical[Regime.CLEAN], confidence=Reading()).point.lam <= 0.1
    assert _settle(policy, typical[Regime.CLEAN], frames=1, confidence=Reading(1.0, 9.0)).point.lam == 1.0


def test_without_constants_it_stays_at_the_minimax_row(table: OperatingTable, typical: Typical) -> None:
    decision = _settle(AdaptivePolicy(table, PolicyConfig()), typical[Regime.CLEAN])
    assert decision.point == OperatingPoint(1.0, 1.0)
    assert decision.probe is None


@pytest.mark.parametrize(("charge", "width"), [(1.0, 1.0), (0.5, 1.0), (0.49, 0.75), (0.2, 0.75), (0.1, 0.5)])
def test_the_battery_ladder_sets_the_width(
    table: OperatingTable, constants: EstimatorConstants, typical: Typical, charge: float, width: float
) -> None:
    policy = AdaptivePolicy(table, PolicyConfig(battery_ladder=LADDER), constants)
    _settle(policy, typical[Regime.CLEAN], frames=150)
    decision = _settle(policy, typical[Regime.CLEAN], frames=150, battery=Reading(charge))
    assert decision.point.width == width
    assert decision.max_rate_hz == (5.0 if width == 0.5 else None)


@pytest.mark.parametrize("lost", [Reading(), Reading(math.nan), Reading(87.0), Reading(-0.01), Reading(1.0, 99.0)])
def test_an_unknown_battery_is_held_for_a_while_and_never_full(
    table: OperatingTable, constants: EstimatorConstants, typical: Typical, lost: Reading
) -> None:
    config = PolicyConfig(battery_ladder=LADDER, battery_hold_s=20, width_dwell_s=1)
    assert AdaptivePolicy(table, config, constants).step(Signals(0.0, battery=lost)).point.width == 0.5
    policy = AdaptivePolicy(table, config, constants)
    _settle(policy, typical[Regime.CLEAN], battery=Reading(0.3))
    assert _settle(policy, typical[Regime.CLEAN], frames=190, battery=lost).point.width == 0.75
    assert _settle(policy, typical[Regime.CLEAN], frames=50, battery=lost).point.width == 0.5


@pytest.mark.parametrize(
    ("unknown_rate_hz", "rate_hz", "setting"),
    [(None, 5.0, "battery_ladder, last step"), (2.0, 2.0, "battery_unknown_rate_hz"), (30.0, 30.0, "_unknown_rate_hz")],
)
def test_an_unknown_battery_has_a_rate_of_its_own_and_the_limit_is_named(
    table: OperatingTable, unknown_rate_hz: float | None, rate_hz: float, setting: str
) -> None:
    """Regression: without a battery the rate was that of an empty one, and no word was said of it."""
    config = PolicyConfig(battery_ladder=LADDER, battery_unknown_rate_hz=unknown_rate_hz, battery_hold_s=20)
    policy = AdaptivePolicy(table, config)
    assert policy.rate_cause == ""
    assert policy.step(Signals(0.0)).max_rate_hz == rate_hz
    assert policy.rate_cause.startswith("battery missing (") and policy.rate_cause.endswith(f"{setting})")
    assert policy.step(Signals(1.0, battery=Reading(0.8))).max_rate_hz is None
    assert policy.rate_cause == ""
    assert policy.step(Signals(2.0, battery=Reading(0.1))).max_rate_hz == 5.0
    named = policy.rate_cause
    assert named == "battery's step from 0 % (battery_ladder)"
    assert policy.step(Signals(3.0, battery=Reading(0.09))).max_rate_hz == 5.0
    assert policy.rate_cause == named, "the same words as long as the same thing limits the rate"
    assert policy.step(Signals(30.0, battery=Reading(0.1, 99.0))).max_rate_hz == rate_hz
    assert policy.rate_cause.startswith("battery stale (")


def test_the_lowest_of_all_limits_of_the_rate_is_the_one_that_is_named(table: OperatingTable) -> None:
    for most_hz, cause in ((4.0, "max_rate_hz"), (6.0, "battery missing (battery_ladder, last step)")):
        policy = AdaptivePolicy(table, PolicyConfig(battery_ladder=LADDER, max_rate_hz=most_hz))
        assert policy.step(Signals(0.0)).max_rate_hz == min(most_hz, 5.0)
        assert policy.rate_cause == cause


def test_deadline_power_and_slow_machine_narrow_the_width(
    profiled_table: OperatingTable, constants: EstimatorConstants, typical: Typical
) -> None:
    def width(network: NetworkSignals | None = None, **config: Any) -> float:
        policy = AdaptivePolicy(profiled_table, PolicyConfig(width_dwell_s=1, **config), constants)
        return _settle(policy, typical[Regime.CLEAN], network=network).point.width

    assert width() == 1.0
    assert width(deadline_ms=7.6) == 1.0
    assert width(deadline_ms=7.4) == 0.75  # p99 of width 1.0 is 7.5 ms
    assert width(deadline_ms=7.4, deadline_probability=0.9) == 1.0
    assert width(deadline_ms=0.1) == 0.5  # none meets it: the narrowest
    assert width(power_budget_w=0.04) == 0.75
    slow = NetworkSignals(OperatingPoint(0.0, 1.0), confidence=0.9, latency_ms=10.0)
    assert width(slow, deadline_ms=7.6) == 0.5
    fast = NetworkSignals(OperatingPoint(0.0, 1.0), confidence=0.9, latency_ms=0.1)
    assert width(fast, deadline_ms=7.4) == 0.75


def test_precedence(table: OperatingTable, constants: EstimatorConstants, typical: Typical) -> None:
    policy = AdaptivePolicy(table, PolicyConfig(lam_min=0.1, width_min=0.6), constants)
    _settle(policy, typical[Regime.CLEAN])
    manual = {"override_lam": Override(0.8), "override_width": Override(0.75)}

    decision = _settle(policy, typical[Regime.CLEAN], frames=1, **manual)
    assert decision.point == OperatingPoint(0.8, 0.75)
    assert decision.source is ChosenBy.OPERATOR

    too_low = {"override_lam": Override(0.0), "override_width": Override(0.5)}
    decision = _settle(policy, typical[Regime.CLEAN], frames=1, **too_low)
    assert decision.point == OperatingPoint(0.1, 0.75)
    assert decision.source is ChosenBy.HARD_LIMIT
    assert "hard limit" in decision.reason

    decision = _settle(policy, typical[Regime.CLEAN], frames=1, safety_lock=True, **manual)
    assert decision.point == OperatingPoint(1.0, 1.0)
    assert decision.source is ChosenBy.SAFETY_LOCK

    decision = _settle(policy, typical[Regime.CLEAN], frames=1)
    assert decision.point == OperatingPoint(0.1, 1.0)
    assert decision.source is ChosenBy.ADAPTIVE


def test_an_operator_may_go_below_the_hazard_floor_and_the_reason_says_so(
    table: OperatingTable, constants: EstimatorConstants, typical: Typical
) -> None:
    policy = AdaptivePolicy(table, PolicyConfig(lambda_floor=0.4), constants)
    decision = _settle(policy, typical[Regime.CLEAN], frames=1, override_lam=Override(0.0))
    assert decision.point.lam == 0.0
    assert "below the hazard floor 0.4" in decision.reason


def test_an_override_expires_to_the_present_adaptive_choice(
    table: OperatingTable, constants: EstimatorConstants, typical: Typical
) -> None:
    policy = AdaptivePolicy(table, PolicyConfig(), constants)
    adaptive = _settle(policy, typical[Regime.CLEAN]).point
    expires_s = 100 * FRAME_S + 0.95
    lams = [
        _settle(policy, typical[Regime.CLEAN], frames=1, override_lam=Override(0.8, expires_s)).point.lam
        for _ in range(20)
    ]
    assert lams == [0.8] * 10 + [adaptive.lam] * 10


@pytest.mark.parametrize(
    ("overrides", "remark"),
    [
        ({"override_lam": Override(math.nan)}, "operator's λ nan ignored"),
        ({"override_lam": Override(1.3)}, "operator's λ 1.3 ignored"),
        ({"override_width": Override(0.6)}, "operator's width 0.6 ignored"),
    ],
)
def test_an_unusable_override_is_ignored_and_the_reason_says_so(
    table: OperatingTable, constants: EstimatorConstants, typical: Typical, overrides: dict[str, Any], remark: str
) -> None:
    policy = AdaptivePolicy(table, PolicyConfig(), constants)
    decision = _settle(policy, typical[Regime.CLEAN], frames=1, **overrides)
    assert decision.source is ChosenBy.ADAPTIVE
    assert remark in decision.reason


def test_not_adaptive_holds_the_default(table: OperatingTable, constants: EstimatorConstants, typical: Typical) -> None:
    config = PolicyConfig(adaptive=False, default_lam=0.2, default_width=0.75)
    decision = _settle(AdaptivePolicy(table, config, constants), typical[Regime.HIGH_FREQUENCY])
    assert decision.point == OperatingPoint(0.2, 0.75)
    assert decision.source is ChosenBy.DEFAULT


def test_the_reason_names_regime_choice_and_advantage(
    table: OperatingTable, constants: EstimatorConstants, typical: Typical
) -> None:
    decision = _settle(AdaptivePolicy(table, PolicyConfig(), constants), typical[Regime.HIGH_FREQUENCY])
    assert decision.reason.startswith("high_frequency 1.00: ")
    assert "λ=0.4 expects 65." in decision.reason
    assert "over λ=0.3" in decision.reason


def test_probes_come_once_a_period_at_the_opposite_lambda(
    table: OperatingTable, constants: EstimatorConstants, typical: Typical
) -> None:
    policy = AdaptivePolicy(table, PolicyConfig(probe_period_s=0.5), constants)
    decisions = [_settle(policy, typical[Regime.CLEAN], frames=1) for _ in range(100)]
    probed = [decision for decision in decisions if decision.probe is not None]
    assert 16 <= len(probed) <= 20
    opposite = {lam: 0.0 if lam >= 0.5 else 1.0 for lam in table.lambdas}
    assert {decision.probe for decision in probed} == {
        OperatingPoint(opposite[decision.point.lam], 1.0) for decision in probed
    }


def test_probes_come_often_while_it_is_open_whether_this_is_an_attack(
    table: OperatingTable, constants: EstimatorConstants, typical: Typical
) -> None:
    policy = AdaptivePolicy(table, PolicyConfig(alert_probe_period_s=0.05), constants)
    _settle(policy, typical[Regime.CLEAN])
    attacked = NetworkSignals(OperatingPoint(0.0, 1.0), confidence=0.99, disagrees=True)
    num_open = num_probed = 0
    for disagrees in (True, True, False, None, None, None, True, None, False, None):
        seen = replace(attacked, disagrees=disagrees)
        decision = _settle(policy, typical[Regime.CLEAN], frames=1, network=seen)
        if 0.15 < decision.posterior[Regime.ADVERSARIAL] < 0.85:
            num_open += 1
            num_probed += decision.probe is not None
    assert num_open >= 3
    assert num_probed == num_open


def test_it_starts_at_the_minimax_row_and_lets_go_once_settled(
    table: OperatingTable, constants: EstimatorConstants, typical: Typical
) -> None:
    policy = AdaptivePolicy(table, PolicyConfig(settle_s=0.5, dwell_s=5.0), constants)
    lams = [_settle(policy, typical[Regime.CLEAN], frames=1).point.lam for _ in range(10)]
    assert lams[:5] == [1.0] * 5
    assert lams[-1] <= 0.1
    assert len(set(lams)) == 2


def test_the_safest_lambda_is_that_of_the_best_worst_case_and_not_the_largest(
    foggy_table: OperatingTable, constants: EstimatorConstants, typical: Typical
) -> None:
    policy = AdaptivePolicy(foggy_table, PolicyConfig(), constants)
    clean, safest = typical[Regime.CLEAN], OperatingPoint(0.4, 1.0)
    assert _settle(policy, clean, frames=1).point == safest, "the start"
    attacked = NetworkSignals(OperatingPoint(0.0, 1.0), confidence=0.99, disagrees=True)
    assert _settle(policy, clean, frames=60, network=attacked).point.lam == 1.0
    lost = _settle(policy, clean, frames=1, confidence=Reading(math.nan))
    assert (lost.point, lost.rule) == (safest, Rule.RAISE), "at once, also from a larger λ"
    assert _settle(policy, clean, frames=60, network=attacked).point.lam == 1.0
    assert _settle(policy, clean, frames=1, network=attacked, safety_lock=True).point == safest
    held = AdaptivePolicy(foggy_table, PolicyConfig(adaptive=False), constants)
    assert _settle(held, clean, frames=1).point == safest


@pytest.mark.parametrize(
    ("deadline_ms", "floor", "point"),
    [
        (None, 0.0, (0.4, 1.0)), (None, 0.4, (0.4, 1.0)), (None, 0.5, (1.0, 1.0)), (None, 1.0, (1.0, 1.0)),
        (3.1, 0.0, (0.4, 0.5)), (3.1, 1.0, (1.0, 0.5)), (0.1, 0.0, (0.4, 1.0)),
    ],
)  # fmt: skip
def test_the_safety_lock_takes_the_safest_point_that_is_in_time_and_not_below_the_floor(
    foggy_table: OperatingTable, deadline_ms: float | None, floor: float, point: tuple[float, float]
) -> None:
    """Regression: it went below the floor, where another λ than the largest is the safest.

    The 99th percentile of width 0.5 is 3 ms, and no width meets 0.1 ms.
    """
    policy = AdaptivePolicy(foggy_table, PolicyConfig(deadline_ms=deadline_ms, lambda_floor=floor))
    locked = policy.step(Signals(0.0, safety_lock=True))
    assert (locked.point.lam, locked.point.width) == point


def test_after_an_attack_lambda_goes_back_in_one_step(
    table: OperatingTable, constants: EstimatorConstants, typical: Typical
) -> None:
    """Bug: it took three, each as the belief in the attack faded."""
    policy = AdaptivePolicy(table, PolicyConfig(), constants)
    _settle(policy, typical[Regime.CLEAN])
    attacked = NetworkSignals(OperatingPoint(0.0, 1.0), confidence=0.99, disagrees=True)
    assert _settle(policy, typical[Regime.CLEAN], frames=40, network=attacked).point.lam == 1.0
    over = NetworkSignals(OperatingPoint(1.0, 1.0), confidence=0.99, disagrees=False)
    lams = [_settle(policy, typical[Regime.CLEAN], frames=1, network=over).point.lam for _ in range(150)]
    assert lams[-1] <= 0.1
    assert len(set(lams)) == 2


def test_tables_that_do_not_fit_are_refused(
    table: OperatingTable, report_table: OperatingTable, profiled_table: OperatingTable
) -> None:
    def refused(message: str, of: OperatingTable, **config: Any) -> None:
        with pytest.raises(ConfigError, match=message):
            AdaptivePolicy(of, PolicyConfig(**config))

    refused("reads the table 'select', got 'report'", report_table)
    refused("of another bundle", table, bundle_sha256="cd" * 32)
    refused("of another device", profiled_table, device="other-cpu")
    refused("holds no latencies", table, deadline_ms=10)
    refused("holds no energies", table, power_budget_w=10)
    refused("holds no energies", table, battery_capacity_wh=50)
    refused("no λ of the table", table, lambda_floor=0.5, lam_max=0.9)
    refused("reference_width must be one of", table, reference_width=0.6)
    refused("default_width must be one of", table, default_width=0.6)
    above_0 = table.model_copy(update={"rows": tuple(row for row in table.rows if row.lam > 0.0)})
    refused(r"default_lambda must lie in \[0.\d, 1\], got 0", above_0, default_lam=0.0)
    rows = tuple(row.model_copy(update={"measurements": row.measurements[:3]}) for row in table.rows)
    refused("no measurement of \\['adversarial'\\]", table.model_copy(update={"rows": rows}))


@pytest.mark.parametrize(
    ("message", "config"),
    [
        ("lam_min must not exceed", {"lam_min": 0.5, "lam_max": 0.4}),
        ("lambda_floor must not exceed", {"lambda_floor": 0.5, "lam_max": 0.4}),
        ("default_lam must be within", {"default_lam": 0.1, "lambda_floor": 0.4}),
        ("must end with min_charge 0", {"battery_ladder": LADDER[:2]}),
        ("must descend", {"battery_ladder": (LADDER[1], LADDER[0], LADDER[2])}),
    ],
)
def test_configurations_that_contradict_themselves_are_refused(message: str, config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=message):
        PolicyConfig(**config)
