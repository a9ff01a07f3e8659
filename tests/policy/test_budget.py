"""Time and energy: what they allow, and that nothing which is not known ever looks plentiful."""

from __future__ import annotations

import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oat_runtime.operating_point import OperatingPoint, OperatingTable
from policy.choice.budget import Budget
from policy.config import BatteryStep, PolicyConfig
from policy.controller import AdaptivePolicy
from policy.signals import NetworkSignals, Override, Reading, Signals, SignalState

WIDE, NARROW = OperatingPoint(0.0, 1.0), OperatingPoint(0.0, 0.5)
FRAME_S = 0.1
# 10 Wh above a reserve of 20 %, a tenth of it for an hour: 0.8 W when full. Width 1.0 costs 0.05 J a frame.
BATTERY = {"battery_capacity_wh": 10.0, "perception_share": 0.1, "battery_reserve": 0.2, "mission_s": 3600.0}


def _power_w(budget: Budget, reading: Reading, *, elapsed_s: float = 0.0) -> float | None:
    state = reading.state(low=0.0, high=1.0, max_age_s=10.0)
    return budget.allowance(Signals(elapsed_s, battery=reading), {"battery": state}, elapsed_s=elapsed_s).power_w


def test_the_power_budget_spends_what_is_above_the_reserve_over_what_is_left_of_the_mission(
    profiled_table: OperatingTable,
) -> None:
    budget = Budget(profiled_table, PolicyConfig(**BATTERY))
    assert _power_w(budget, Reading(1.0)) == pytest.approx(0.8)
    assert _power_w(budget, Reading(0.6)) == pytest.approx(0.4)
    assert _power_w(budget, Reading(0.6), elapsed_s=1800.0) == pytest.approx(0.8)
    assert _power_w(budget, Reading(0.2)) == 0.0
    assert _power_w(budget, Reading(0.1)) == 0.0
    capped = Budget(profiled_table, PolicyConfig(**BATTERY, power_budget_w=0.5))
    assert _power_w(capped, Reading(1.0)) == 0.5


@pytest.mark.parametrize("lost", [Reading(), Reading(math.nan), Reading(87.0), Reading(-0.01), Reading(1.0, 99.0)])
def test_an_unknown_battery_has_nothing_to_spend_once_the_hold_is_over(
    profiled_table: OperatingTable, lost: Reading
) -> None:
    budget = Budget(profiled_table, PolicyConfig(**BATTERY, battery_hold_s=20.0))
    assert _power_w(budget, lost) == 0.0
    assert _power_w(budget, Reading(0.6)) == pytest.approx(0.4)
    held_w = _power_w(budget, lost, elapsed_s=20.0)
    assert held_w == pytest.approx(0.4 * 3600 / 3580)
    assert _power_w(budget, lost, elapsed_s=20.1) == 0.0


@given(charges=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_less_charge_never_allows_more(profiled_table: OperatingTable, charges: tuple[float, float]) -> None:
    low_w, high_w = (_power_w(Budget(profiled_table, PolicyConfig(**BATTERY)), Reading(c)) for c in sorted(charges))
    assert low_w is not None
    assert high_w is not None
    assert low_w <= high_w


def test_the_rate_falls_first_and_then_the_width(profiled_table: OperatingTable) -> None:
    def decide(charge: float) -> tuple[float, float | None]:
        policy = AdaptivePolicy(profiled_table, PolicyConfig(**BATTERY, min_rate_hz=5.0))
        decision = policy.step(Signals(0.0, battery=Reading(charge)))
        return decision.point.width, decision.max_rate_hz

    width, rate_hz = decide(1.0)
    assert (width, rate_hz) == (1.0, pytest.approx(16.0))
    assert decide(0.4) == (0.75, pytest.approx(0.2 / 0.035))
    assert decide(0.2) == (0.5, 5.0)  # nothing left: as little as the robot can do with


def test_without_joules_the_ladder_takes_the_charge(table: OperatingTable) -> None:
    ladder = (BatteryStep(min_charge=0.3, max_width=1.0), BatteryStep(min_charge=0.0, max_width=0.5))
    policy = AdaptivePolicy(table, PolicyConfig(battery_capacity_wh=10.0, battery_ladder=ladder))
    assert policy.step(Signals(0.0, battery=Reading(0.9))).point.width == 1.0
    assert policy.step(Signals(0.1, battery=Reading(0.1))).point.width == 0.5


def _widths(policy: AdaptivePolicy, slowdowns: list[float]) -> list[float]:
    """Widths over time on a machine that is slower than its profile by these factors."""
    widths: list[float] = []
    network = None
    start_s = 0.0 if policy._last_now_s is None else policy._last_now_s
    median_ms = {row.width: row.latency_ms_p50 or 0.0 for row in policy.table.rows}
    for index, slowdown in enumerate(slowdowns, start=1):
        decision = policy.step(Signals(start_s + index * FRAME_S, network=network))
        widths.append(decision.point.width)
        network = NetworkSignals(decision.point, 0.9, latency_ms=slowdown * median_ms[decision.point.width])
    return widths


def test_a_slow_machine_narrows_at_once_and_widens_after_the_dwell_time(profiled_table: OperatingTable) -> None:
    policy = AdaptivePolicy(profiled_table, PolicyConfig(deadline_ms=8.0, width_dwell_s=5.0))
    assert set(_widths(policy, [1.0] * 20)) == {1.0}
    busy = _widths(policy, [2.2] * 60)
    assert busy[6:] == [0.5] * 54  # 0.6 s: within the first dwell time
    calm = _widths(policy, [1.0] * 200)
    back = calm.index(1.0)
    assert back >= 20
    assert calm[back:] == [1.0] * (200 - back)


def test_a_slow_machine_narrows_at_the_lowest_rate_that_a_budget_grants_by_default(
    profiled_table: OperatingTable,
) -> None:
    """Regression: a latency of a second ago was too old to be learned from."""
    config = PolicyConfig(deadline_ms=8.0)
    policy = AdaptivePolicy(profiled_table, config)
    last, widths = None, []
    for number in range(20):
        decision = policy.step(Signals(number * 1.05 / config.min_rate_hz, network=last))
        widths.append(decision.point.width)
        last = NetworkSignals(decision.point, 0.9, latency_ms=50.0, age_s=1.05 / config.min_rate_hz)
    assert (widths[0], widths[-1]) == (1.0, 0.5)


@pytest.mark.parametrize("slowdown", [99.0, 101.0, 1e4, sys.float_info.max / 1e3])
def test_a_machine_of_any_finite_slowness_narrows_and_its_state_is_restored(
    profiled_table: OperatingTable, slowdown: float
) -> None:
    """Regression: more than 100 times slower than the profile of one image, as with many regions, was no evidence."""
    config = PolicyConfig(deadline_ms=8.0)
    policy = AdaptivePolicy(profiled_table, config)
    assert _widths(policy, [slowdown] * 20)[-1] == 0.5
    AdaptivePolicy(profiled_table, config).restore(policy.snapshot())


@pytest.mark.parametrize("lam", [0.0, 0.25, 0.99])
def test_a_slow_machine_narrows_at_an_operators_lambda_that_the_table_does_not_hold(
    profiled_table: OperatingTable, lam: float
) -> None:
    """Regression: at λ=0.25 no latency counted, and every frame was late at the widest width."""
    policy = AdaptivePolicy(profiled_table, PolicyConfig(deadline_ms=8.0))
    last = None
    for number in range(20):
        decision = policy.step(Signals(number * FRAME_S, network=last, override_lam=Override(lam)))
        last = NetworkSignals(decision.point, 0.9, latency_ms=50.0)
    assert decision.point == OperatingPoint(lam, 0.5)


@pytest.mark.parametrize("slowdown", [math.inf, math.nan, -1.0])
def test_a_latency_that_is_none_is_no_evidence(profiled_table: OperatingTable, slowdown: float) -> None:
    assert set(_widths(AdaptivePolicy(profiled_table, PolicyConfig(deadline_ms=8.0)), [slowdown] * 20)) == {1.0}


def test_one_slow_frame_changes_nothing(profiled_table: OperatingTable) -> None:
    policy = AdaptivePolicy(profiled_table, PolicyConfig(deadline_ms=9.0))
    assert set(_widths(policy, [1.0] * 20 + [1.8] + [1.0] * 20)) == {1.0}


def test_a_machine_faster_than_its_profile_earns_nothing(profiled_table: OperatingTable) -> None:
    policy = AdaptivePolicy(profiled_table, PolicyConfig(deadline_ms=7.4))
    assert set(_widths(policy, [0.1] * 50)) == {0.75}


@given(latency_ms=st.floats() | st.none(), age_s=st.floats())
def test_no_latency_reading_breaks_the_budget(
    profiled_table: OperatingTable, latency_ms: float | None, age_s: float
) -> None:
    budget = Budget(profiled_table, PolicyConfig(deadline_ms=8.0))
    network = NetworkSignals(WIDE, 0.9, latency_ms=latency_ms, age_s=age_s)
    allowance = budget.allowance(Signals(0.0, network=network), {"battery": SignalState.MISSING}, elapsed_s=0.0)
    assert budget.objection(NARROW, allowance) is None or budget.objection(WIDE, allowance) is not None
