"""The scripted day: every time belongs to one phase, values move without jumps, and bad scripts are refused."""

import itertools
import math
from collections import Counter

import pytest
from oat_perception.demo.days import DAYS
from oat_perception.replay.scenario import DAY, ROBOT_DAY, SCENARIOS, Phase, Scenario, load_scenario
from pydantic import ValidationError

from oat_runtime.data.boxes.sample import sample_sessions
from oat_runtime.errors import ConfigError


def test_the_day_goes_through_what_the_demo_promises():
    assert [phase.name for phase in DAY.phases] == [
        "clear", "noise", "fog", "attack", "low_battery", "override", "release",
    ]  # fmt: skip
    assert 45 <= DAY.duration_s <= 75
    assert DAY.phase("attack").attack == "pgd-10"
    assert DAY.phase("low_battery").battery <= 0.1
    assert DAY.phase("override").manual is not None
    assert DAY.phase("release").manual is None


def test_the_robots_day_goes_the_same_way_in_two_halls():
    assert [phase.name for phase in ROBOT_DAY.phases] == [
        "bright_hall", "dark_hall", "attack", "low_battery", "override", "release",
    ]  # fmt: skip
    assert 45 <= ROBOT_DAY.duration_s <= 75
    assert ROBOT_DAY.phase("dark_hall").source.startswith("robocup-poor-light/")
    assert ROBOT_DAY.phase("attack").attack == DAY.phase("attack").attack
    assert ROBOT_DAY.phase("low_battery").battery == DAY.phase("low_battery").battery
    assert ROBOT_DAY.phase("override").manual == DAY.phase("override").manual


def test_no_frame_of_the_robots_day_is_shown_twice():
    """And all of them are in the sample, so a download is enough."""
    num_frames = {session.name: len(session.frames) for session in sample_sessions()}
    shown: Counter[str] = Counter()
    for phase in ROBOT_DAY.phases:
        rate_hz = min(DAYS["robot"].rate_hz, phase.max_rate_hz or DAYS["robot"].rate_hz)
        shown[phase.source.partition("/")[2]] += math.ceil(rate_hz * phase.seconds)
    assert shown.keys() == num_frames.keys()
    assert all(shown[name] <= num for name, num in num_frames.items()), (shown, num_frames)


def test_each_time_lies_in_one_phase_and_the_day_ends():
    boundaries = DAY.boundaries_s()
    for index, (begin, end) in enumerate(itertools.pairwise(boundaries)):
        assert DAY.at(begin).index == index
        assert DAY.at(end - 1e-6).phase is DAY.phases[index]
    assert DAY.at(DAY.duration_s) is None


def test_confidence_and_battery_never_jump_and_reach_their_values():
    step_s = 0.01
    num_steps = int(DAY.duration_s / step_s)
    moments = [DAY.at(i * step_s) for i in range(num_steps)]
    for before, after in itertools.pairwise(moments):
        assert abs(after.battery - before.battery) <= step_s / DAY.ramp_s + 1e-9
        assert abs(after.confidence - before.confidence) <= step_s / DAY.ramp_s + 1e-9
    for phase, end in zip(DAY.phases, DAY.boundaries_s()[1:], strict=True):
        last = DAY.at(end - 1e-6)
        assert (last.confidence, last.battery) == pytest.approx((phase.confidence, phase.battery))


def test_equal_phases_keep_their_contents():
    short = DAY.with_seconds_per_phase(1.0)
    assert short.duration_s == len(DAY.phases)
    assert [p.name for p in short.phases] == [p.name for p in DAY.phases]
    assert short.at(4.9).battery == pytest.approx(0.10)


def test_a_scenario_survives_its_file(tmp_path):
    path = tmp_path / "day.json"
    for name, day in SCENARIOS.items():
        path.write_text(day.model_dump_json())
        assert load_scenario(str(path)) == day == load_scenario(name)


@pytest.mark.parametrize(
    "change",
    [{"corruption": "rain"}, {"severity": 6}, {"battery": 90.0}, {"seconds": 0}, {"attack": "pgd-7"}, {"speed": 1},
     {"confidence": float("nan")}],
)  # fmt: skip
def test_a_phase_that_cannot_be_acted_out_is_refused(change):
    with pytest.raises(ValidationError):
        Phase(**{"name": "x", "title": "X", "seconds": 1.0, **change})


def test_bad_scripts_are_refused_with_a_reason(tmp_path):
    with pytest.raises(ConfigError, match="expected 'day', 'robot' or the path"):
        load_scenario("night")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(ConfigError, match="is not a scenario"):
        load_scenario(str(tmp_path / "bad.json"))
    twice = Phase(name="x", title="X", seconds=1.0)
    with pytest.raises(ValidationError, match="must differ"):
        Scenario(phases=(twice, twice))
