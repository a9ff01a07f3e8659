"""What a demo must keep to holds for any network, also for one on which no λ is worth a switch."""

from __future__ import annotations

import pytest
from oat_perception.demo.checks import DayCheck, check_day
from oat_perception.demo.days import DAYS
from oat_perception.demo.run_record import Run, joined

from oat_runtime.bundle import Bundle
from policy.config import BatteryStep, PolicyConfig

CONFIG = PolicyConfig(
    battery_ladder=tuple(
        BatteryStep(min_charge=charge, max_width=width) for charge, width in ((0.3, 1.0), (0.15, 0.75), (0.0, 0.5))
    )
)
SAFEST = 1.0  # of the tiny bundle's λ


def _run(day: str, *, lams: dict[str, float], widths: dict[str, float], by: dict[str, str] | None = None) -> Run:
    """One answered image a second; the policy is where a phase is not named: at the safest λ, as wide as allowed."""
    scenario = DAYS[day].scenario
    truth, results = [], {}
    for number in range(int(scenario.duration_s)):
        phase = scenario.at(number + 0.5).phase
        stamp_ns = number * 10**9
        truth.append({"stamp_ns": stamp_ns, "phase": phase.name, "label": 0, "attack": phase.attack})
        lam = lams.get(phase.name, phase.manual.lam if phase.manual else SAFEST)
        width = widths.get(phase.name, phase.manual.width if phase.manual else 0.5 if phase.battery < 0.15 else 1.0)
        source = (by or {}).get(phase.name, "operator" if phase.manual else "adaptive")
        results[stamp_ns] = {
            "stamp_ns": stamp_ns, "answers": [{"label": 0}], "lambda": lam, "width": width, "reason": "made up",
            "lambda_source": source, "width_source": source, "inference_ms": 1.0,
        }  # fmt: skip
    return Run(scenario, joined(truth, results, {}), ())


def _checks(run: Run, tiny_bundle, tmp_path) -> dict[str, DayCheck]:
    checks = check_day(run, tmp_path / "none.jsonl", bundle=tiny_bundle, config=CONFIG)
    return {
        check.name: check for check in checks if check.name not in ("decision log replays", "switches with a reason")
    }


@pytest.mark.parametrize("day", DAYS)
def test_a_policy_that_never_moves_lambda_is_no_failure(day, tiny_bundle, tmp_path):
    checks = _checks(_run(day, lams={}, widths={}), tiny_bundle, tmp_path)
    assert len(checks) == 5
    assert all(check.ok for check in checks.values()), checks


@pytest.mark.parametrize("day", DAYS)
def test_in_doubt_a_lambda_that_is_bad_at_its_worst_fails(day, tiny_bundle, tmp_path):
    """At a confidence of 0.1 a worst case may lie 11 points below the best one; λ=0's lies 35 below."""
    rows = Bundle.load(tiny_bundle).select
    assert {0.0, 1.0} <= set(rows.lambdas)
    bad = _checks(_run(day, lams={"attack": 0.0}, widths={}), tiny_bundle, tmp_path)
    assert [name for name, check in bad.items() if not check.ok] == ["doubt makes it cautious"]
    elsewhere = _checks(_run(day, lams=dict.fromkeys(("clear", "bright_hall"), 0.0), widths={}), tiny_bundle, tmp_path)
    assert all(check.ok for check in elsewhere.values())


@pytest.mark.parametrize("day", DAYS)
def test_a_network_that_is_wider_than_the_battery_allows_fails_and_a_narrower_one_does_not(day, tiny_bundle, tmp_path):
    wide = _checks(_run(day, lams={}, widths={"low_battery": 0.75}), tiny_bundle, tmp_path)
    assert [name for name, check in wide.items() if not check.ok] == ["the battery bounds the width"]
    narrow = dict.fromkeys(("clear", "bright_hall", "attack"), 0.5)
    assert all(check.ok for check in _checks(_run(day, lams={}, widths=narrow), tiny_bundle, tmp_path).values())


@pytest.mark.parametrize("day", DAYS)
def test_an_operator_who_is_not_obeyed_or_not_let_go_fails(day, tiny_bundle, tmp_path):
    other = _checks(_run(day, lams={"override": 0.4}, widths={}), tiny_bundle, tmp_path)
    assert [name for name, check in other.items() if not check.ok] == ["the operator's setting was obeyed"]
    held = _checks(_run(day, lams={}, widths={}, by={"release": "operator"}), tiny_bundle, tmp_path)
    assert [name for name, check in held.items() if not check.ok] == ["and given back"]
