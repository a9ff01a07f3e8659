"""Battery and confidence that fall silent, or are nonsense, lead to the documented fallback and back again."""

from __future__ import annotations

import json
import math
import threading
import time

import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from oat_msgs.msg import DecisionRecord, OperatingPoint, Perception
from sensor_msgs.msg import BatteryState
from std_msgs.msg import Float32, Float64

from policy.controller import AdaptivePolicy

SLACK_S = 2.0
"""For a busy machine; the benchmark holds the watchdog to 10 ms on an idle one."""
QUICK = {"dwell_s": 0.05, "width_dwell_s": 0.05, "probe_period_s": 0.0, "regime_persistence_s": 600.0}


def test_confidence_silence_leads_to_the_safest_lambda_and_back(start_graph) -> None:
    peer = start_graph(**QUICK, confidence_max_age_s=0.4).peer
    trusted = peer.ask_until(lambda r: r.lambda_value == 0.0, "clear and trusted: the most accurate", confidence=1.0)
    assert trusted.environment_confidence == 1.0
    silent = peer.ask_until(lambda r: r.lambda_value == 1.0, "silence: the safest")
    assert silent.environment_confidence_age_ms > 400
    peer.until(lambda: "stale" in peer.points[-1].reason, "the reason is given")
    peer.until(lambda: peer.diagnoses["environment confidence"].level == DiagnosticStatus.STALE, "diagnosed")
    told = "stale: a publisher of /environment_confidence matches, but nothing arrives"
    assert peer.diagnoses["environment confidence"].message == told
    peer.ask_until(lambda r: r.lambda_value == 0.0, "recovered by itself", confidence=1.0)
    for nonsense in (math.nan, 1.7, -0.1):
        peer.ask_until(lambda r: r.lambda_value == 1.0, f"{nonsense} is not trust", confidence=nonsense)
        peer.ask_until(lambda r: r.lambda_value == 0.0, "recovered by itself", confidence=1.0)


def test_a_bare_number_is_a_confidence_too_and_falls_silent_like_one(start_graph) -> None:
    peer = start_graph(**QUICK, confidence_max_age_s=0.4).peer
    decisions: list[DecisionRecord] = []
    peer.create_subscription(DecisionRecord, "/oat_perception/decision", decisions.append, 10)

    def told(value: float, lam: float, what: str) -> Perception:
        def so(result: Perception) -> bool:
            peer.confidence_value.publish(Float32(data=value))
            return result.lambda_value == lam

        return peer.ask_until(so, what)

    assert told(1.0, 0.0, "clear and trusted: the most accurate").environment_confidence == 1.0
    peer.until(lambda: decisions, "the decisions come")
    told(1.0, 0.0, "still")
    seen = json.loads(decisions[-1].record_json.splitlines()[-1])["signals"]["confidence"]
    assert seen["source"] == "environment_confidence_value"
    peer.ask_until(lambda r: r.lambda_value == 1.0, "silence: the safest")
    for nonsense in (math.nan, 1.7, -0.1):
        told(1.0, 0.0, "recovered by itself")
        told(nonsense, 1.0, f"{nonsense} is not trust")


def test_two_topics_of_confidence_are_told_once_and_the_newest_counts(start_graph, capfd) -> None:
    peer = start_graph(**QUICK).peer
    peer.ask_until(lambda r: r.environment_confidence == 1.0, "the message", confidence=1.0)

    def so(result: Perception) -> bool:
        peer.confidence_value.publish(Float32(data=0.25))
        return result.environment_confidence == 0.25

    peer.ask_until(so, "the number, which is newer")
    peer.ask_until(lambda r: r.environment_confidence == 1.0, "the message again", confidence=1.0)
    assert capfd.readouterr().err.count("let one sensor speak") == 1


def test_battery_moves_width_only_and_its_silence_is_held_then_limited(start_graph) -> None:
    peer = start_graph(
        **QUICK, use_battery=True, battery_max_age_s=0.3, battery_hold_s=SLACK_S, battery_unknown_width=0.75
    ).peer
    full = peer.ask_until(lambda r: r.width == 1.0, "a full battery allows all", charge=1.0)
    low = peer.ask_until(lambda r: r.width == 0.5, "a low one the narrowest", charge=0.05)
    assert low.lambda_value == full.lambda_value
    assert low.battery_fraction == pytest.approx(0.05)
    peer.ask_until(lambda r: r.width == 1.0, "recovered", charge=1.0)
    held = peer.ask_until(lambda r: r.battery_age_ms > 310, "no longer fresh")
    assert held.width == 1.0
    peer.ask_until(lambda r: r.width == 0.75, "after the hold: what is set for an unknown battery")
    peer.until(lambda: peer.diagnoses["battery"].level == DiagnosticStatus.STALE, "diagnosed")
    peer.ask_until(lambda r: r.width == 1.0, "recovered by itself", charge=1.0)
    for nonsense in (87.0, math.nan, -0.01):
        peer.ask_until(lambda r: r.width == 0.75, f"{nonsense} is unknown, not full", charge=nonsense)
        peer.ask_until(lambda r: r.width == 1.0, "recovered by itself", charge=1.0)

    def absent(result: Perception) -> bool:
        peer.battery.publish(BatteryState(percentage=1.0, present=False))
        return math.isnan(result.battery_fraction) and result.width == 0.75

    peer.ask_until(absent, "a battery that is not present is unknown, not full")


def test_a_battery_of_0_to_100_is_read_on_that_scale(start_graph) -> None:
    peer = start_graph(**QUICK, use_battery=True, battery_percentage_full=100).peer
    result = peer.ask_until(lambda r: r.width == 1.0, "a full battery allows all", charge=87.0)
    assert result.battery_fraction == pytest.approx(0.87)


def _silence_s(peer, part: str) -> float:
    """Time until a part's silence is diagnosed."""
    started_s = time.monotonic()
    peer.until(lambda: peer.diagnoses[part].level not in (b"", DiagnosticStatus.OK), f"{part}: silence is noticed")
    return time.monotonic() - started_s


def test_camera_silence_is_diagnosed_in_time_and_its_return_too(start_graph, capfd) -> None:
    """Regression: "camera: well again" was logged when nobody listened any more, while the camera was dead."""
    peer = start_graph(camera_timeout_s=SLACK_S).peer
    for _ in range(2):
        peer.ask()
        peer.until(lambda: peer.diagnoses["camera"].level == DiagnosticStatus.OK, "the camera is well")
        before_s = time.monotonic()
        peer.ask()
        assert _silence_s(peer, "camera") < SLACK_S + SLACK_S
        assert time.monotonic() - before_s > SLACK_S, "not before"
        assert "no image for" in peer.diagnoses["camera"].message
        assert peer.diagnoses["camera"].level == DiagnosticStatus.STALE
    assert "camera: images arrive" in capfd.readouterr().err
    (listener,) = (each for each in peer.subscriptions if each.topic.endswith("/perception"))
    peer.destroy_subscription(listener)
    peer.until(lambda: peer.diagnoses["camera"].level == DiagnosticStatus.OK, "nobody listens")
    assert "camera: not listened to: nobody subscribes to a result" in capfd.readouterr().err


def test_a_policy_that_fails_leads_to_the_safest_point_and_back(start_graph, monkeypatch) -> None:
    peer = start_graph(**QUICK).peer
    peer.ask_until(lambda r: r.lambda_value == 0.0, "clear and trusted: the most accurate", confidence=1.0)
    monkeypatch.setattr(AdaptivePolicy, "step", lambda *_: 1 / 0)
    fallback = peer.ask()
    assert (fallback.lambda_value, fallback.width) == (1.0, 1.0)
    assert fallback.lambda_source == OperatingPoint.SOURCE_DEFAULT
    peer.until(lambda: "policy failed" in peer.points[-1].reason, "the reason is published")
    peer.until(lambda: peer.diagnoses["policy"].level == DiagnosticStatus.ERROR, "diagnosed")
    assert peer.set(lambda_=0.3)[0].successful
    assert peer.ask().lambda_value == 0.3, "the operator is still obeyed"
    assert peer.set(lambda_=-1)[0].successful
    monkeypatch.undo()
    peer.ask_until(lambda r: r.lambda_value == 0.0, "recovered by itself", confidence=1.0)
    peer.until(lambda: peer.diagnoses["policy"].level == DiagnosticStatus.OK, "well again")


def test_a_policy_that_is_silent_is_said_in_time_and_recovers(start_graph, monkeypatch) -> None:
    peer = start_graph(policy_timeout_s=0.4).peer
    peer.ask()
    step, gate = AdaptivePolicy.step, threading.Event()
    monkeypatch.setattr(AdaptivePolicy, "step", lambda self, signals: (gate.wait(30), step(self, signals))[1])
    peer.image.publish(peer.make_image())
    assert _silence_s(peer, "policy") < 0.4 + SLACK_S
    peer.until(lambda: "the policy is silent" in peer.points[-1].reason, "said on the operating point")
    gate.set()
    peer.until(lambda: peer.diagnoses["policy"].level == DiagnosticStatus.OK, "well again")
    assert peer.ask().class_name


def test_the_alarm_is_told_once_and_so_is_its_end(start_graph, monkeypatch, capfd) -> None:
    """Regression: the log promised the alarm, and nothing told it."""
    raised = [False]
    monkeypatch.setattr(AdaptivePolicy, "alarmed", property(lambda _: raised[0]))
    peer = start_graph().peer
    for now in (False, True, True, False):
        raised[0] = now
        peer.ask()
        level = DiagnosticStatus.WARN if now else DiagnosticStatus.OK
        peer.until(lambda level=level: peer.diagnoses["policy"].level == level, "diagnosed")
        assert ("oat-calibrate" in peer.diagnoses["policy"].message) == now
    said = capfd.readouterr().err
    assert (said.count("policy: alarm: the images are no longer"), said.count("policy: decides")) == (1, 1)
    assert not any("the policy is" in point.reason for point in peer.points), "it decides as before"


def test_an_alarm_does_not_hide_that_the_policy_falls_silent(start_graph, monkeypatch) -> None:
    monkeypatch.setattr(AdaptivePolicy, "alarmed", True)
    peer = start_graph(policy_timeout_s=0.4).peer
    peer.ask()
    peer.until(lambda: peer.diagnoses["policy"].level == DiagnosticStatus.WARN, "the alarm")
    step, gate = AdaptivePolicy.step, threading.Event()
    monkeypatch.setattr(AdaptivePolicy, "step", lambda self, signals: (gate.wait(30), step(self, signals))[1])
    peer.image.publish(peer.make_image())
    peer.until(lambda: "the policy is silent" in peer.points[-1].reason, "said on the operating point")
    gate.set()
    peer.until(lambda: peer.diagnoses["policy"].level == DiagnosticStatus.WARN, "the alarm again")


def test_the_granted_rate_is_kept_and_named_and_what_it_leaves_out_is_no_overload(start_graph) -> None:
    """Regression: without a battery 25 of 113 images were answered, and the others counted as overload."""
    peer = start_graph(use_battery=True, battery_unknown_rate_hz=5.0).peer
    cause = "battery missing (battery_unknown_rate_hz)"
    first = peer.ask()
    assert (first.max_rate_hz, first.max_rate_cause) == (5.0, cause)
    before, started_s = len(peer.results), time.monotonic()
    for _ in range(60):
        peer.image.publish(peer.make_image())
        peer.spin(1 / 60)
    granted = 5.0 * (time.monotonic() - started_s)
    assert 0.5 * granted - 1 <= len(peer.results) - before <= granted + 1
    peer.until(lambda: cause in peer.diagnoses["operating point"].message, "diagnostics name it")
    peer.until(lambda: peer.value("camera", "images skipped for the rate") >= 20, "they are counted")
    assert peer.value("camera", "images replaced by newer ones") <= 5, "a busy machine may be late now and then"
    charged = peer.ask_until(lambda r: math.isnan(r.max_rate_hz), "no limit", charge=1.0)
    assert charged.max_rate_cause == ""


def test_below_the_least_confidence_the_answer_is_unknown_and_the_policy_sees_it_as_it_is(start_graph) -> None:
    graph = start_graph(probe_period_s=0.0)
    peer = graph.peer
    told = peer.ask()
    assert told.class_name != "unknown"
    assert peer.set(min_confidence=1)[0].successful, "at any time"
    decisions = []
    peer.create_subscription(DecisionRecord, "/oat_perception/decision", decisions.append, 10)
    untold = peer.ask_until(lambda r: bool(decisions), "a decision")
    assert (untold.label, untold.class_name) == (Perception.LABEL_UNKNOWN, "unknown")
    assert untold.confidence == told.confidence, "of the class that is not told"
    assert list(untold.probabilities) == list(told.probabilities)
    seen = json.loads(decisions[-1].record_json.splitlines()[-1])["signals"]["network"]
    assert seen["confidence"] == pytest.approx(told.confidence)
    assert peer.set(min_confidence=0)[0].successful
    assert peer.ask().class_name == told.class_name


def test_a_part_that_goes_from_bad_to_worse_says_so_at_once(start_graph, monkeypatch) -> None:
    """And not with the next report."""
    peer = start_graph(camera_timeout_s=SLACK_S).peer
    peer.ask()
    peer.until(lambda: peer.diagnoses["camera"].level == DiagnosticStatus.OK, "the camera is well")
    monkeypatch.setattr("oat_perception.node.watch._DIAGNOSTICS_PERIOD_S", math.inf)
    broken = peer.make_image()
    broken.encoding = "nonsense"
    peer.image.publish(broken)
    levels = []
    peer.until(
        lambda: (levels.append(peer.diagnoses["camera"].level), levels[-1] == DiagnosticStatus.STALE)[1], "silence"
    )
    assert DiagnosticStatus.WARN in levels


def test_a_signal_that_this_robot_does_not_have_is_explained(start_graph) -> None:
    peer = start_graph(use_battery=True).peer
    for part, name in (("environment confidence", "confidence_required"), ("battery", "use_battery")):
        peer.until(lambda part=part: peer.diagnoses[part].level == DiagnosticStatus.WARN, f"{part} is missed")
        assert f"set {name} to false" in peer.diagnoses[part].message


def test_a_missing_signal_says_what_is_on_its_topics(start_graph, stranger, capfd) -> None:
    """Regression: a number of another type, or on another topic, read as a sensor that this robot does not have."""
    graph = start_graph(arguments=["-r", "__ns:=/front"], listen=False, always_process=True, use_battery=True)
    peer, value = graph.peer, "/front/environment_confidence_value"
    for part, topics, advice in (
        ("environment confidence", f"/front/environment_confidence or {value}", "confidence_required"),
        ("battery", "/front/battery_state", "use_battery"),
    ):
        told = f"missing: nobody publishes {topics}; set {advice} to false"
        peer.until(lambda part=part, told=told: told in peer.diagnoses[part].message, f"{part}: its topics are named")
    with stranger(graph) as sensor:
        sensor.create_publisher(Float64, value, 5)
        told = f"{value} is published as std_msgs/msg/Float64, not as std_msgs/msg/Float32"
        peer.until(lambda: told in peer.diagnoses["environment confidence"].message, "the type is named")
        peer.until(lambda: told in capfd.readouterr().err, "in the log too")
