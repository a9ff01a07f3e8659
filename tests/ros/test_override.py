"""λ and width by hand: at once, with reasons, never half, and given back with a word."""

from __future__ import annotations

import functools
import math
import re
import threading

import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from oat_msgs.msg import OperatingPoint
from oat_msgs.srv import SetOperatingPoint

from oat_runtime.runtime import OATRuntime

ADAPTIVE, OPERATOR = OperatingPoint.SOURCE_ADAPTIVE, OperatingPoint.SOURCE_OPERATOR
RELEASE = SetOperatingPoint.Request.RELEASE


def test_parameter_takes_effect_on_the_next_image_and_release_gives_it_back(peer) -> None:
    before = peer.ask()
    assert before.lambda_source == ADAPTIVE
    for lam in (0.2, 0.0, 0.4, 1.0, 0.1):
        assert peer.set(lambda_=lam)[0].successful
        after = peer.ask()
        assert (after.lambda_value, after.lambda_source, after.width_source) == (lam, OPERATOR, ADAPTIVE)
    assert peer.set(width=0.5)[0].successful
    both = peer.ask()
    assert (both.lambda_value, both.width, both.width_source) == (0.1, 0.5, OPERATOR)
    assert all(result.successful for result in peer.set(lambda_=-1, width=-1))
    released = peer.ask()
    assert (released.lambda_value, released.width) == (before.lambda_value, before.width)
    assert (released.lambda_source, released.width_source) == (ADAPTIVE, ADAPTIVE)


def test_an_integer_is_a_number(peer) -> None:
    assert peer.set(lambda_=1)[0].successful
    assert peer.ask().lambda_value == 1.0
    assert peer.set(lambda_=0)[0].successful
    assert peer.ask().lambda_value == 0.0


@pytest.mark.parametrize(
    ("knob", "value", "reason"),
    [
        ("lambda_", 1.3, "lambda must be in [0, 1], or -1 to leave it to the policy, got 1.3"),
        ("lambda_", -0.5, "got -0.5"),
        ("lambda_", math.nan, "got nan"),
        ("lambda_", "high", "lambda must be a number, got 'high'"),
        ("lambda_", True, "lambda must be a number, got True"),
        ("width", 0.6, "0.6"),
        ("width", 0.0, "width must be in (0, 1]"),
        ("camera_timeout_s", -1.0, "camera_timeout_s must be in [0.01, 3600], got -1"),
        ("camera_timeout_s", 1e9, "camera_timeout_s must be in [0.01, 3600], got"),
        ("num_threads", -3, "num_threads must be in [0, 1024], got -3"),
        ("battery_ladder_width", [1.0, 7.0], "battery_ladder_width must be in [0.001, 1], got 7"),
        ("bundle", "elsewhere", "cannot change while the node is configured"),
        ("auto_activate", False, "read-only"),
    ],
)
def test_a_wrong_value_is_refused_with_a_reason_and_changes_nothing(peer, knob, value, reason) -> None:
    before = peer.ask()
    result = peer.set(**{knob: value})[0]
    assert not result.successful
    assert reason in result.reason
    after = peer.ask()
    assert (after.lambda_value, after.width, after.lambda_source) == (before.lambda_value, before.width, ADAPTIVE)


def test_one_wrong_value_of_a_pair_changes_neither(peer) -> None:
    assert not peer.set_together(lambda_=0.2, width=0.6).successful
    assert peer.ask().lambda_source == ADAPTIVE
    assert not peer.set_point(lambda_value=0.2, width=0.6).success
    assert peer.ask().lambda_source == ADAPTIVE
    assert peer.set_together(lambda_=0.2, width=0.75).successful
    result = peer.ask()
    assert (result.lambda_value, result.width) == (0.2, 0.75)


def test_the_service_sets_both_at_once_and_keeps_what_is_left_out(peer) -> None:
    peer.ask()
    response = peer.set_point(lambda_value=0.3, width=0.5)
    assert response.success, response.message
    assert (response.operating_point.lambda_value, response.operating_point.width) == (0.3, 0.5)
    result = peer.ask()
    assert (result.lambda_value, result.width) == (0.3, 0.5)
    assert peer.set_point(width=1.0).success
    result = peer.ask()
    assert (result.lambda_value, result.width) == (0.3, 1.0)
    assert peer.set_point(lambda_value=RELEASE, width=math.nan).success
    result = peer.ask()
    assert (result.lambda_source, result.width_source) == (ADAPTIVE, OPERATOR)


def test_the_service_promises_no_image_before_its_point_is_compiled(start_graph, monkeypatch) -> None:
    """Regression: in int8, whose plans are folded, it promised the next image also where a λ was compiled first."""
    monkeypatch.setattr(OATRuntime, "load", functools.partial(OATRuntime.load, plans="folded"))
    peer = start_graph().peer

    def promised(lam: float) -> str:
        point = peer.set_point(lambda_value=lam, width=1.0).operating_point
        assert (point.lambda_value, point.width) == (lam, 1.0)
        return point.reason

    assert promised(0.4) == "from the next image on"
    assert promised(0.55) == "once it is compiled; until then images run as before"
    peer.until(lambda: peer.ask().lambda_value == 0.55, "the point is compiled")
    assert promised(0.55) == "from the next image on"


def test_the_service_answers_with_what_will_run(start_graph) -> None:
    """Regression: it answered with the λ that was asked for, also where another one runs."""
    peer = start_graph(listen=False).peer
    point = peer.set_point(lambda_value=0.05, width=0.5).operating_point
    assert (point.lambda_value, point.width, point.lambda_source) == (0.1, 0.5, OPERATOR)
    assert "0.05 runs as 0.1" in point.reason
    assert peer.set(safety_lock=True)[0].successful
    point = peer.set_point(width=0.5).operating_point
    assert point.width_source == point.lambda_source == OperatingPoint.SOURCE_SAFETY_LOCK
    assert (point.lambda_value, point.width) != (0.1, 0.5)


def test_the_log_keeps_each_command_once_with_who_gave_it(start_graph, capfd) -> None:
    peer = start_graph(listen=False).peer
    for _ in range(2):
        peer.set(lambda_=0.2)
    peer.set(safety_lock=True)
    said = ""

    def heard(words: str) -> bool:
        nonlocal said
        said += capfd.readouterr().err
        return words in said

    peer.set_point(width=0.5, expiry_s=0.2)
    peer.until(lambda: heard("by its expiry"), "it expires")
    peer.change_state(4)
    peer.until(lambda: heard("deactivated"), "the last line")
    said = re.sub(r"for [0-9.e-]+ s", "for some s", said)
    told = [line.rpartition("]: ")[2] for line in said.splitlines() if line.startswith("[INFO]")]
    kept = ("waiting", "activated", "override", "safety", "deactivated")
    assert [line for line in told if line.startswith(kept)] == [
        "waiting for a subscriber to a result; then it listens on /image",
        "activated; by the parameter auto_activate",
        "override: lambda set to 0.2; by parameter",
        "safety lock set: the safest point runs; by parameter",
        "override: width set to 0.5 for some s; by the service set_operating_point",
        "override: width given back to the policy; by its expiry",
        "deactivated; by the service change_state",
    ]
    assert not any("well again" in line for line in told), "nothing was bad"


def test_an_override_expires_and_says_so(peer) -> None:
    peer.ask()
    assert not peer.set_point(lambda_value=0.2, expiry_s=-1.0).success
    assert peer.set_point(lambda_value=0.2, expiry_s=600.0).success
    assert peer.ask().lambda_value == 0.2
    assert peer.set_point(lambda_value=0.2, expiry_s=0.2).success
    expired = "the override of lambda expired: the policy chooses from the next image on"
    peer.until(lambda: peer.points[-1].reason == expired, "the end is published without an image")
    assert peer.ask().lambda_source == ADAPTIVE
    peer.until(lambda: peer.points[-1].lambda_source == ADAPTIVE, "the policy's own point is published")


def test_an_override_with_an_expiry_lies_over_the_parameter_which_holds_again_after_it(start_graph) -> None:
    """Regression: it set the parameter to -1, so the operator's lasting λ was gone for good."""
    graph = start_graph(probe_period_s=0.0)
    peer = graph.peer

    def lie_over(expiry_s: float = 600.0) -> None:
        assert peer.set(lambda_=1.0)[0].successful
        assert peer.set_point(lambda_value=0.3, expiry_s=expiry_s).success
        assert graph.node.get_parameter("lambda").value == 1.0, "which a dumped file holds"

    def answer() -> tuple[float, int]:
        result = peer.ask()
        return result.lambda_value, result.lambda_source

    lie_over()
    assert answer() == (0.3, OPERATOR)
    lie_over(expiry_s=0.1)
    words = "the override of lambda expired: parameter lambda holds from the next image on"
    peer.until(lambda: peer.points[-1].reason == words, "its end is published, and what holds now")
    assert answer() == (1.0, OPERATOR)
    for newest, then in ((1.0, (1.0, OPERATOR)), (0.2, (0.2, OPERATOR))):
        lie_over()
        assert peer.set(lambda_=newest)[0].successful
        assert answer() == then, "the newest word counts"
    lie_over()
    assert peer.set_point(lambda_value=0.4).success
    assert (answer(), graph.node.get_parameter("lambda").value) == ((0.4, OPERATOR), 0.4)
    lie_over()
    assert peer.set(lambda_=-1)[0].successful
    assert peer.ask().lambda_source == ADAPTIVE
    lie_over()
    assert peer.set_point(lambda_value=RELEASE, expiry_s=600.0).success
    assert (peer.ask().lambda_source, graph.node.get_parameter("lambda").value) == (ADAPTIVE, -1.0)
    lie_over()
    assert peer.change_state(4)
    peer.until(lambda: "parameter lambda asks for it again" in peer.points[-1].reason, "deactivation is published")
    assert peer.change_state(3)
    assert answer() == (1.0, OPERATOR)


def test_release_and_deactivation_are_published(start_graph) -> None:
    graph = start_graph()
    peer = graph.peer
    peer.set(lambda_=0.2)
    peer.ask()
    peer.set(lambda_=-1)
    peer.until(lambda: "released" in peer.points[-1].reason, "release is published")
    peer.set(lambda_=0.2)
    peer.set_point(width=0.5, expiry_s=60.0)
    peer.ask()
    assert peer.change_state(4)
    peer.until(lambda: "deactivated" in peer.points[-1].reason, "deactivation is published")
    assert peer.change_state(3)
    again = peer.ask()
    assert (again.lambda_source, again.width_source) == (OPERATOR, ADAPTIVE)


def test_a_point_never_prepared_is_named_only_when_it_runs(start_graph, monkeypatch) -> None:
    monkeypatch.setattr(OATRuntime, "load", functools.partial(OATRuntime.load, plans="folded"))
    graph = start_graph(probe_period_s=0.0)
    peer = graph.peer
    before = peer.ask()
    plans, gate = graph.node._configured.loaded.runtime._plans, threading.Event()
    make = plans.make
    monkeypatch.setattr(plans, "make", lambda *args, **named: (gate.wait(60.0), make(*args, **named))[1])
    assert peer.set(lambda_=0.37)[0].successful
    waiting = peer.ask()
    assert (waiting.lambda_value, waiting.lambda_source) == (before.lambda_value, OPERATOR)
    running = f"λ={before.lambda_value:g} width={before.width:g}"
    note = f"λ=0.37 width={before.width:g} is being prepared, {running} runs until then"
    peer.until(lambda: peer.points[-1].reason.startswith(note), "the operating point says so")
    assert peer.points[-1].lambda_value == before.lambda_value
    peer.until(lambda: peer.diagnoses["operating point"].message.startswith(note), "so do the diagnostics")
    assert peer.diagnoses["operating point"].level == DiagnosticStatus.WARN
    gate.set()
    peer.ask_until(lambda result: result.lambda_value == 0.37, "the new point runs")
    peer.until(lambda: peer.points[-1].lambda_value == 0.37, "the operating point names it")
    assert "being prepared" not in peer.points[-1].reason
    peer.until(lambda: peer.diagnoses["operating point"].level == DiagnosticStatus.OK, "all is as decided")
