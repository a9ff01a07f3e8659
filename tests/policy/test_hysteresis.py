"""No input makes a knob chatter."""

from hypothesis import given, settings
from hypothesis import strategies as st

from policy.decision import Rule
from policy.hysteresis import Hysteresis

RANKS = {setting: (setting, setting, 1.0) for setting in (0.0, 0.1, 0.4, 1.0)}
SCORES = st.fixed_dictionaries(dict.fromkeys(RANKS, st.floats(0, 1)))
MAYBE_MISSING = SCORES.flatmap(
    lambda scores: st.sets(st.sampled_from(sorted(scores)), min_size=1).map(lambda keep: {s: scores[s] for s in keep})
)


@settings(max_examples=200, deadline=None)
@given(
    inputs=st.lists(st.tuples(st.floats(0, 3), MAYBE_MISSING), min_size=1, max_size=60),
    margin=st.sampled_from([0.0, 0.05]),
    start=st.sampled_from([None, *RANKS]),
)
def test_changes_are_bounded_on_any_input(
    inputs: list[tuple[float, dict[float, float]]], margin: float, start: float | None
) -> None:
    knob = Hysteresis(RANKS, start=start, dwell_s=2.0, margin=margin)
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
    assert knob.step({0.0: 0.54, 1.0: 0.5}, elapsed_s=9.0) == (0.0, Rule.HOLD_MARGIN)
    assert knob.step({0.0: 0.60, 1.0: 0.5}, elapsed_s=3.9) == (0.0, Rule.HOLD_DWELL)
    assert knob.step({0.0: 0.60, 0.1: 0.55, 1.0: 0.5}, elapsed_s=4.0) == (0.0, Rule.SWITCH)
    assert knob.current == 0.0


def test_a_setting_that_is_no_longer_admissible_is_left_without_a_margin() -> None:
    knob = Hysteresis(RANKS, start=1.0, dwell_s=2.0, margin=0.5)
    assert knob.step({0.4: 0.1}, elapsed_s=1.0) == (0.4, Rule.HOLD_DWELL)
    assert knob.step({0.4: 0.1}, elapsed_s=2.0) == (0.4, Rule.SWITCH)


def test_ties_go_to_the_safer_setting() -> None:
    knob = Hysteresis(RANKS, start=0.0, dwell_s=2.0, margin=0.0)
    assert knob.step(dict.fromkeys(RANKS, 0.5), elapsed_s=0.0) == (1.0, Rule.RAISE)
