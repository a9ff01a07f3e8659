"""No input makes a knob chatter."""

import itertools
from typing import Literal

from hypothesis import given, settings
from hypothesis import strategies as st

from policy.choice.hysteresis import Hysteresis
from policy.decision import Rule

RANKS = {setting: (setting, setting, 1.0) for setting in (0.0, 0.1, 0.4, 1.0)}
SCORES = st.fixed_dictionaries(dict.fromkeys(RANKS, st.floats(0, 1)))
MAYBE_MISSING = SCORES.flatmap(
    lambda scores: st.sets(st.sampled_from(sorted(scores)), min_size=1).map(lambda keep: {s: scores[s] for s in keep})
)


@settings(max_examples=200)
@given(
    inputs=st.lists(st.tuples(st.floats(0, 3), MAYBE_MISSING), min_size=1, max_size=60),
    margin=st.sampled_from([0.0, 0.05]),
    start=st.sampled_from([None, *RANKS]),
    settle_s=st.sampled_from([0.0, 1.0]),
    urgent=st.sampled_from(["climb", "forced climb"]),
)
def test_changes_are_bounded_on_any_input(
    inputs: list[tuple[float, dict[float, float]]],
    margin: float,
    start: float | None,
    settle_s: float,
    urgent: Literal["climb", "forced climb"],
) -> None:
    knob = Hysteresis(RANKS, start=start, dwell_s=2.0, margin=margin, settle_s=settle_s, urgent=urgent)
    elapsed_s, num_changes = 0.0, 0
    for gap_s, scores in inputs:
        elapsed_s += gap_s
        _, rule = knob.step(scores, elapsed_s=elapsed_s)
        num_changes += rule in (Rule.RAISE, Rule.SWITCH)
        assert num_changes <= len(RANKS) + elapsed_s / 2.0


def test_an_alternating_adversary_gets_no_more_than_one_change_a_dwell_time() -> None:
    knob = Hysteresis(RANKS, start=1.0, dwell_s=2.0, margin=0.0)
    num_changes = 0
    for frame in range(30_000):
        wanted = sorted(RANKS)[frame % 4]
        _, rule = knob.step({setting: float(setting == wanted) for setting in RANKS}, elapsed_s=frame * 0.01)
        num_changes += rule in (Rule.RAISE, Rule.SWITCH)
    assert 10 < num_changes <= len(RANKS) + 300 / 2.0


def test_safer_is_immediate_and_everything_else_waits() -> None:
    knob = Hysteresis(RANKS, start=0.4, dwell_s=2.0, margin=0.05)
    assert knob.step({0.4: 0.5, 1.0: 0.5001}, elapsed_s=0.0) == (1.0, Rule.RAISE)
    assert knob.step({0.0: 0.54, 1.0: 0.5}, elapsed_s=1.0) == (0.0, Rule.HOLD_MARGIN)
    assert knob.step({0.0: 0.60, 1.0: 0.5}, elapsed_s=1.9) == (0.0, Rule.HOLD_DWELL)
    assert knob.step({0.0: 0.60, 0.1: 0.55, 1.0: 0.5}, elapsed_s=2.0) == (0.0, Rule.SWITCH)
    assert knob.current == 0.0


def test_a_setting_that_is_no_longer_admissible_is_left_without_a_margin() -> None:
    knob = Hysteresis(RANKS, start=0.4, dwell_s=2.0, margin=0.5)
    assert knob.step({0.4: 0.1, 1.0: 0.2}, elapsed_s=0.0) == (1.0, Rule.RAISE)
    assert knob.step({0.4: 0.1}, elapsed_s=1.0) == (0.4, Rule.HOLD_DWELL)
    assert knob.step({0.4: 0.1}, elapsed_s=2.0) == (0.4, Rule.SWITCH)


def test_a_forced_climb_is_immediate_and_one_by_choice_waits() -> None:
    knob = Hysteresis(RANKS, start=0.1, dwell_s=2.0, margin=0.05, urgent="forced climb")
    assert knob.step({0.4: 0.1}, elapsed_s=0.0) == (0.4, Rule.SWITCH)
    assert knob.step({0.4: 0.5, 1.0: 0.6}, elapsed_s=1.0) == (1.0, Rule.HOLD_DWELL)
    assert knob.step({1.0: 0.0}, elapsed_s=1.5) == (1.0, Rule.SWITCH)


def test_a_moving_target_is_followed_in_one_move_and_a_restless_one_after_a_dwell_time() -> None:
    """Bug: after an attack λ went back in three steps, each as the belief faded."""
    knob = Hysteresis(RANKS, start=1.0, dwell_s=2.0, margin=0.0, settle_s=1.0)
    fading = [({0.4: 0.6, 1.0: 0.5}, 0.0), ({0.1: 0.6, 1.0: 0.5}, 0.5), ({0.0: 0.6, 1.0: 0.5}, 0.9)]
    for scores, elapsed_s in fading:
        assert knob.step(scores, elapsed_s=elapsed_s)[1] is Rule.HOLD_DWELL
    assert knob.step({0.0: 0.6, 1.0: 0.5}, elapsed_s=1.75)[1] is Rule.HOLD_DWELL
    assert knob.step({0.0: 0.6, 1.0: 0.5}, elapsed_s=2.0) == (0.0, Rule.SWITCH)

    restless = Hysteresis(RANKS, start=1.0, dwell_s=2.0, margin=0.0, settle_s=1.0)
    rules = [restless.step({(0.0, 0.1)[i % 2]: 0.6, 1.0: 0.5}, elapsed_s=0.1 * i)[1] for i in range(22)]
    assert rules.index(Rule.SWITCH) == 20


def test_the_price_of_thrashing_rises_and_falls_again() -> None:
    """An adversary who raises λ right after each release waits twice as long every time; in peace the price falls."""
    knob = Hysteresis(RANKS, start=1.0, dwell_s=1.0, margin=0.0)
    calm, alarm = {0.0: 0.6, 1.0: 0.5}, {0.0: 0.5, 1.0: 0.6}
    released, elapsed_s = [], 0.0
    while len(released) < 6:
        if knob.step(calm, elapsed_s=elapsed_s)[1] is Rule.SWITCH:
            released.append(elapsed_s)
            elapsed_s += 0.1
            assert knob.step(alarm, elapsed_s=elapsed_s)[1] is Rule.RAISE
        elapsed_s += 0.1
    waits = [later - earlier for earlier, later in itertools.pairwise(released)]
    assert waits == sorted(waits)
    assert waits[-1] > 3 * waits[0]
    for round_s in (100.0, 200.0, 300.0, 400.0):
        assert knob.step(calm, elapsed_s=elapsed_s + round_s)[1] is Rule.SWITCH
        assert knob.step(alarm, elapsed_s=elapsed_s + round_s + 50.0)[1] is Rule.RAISE
    assert knob.step(calm, elapsed_s=elapsed_s + 451.0)[1] is Rule.SWITCH
    assert knob.step(alarm, elapsed_s=elapsed_s + 460.0)[1] is Rule.RAISE
    assert knob.step(calm, elapsed_s=elapsed_s + 461.1)[1] is Rule.SWITCH


def test_ties_go_to_the_safer_setting() -> None:
    knob = Hysteresis(RANKS, start=0.0, dwell_s=2.0, margin=0.0)
    assert knob.step(dict.fromkeys(RANKS, 0.5), elapsed_s=0.0) == (1.0, Rule.RAISE)
