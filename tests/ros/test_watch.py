"""The watchdog looks at the very moment at which a silence reaches its configured time."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from oat_perception.core.matching import StampMatcher
from oat_perception.core.perception import ExternalSignals, Received
from oat_perception.core.tally import Tally
from oat_perception.node.diagnostics import Health, next_silence_s, signal_states, statuses

from oat_runtime.errors import InputError
from oat_runtime.operating_point import OperatingPoint
from policy.config import BatteryStep, PolicyConfig
from policy.decision import ChosenBy

CONFIG = PolicyConfig(
    confidence_max_age_s=0.7,
    battery_max_age_s=0.9,
    battery_ladder=(BatteryStep(min_charge=0.0, max_width=1.0),),
)


def _health(now_s: float, *, image_s: float, work_s: float | None, confidence_s: float, battery_s: float) -> Health:
    """What the node sees at `now_s`, where each part spoke last at the other times."""
    tally = Tally()
    tally.received(image_s, stamp_ns=1)
    tally.begin(work_s)
    external = ExternalSignals(
        confidence=Received(1.0, confidence_s).reading(now_s), battery=Received(1.0, battery_s).reading(now_s)
    )
    return Health(
        node="/oat_perception", state="active", problem="", listening_since_s=0.0, incompatible_qos="", bundle={},
        tally=tally.snapshot(now_s), num_dropped=0, signals=signal_states(CONFIG, external), machine={},
        camera_timeout_s=0.5, policy_timeout_s=0.3, now_s=now_s,
    )  # fmt: skip


def test_a_battery_that_gives_a_budget_of_power_is_watched_without_a_ladder() -> None:
    """Regression: a silent one slowed the robot down, and no status named it."""
    config = PolicyConfig(battery_capacity_wh=50.0, confidence_topic="absent")
    assert not config.battery_ladder
    assert list(signal_states(config, ExternalSignals())) == ["battery"]
    assert list(signal_states(PolicyConfig(confidence_topic="absent"), ExternalSignals())) == []


def test_regions_turn_stale_when_images_go_without_them() -> None:
    matcher: StampMatcher[str] = StampMatcher(queue_s=2.0, max_bytes=10**6, wait_s=0.4)

    def status(now_s: float, cause: str = "") -> DiagnosticStatus:
        health = _health(now_s, image_s=now_s, work_s=None, confidence_s=now_s, battery_s=now_s)
        found = statuses(replace(health, matching=matcher.state(), causes={"regions": lambda: cause}))
        return next(each for each in found if each.name.endswith("regions"))

    assert status(10.0).level == DiagnosticStatus.OK
    matcher.put_image(1, "one", now_s=10.0, num_bytes=1)
    health = _health(10.1, image_s=10.1, work_s=None, confidence_s=10.1, battery_s=10.1)
    assert next_silence_s(replace(health, matching=matcher.state())) == pytest.approx(10.4)
    assert status(10.4 - 1e-6).level == DiagnosticStatus.OK
    assert status(10.4 + 1e-6).level == DiagnosticStatus.STALE, "at that very moment"
    assert matcher.overdue(10.4) is not None
    assert status(10.5).level == DiagnosticStatus.STALE
    assert "no detections for 0.5 s: nobody publishes" in status(10.5, "nobody publishes").message
    matcher.put_detections(7, "of no image", now_s=10.6)
    assert "none has stamp and frame_id of an image" in status(10.7, "nobody publishes").message
    with pytest.raises(InputError):
        matcher.put_detections(1, "too late", now_s=10.8)
    assert status(10.9).level == DiagnosticStatus.OK


def test_the_alarm_is_a_warning_that_says_what_to_do() -> None:
    """Regression: the log promised the alarm, and nothing told it."""

    def status(**last: Any) -> DiagnosticStatus:
        decision = SimpleNamespace(lam_source=ChosenBy.ADAPTIVE, width_source=ChosenBy.ADAPTIVE, reason="")
        prediction = SimpleNamespace(point=OperatingPoint(0.0, 1.0), latency_ms=1.0)
        told = {"policy_failed": False, "alarmed": False, "note": "", "rate_cause": "", "policy_ms": 1.0, "probes": ()}
        result: Any = SimpleNamespace(decision=decision, prediction=prediction, **{**told, **last})
        tally = Tally()
        tally.processed(result, now_s=10.0, total_ms=1.0)
        health = _health(10.0, image_s=10.0, work_s=None, confidence_s=10.0, battery_s=10.0)
        found = statuses(replace(health, tally=tally.snapshot(10.0)))
        return next(each for each in found if each.name.endswith("policy"))

    assert (status().level, status().message) == (DiagnosticStatus.OK, "decides")
    assert status(alarmed=True).level == DiagnosticStatus.WARN
    for words in ("no longer like those of the calibration", "look at lens", "calibrate with oat-calibrate"):
        assert words in status(alarmed=True).message
    assert status(alarmed=True, policy_failed=True).level == DiagnosticStatus.ERROR


@pytest.mark.parametrize(
    ("part", "spoke", "timeout_s"),
    [
        ("camera", "image_s", 0.5),
        ("policy", "work_s", 0.3),
        ("environment confidence", "confidence_s", 0.7),
        ("battery", "battery_s", 0.9),
    ],
)
def test_the_next_look_is_where_a_part_turns_silent(part: str, spoke: str, timeout_s: float) -> None:
    last_s = dict.fromkeys(("image_s", "confidence_s", "battery_s"), 10.0) | {"work_s": None}
    last_s[spoke] = 10.3 - timeout_s  # all others have just spoken, so this one is next

    def level(now_s: float) -> bytes:
        found = statuses(_health(now_s, **last_s))
        return next(status.level for status in found if status.name.endswith(part))

    look_s = next_silence_s(_health(10.0, **last_s))
    assert look_s == pytest.approx(last_s[spoke] + timeout_s)
    assert level(look_s - 1e-6) == DiagnosticStatus.OK
    assert level(look_s + 1e-6) in (DiagnosticStatus.STALE, DiagnosticStatus.ERROR)


def test_nothing_that_is_silent_already_calls_for_a_look() -> None:
    health = _health(100.0, image_s=1.0, work_s=2.0, confidence_s=3.0, battery_s=4.0)
    assert next_silence_s(health) == math.inf
    assert next_silence_s(replace(health, tally=None)) == math.inf
