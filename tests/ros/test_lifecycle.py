"""Transitions, possible and impossible; parameters from a file and back; the decision log; the process itself."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from oat_msgs.msg import DecisionRecord, Perception
from oat_perception import perception_node
from oat_perception.core.parameters import SPECS, _same
from oat_perception.node.processes import module_command
from oat_perception.perception_node import PerceptionNode, main
from rcl_interfaces.srv import GetParameters
from rclpy.parameter import Parameter, parameter_value_to_python
from sensor_msgs.msg import Image

from oat_runtime.architecture import InputSpec
from oat_runtime.bundle import Bundle
from oat_runtime.device_profile import DeviceProfile, ProfileRow
from oat_runtime.devices import power_mode, processor_name
from oat_runtime.operating_point import OperatingTable
from policy.belief.constants import EstimatorConstants
from policy.controller import AdaptivePolicy
from policy.decision import Decision
from policy.replay import replay
from policy.signals import Signals
from tests.conftest import make_tiny_bundle

CONFIGURE, CLEANUP = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_CLEANUP
ACTIVATE, DEACTIVATE = Transition.TRANSITION_ACTIVATE, Transition.TRANSITION_DEACTIVATE
ROBOT_YAML = Path(perception_node.__file__).parents[1] / "config" / "perception.yaml"
SHUTDOWN = Transition.TRANSITION_ACTIVE_SHUTDOWN


def test_impossible_transitions_are_answered_and_survived(start_graph, capfd) -> None:
    """Regression: each was the node's failure, in its diagnostics and with a traceback in its log."""
    graph = start_graph(auto_activate=False)
    peer = graph.peer
    assert [peer.change_state(t) for t in (ACTIVATE, DEACTIVATE, CLEANUP, 99)] == [False] * 4
    assert (
        "no transition 3: the node is unconfigured, from where there is configure or shutdown" in capfd.readouterr().err
    )
    assert not graph.node.failures.counts
    assert not peer.table().success
    assert "activate it first" in peer.set_point(lambda_value=0.1).message
    assert peer.change_state(CONFIGURE)
    assert [peer.change_state(t) for t in (CONFIGURE, DEACTIVATE)] == [False] * 2
    assert peer.change_state(ACTIVATE)
    assert peer.ask().class_name
    assert not peer.change_state(CLEANUP)
    assert peer.change_state(DEACTIVATE)
    assert peer.change_state(CLEANUP)
    assert graph.node.state == "unconfigured"
    assert peer.change_state(CONFIGURE)
    assert peer.change_state(ACTIVATE)
    assert peer.ask().class_name
    assert graph.node.outcome() is None
    assert peer.change_state(SHUTDOWN)
    assert graph.node.state == "finalized"
    assert "the node is finalized: start it again" in peer.set(lambda_=0.2)[0].reason
    assert "start it again" in peer.set_point(lambda_value=0.1).message
    assert graph.node.outcome() is None, "it still answers who asks whether it is finalized"
    peer.until(lambda: graph.node.outcome() == 0, "the process ends, so that whoever started it sees it")


def test_a_camera_that_nobody_listens_to_is_worth_one_warning(start_graph, monkeypatch, capfd) -> None:
    monkeypatch.setattr("oat_perception.node.watch._IDLE_S", 0.2)
    graph = start_graph(auto_activate=False, listen=False)
    graph.peer.until(lambda: graph.node.count_publishers("/image"), "the node sees the camera")
    graph.peer.spin(1.0)
    told = "a camera publishes on /image, but this node is unconfigured and takes no image: activate it"
    assert capfd.readouterr().err.count(told) == 1


def test_a_box_trained_network_that_gets_no_regions_is_worth_a_warning(start_graph, tmp_path: Path, capfd) -> None:
    """It would answer for whole images, of which it knows nothing."""
    boxes = make_tiny_bundle(tmp_path / "boxes", InputSpec(region_margin=0.1))
    told = "trained on boxes and max_regions is 0, so it answers for whole images"
    start_graph(bundle=str(boxes), max_regions=0)
    assert capfd.readouterr().err.count(told) == 1
    start_graph(max_regions=0)
    assert told not in capfd.readouterr().err, "a network of whole images is meant to answer for them"


def test_the_log_says_what_the_alarm_promises_and_when_it_promises_nothing(
    start_graph, bundle: Path, tmp_path: Path, capfd
) -> None:
    start_graph()
    assert "the alarm promises nothing" in capfd.readouterr().err
    constants = EstimatorConstants.model_validate(Bundle.load(bundle).estimator)
    told = {"reference": tuple((0.01 * n,) * 12 for n in range(30)), "drives": (1.0, 2.0, 3.0)}
    file = tmp_path / "estimator.json"
    file.write_text(constants.model_copy(update=told).model_dump_json())
    start_graph(estimator=str(file))
    said = capfd.readouterr().err
    assert "at most one drive in 4 raises a false alarm, if it is like one more of the 3 drives" in said
    assert "20 were asked for: calibrate on 19 drives" in said


def test_a_wrong_bundle_is_explained_and_can_be_put_right(start_graph, bundle: Path, tmp_path: Path) -> None:
    graph = start_graph(auto_activate=False, bundle=str(tmp_path / "nowhere"))
    peer = graph.peer
    assert not peer.change_state(CONFIGURE)
    assert graph.node.state == "unconfigured"
    peer.until(lambda: "no bundle at" in peer.diagnoses["node"].message, "diagnostics say why")
    assert peer.set(bundle=str(bundle), width=0.6)[1].successful
    assert not peer.change_state(CONFIGURE)
    peer.until(lambda: "0.6" in peer.diagnoses["node"].message, "a width that the bundle lacks is found on configure")
    assert peer.set(width=-1.0)[0].successful
    assert peer.change_state(CONFIGURE)
    table = peer.table()
    assert table.success
    assert OperatingTable.model_validate_json(table.table_json).bundle_sha256 == table.bundle_sha256


def test_contradicting_parameters_and_hard_limits(start_graph) -> None:
    graph = start_graph(auto_activate=False, lambda_min=0.5, lambda_max=0.4)
    peer = graph.peer
    assert not peer.change_state(CONFIGURE)
    assert "lam_min must not exceed lam_max" in graph.node.problem
    assert all(result.successful for result in peer.set(lambda_min=0.2, lambda_max=1.0))
    assert peer.change_state(CONFIGURE)
    result = peer.set(lambda_=0.1)[0]
    assert not result.successful
    assert "hard limits [0.2, 1]" in result.reason


def test_an_unexpected_error_is_logged_and_survived(start_graph, monkeypatch) -> None:
    graph = start_graph(auto_activate=False)
    monkeypatch.setattr("oat_perception.core.perception.PerceptionCore.warm", lambda self: 1 / 0)
    assert not graph.peer.change_state(CONFIGURE)
    assert graph.node.state == "unconfigured"
    assert "ZeroDivisionError" in graph.node.problem
    monkeypatch.undo()
    assert graph.peer.change_state(CONFIGURE)


def test_an_image_that_fails_is_counted_and_the_next_one_answered(start_graph, monkeypatch) -> None:
    """Regression: one failed image made `network` an ERROR until the node was deactivated."""
    monkeypatch.setattr("oat_perception.core.tally._RECENT_S", 0.2)
    peer = start_graph().peer
    peer.ask()
    with monkeypatch.context() as broken:
        broken.setattr("oat_perception.node.messages.perception", lambda *_, **__: 1 / 0)
        peer.image.publish(peer.make_image())
        peer.until(lambda: "1 images failed" in peer.diagnoses["network"].message, "the failure is diagnosed")
        assert peer.diagnoses["network"].level == DiagnosticStatus.ERROR
    assert peer.ask().class_name
    peer.until(lambda: peer.diagnoses["network"].level == DiagnosticStatus.OK, "it is over")
    assert peer.value("network", "images failed") == 1, "and stays counted"


def test_the_decision_log_replays(start_graph, tmp_path: Path) -> None:
    log = tmp_path / "sub" / "decisions.jsonl"
    graph = start_graph(decision_log=str(log), use_battery=True, dwell_s=0.05)
    peer = graph.peer
    for index in range(12):
        peer.say(confidence=1.0 if index % 4 else math.nan, charge=1 - index / 12)
        peer.spin(0.03)
        peer.ask()
        if index == 5:
            peer.set(lambda_=0.3)
    assert peer.change_state(DEACTIVATE)
    assert peer.change_state(CLEANUP)
    steps = replay(log)
    assert len(steps) == 12
    assert all(step.equal for step in steps)
    assert steps[-1].decision.point.lam == 0.3
    assert peer.change_state(CONFIGURE)
    assert len(replay(log.with_name("decisions.jsonl.1"))) == 12


def test_an_estimator_of_ones_own_is_used_and_one_that_does_not_fit_is_refused(start_graph, bundle, tmp_path) -> None:
    shipped = json.loads((bundle / "estimator.json").read_text())
    (tmp_path / "mine.json").write_text(json.dumps(shipped | {"fitted_on": "this camera"}))
    (tmp_path / "old.json").write_text(json.dumps(shipped | {"statistics": ["sharpness"]}))
    (tmp_path / "other.json").write_text(
        json.dumps(shipped | {"fitted_for": {"bundle": "a", "weights_sha256": "0" * 64}})
    )
    (tmp_path / "empty.json").write_text("")
    graph = start_graph(auto_activate=False)
    for name, reason in (
        ("none", "oat-calibrate"),
        ("old", "constants of another version"),
        ("other", "was fitted for another network"),
        ("empty", "Invalid JSON"),
    ):
        assert graph.peer.set(estimator=str(tmp_path / f"{name}.json"))[0].successful
        assert not graph.peer.change_state(CONFIGURE)
        assert reason in graph.node.problem
        assert "estimator" in graph.node.problem
    log = tmp_path / "log.jsonl"
    assert all(r.successful for r in graph.peer.set(estimator=str(tmp_path / "mine.json"), decision_log=str(log)))
    assert graph.peer.change_state(CONFIGURE)
    assert graph.peer.change_state(ACTIVATE)
    graph.peer.ask()
    result = graph.peer.set(estimator="")[0]
    assert "cannot change while the node is configured" in result.reason
    assert graph.peer.change_state(DEACTIVATE)
    assert graph.peer.change_state(CLEANUP)
    assert json.loads(log.read_text().splitlines()[0])["constants"]["fitted_on"] == "this camera"


def test_a_bundle_of_another_hash_than_the_wanted_one_is_refused(start_graph, bundle: Path) -> None:
    graph = start_graph(auto_activate=False, bundle_sha256="0" * 64)
    assert not graph.peer.change_state(CONFIGURE)
    assert "another bundle" in graph.node.problem
    assert graph.peer.set(bundle_sha256=Bundle.load(bundle).sha256)[0].successful
    assert graph.peer.change_state(CONFIGURE)


def test_recorded_decisions_replay_without_the_bundle(start_graph, tmp_path: Path) -> None:
    graph = start_graph(dwell_s=0.05)
    peer = graph.peer
    records: list[DecisionRecord] = []
    peer.create_subscription(DecisionRecord, "/oat_perception/decision", records.append, 50)
    readers = graph.node._configured.publishers._readers
    peer.until(lambda: readers.get("~/decision"), "the node knows its reader")
    for index in range(6):
        peer.say(confidence=1.0 if index % 2 else 0.0)
        peer.spin(0.03)
        peer.ask()
    peer.until(lambda: len(records) == 6, "every decision")
    log = tmp_path / "bag.jsonl"
    log.write_text("\n".join(record.record_json for record in records))
    steps = replay(log)
    assert len(steps) == 6
    assert all(step.equal for step in steps)


def _values(peer) -> dict:
    names = [spec.name for spec in SPECS]
    answer = peer.call(GetParameters, "get_parameters", GetParameters.Request(names=names))
    plain = [parameter_value_to_python(value) for value in answer.values]
    return {name: list(value) if hasattr(value, "tolist") else value for name, value in zip(names, plain, strict=True)}


def test_a_dumped_parameter_file_loads_back_to_the_same_state(start_graph, tmp_path: Path) -> None:
    graph = start_graph(use_battery=True, battery_percentage_full=100)
    peer = graph.peer
    assert all(result.successful for result in peer.set(lambda_=1, width=0.5, safety_lock=False))
    assert peer.set_point(width=0.75, expiry_s=60.0).success
    before = peer.ask()
    assert (before.lambda_value, before.width) == (1.0, 0.75)
    dumped = _values(peer)
    assert (dumped["lambda"], dumped["width"]) == (1.0, 0.5), "what expires is not in the file, and what lasts is"
    file = tmp_path / "dump.yaml"
    file.write_text(json.dumps({"/second/oat_perception": {"ros__parameters": dumped}}))  # JSON is YAML
    second = PerceptionNode(
        context=graph.context, namespace="second", cli_args=["--ros-args", "--params-file", str(file)]
    )
    loaded = {name: second.get_parameter(name).value for name in dumped}
    second.destroy_node()
    assert {name: list(v) if isinstance(dumped[name], list) else v for name, v in loaded.items()} == dumped


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"/**": {"ros__parameters": {"lambda": 1.3}}}', "lambda must be in [0, 1]"),
        ('{"/**": {"ros__parameters": {"image_depth": "five"}}}', "image_depth"),
        ("[", "Couldn't parse params file"),
    ],
)
def test_a_file_that_is_refused_ends_the_process_with_a_reason(tmp_path: Path, capfd, content, reason) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(content)
    assert main(["--ros-args", "--params-file", str(file)]) == 2
    assert reason in capfd.readouterr().err


def test_a_camera_without_a_source_ends_with_a_reason() -> None:
    command = module_command("camera_replay_node", {"source": "/nowhere"})
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, "no image source '/nowhere'" in ended.stderr) == (2, True), ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_camera_that_cannot_write_its_frames_ends_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "frames").write_text("")
    command = module_command("camera_replay_node", {"source": "foolbox", "frames_dir": str(tmp_path / "frames")})
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, "File exists" in ended.stderr) == (2, True), ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_process_ends_well_on_sigint(start_graph, bundle: Path, tmp_path: Path) -> None:
    graph = start_graph(auto_activate=False)
    peer = graph.peer
    settings = {"bundle": str(bundle), "backend": "onnxruntime", "auto_activate": True, "always_process": True}
    command = [*module_command("perception_node", settings), "-r", "__ns:=/second"]
    domain = {"ROS_DOMAIN_ID": str(graph.context.get_domain_id())}
    log = tmp_path / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(command, env={**os.environ, **domain}, stderr=stream)
    try:
        camera = peer.create_publisher(Image, "/second/image", 5)
        results = []
        peer.create_subscription(Perception, "/second/oat_perception/perception", results.append, 5)
        peer.until(lambda: (camera.publish(peer.make_image()), results)[1], "a result of the process", timeout_s=120.0)
        camera.publish(peer.make_image())
    finally:
        process.send_signal(signal.SIGINT)
        status = process.wait(timeout=30)
    assert status == 0, log.read_text()
    assert "Traceback" not in log.read_text()


def test_parameters_describe_themselves(start_graph) -> None:
    node = start_graph(auto_activate=False).node
    for spec in SPECS:
        descriptor = node.describe_parameter(spec.name)
        assert descriptor.description == spec.meaning
        assert descriptor.type == Parameter.Type.from_parameter_value(spec.default).value
        assert descriptor.additional_constraints
        if spec.low is not None and spec.high is not None:
            (shown,) = [*descriptor.floating_point_range, *descriptor.integer_range]
            assert (shown.from_value, shown.to_value) == (spec.low, spec.high)
        assert spec.objection(spec.default) == ""
        assert node.set_parameters([Parameter(spec.name, value=spec.default)])[0].successful or descriptor.read_only


def test_the_parameter_file_of_a_robot_is_taken_and_differs_from_the_defaults_where_it_means_to(start_graph) -> None:
    node = PerceptionNode(
        context=start_graph(auto_activate=False).context,
        namespace="robot",
        cli_args=["--ros-args", "--params-file", str(ROBOT_YAML)],
    )
    others = {spec.name for spec in SPECS if not _same(node.get_parameter(spec.name).value, spec.default)}
    node.destroy_node()
    assert others == {"use_battery", "battery_ladder_rate_hz"}, "what a robot sets otherwise than the defaults"


def test_a_profile_of_another_bundle_is_refused_and_the_right_one_gives_deadlines(
    start_graph, bundle, tmp_path
) -> None:
    graph = start_graph(auto_activate=False, deadline_ms=50.0)
    peer = graph.peer
    assert not peer.change_state(CONFIGURE)
    assert "deadline_ms" in graph.node.problem
    rows = tuple(
        ProfileRow(
            lam=point.lam,
            width=point.width,
            batch=1,
            latency_ms_p50=100 * point.width,
            latency_ms_p99=100 * point.width,
            num_calls=1,
            images_per_s=10 / point.width,
        )
        for point in (row.point for row in Bundle.load(bundle).select.rows)
    )
    for sha256, kept in (("0" * 64, 0), (Bundle.load(bundle).sha256, 1)):
        DeviceProfile(
            bundle_sha256=sha256,
            device=processor_name(),
            power_mode=power_mode(),
            backend="onnxruntime",
            precision="float32",
            plans="shared",
            num_threads=1,
            rows=rows,
        ).save(tmp_path / "profile.json")
        assert peer.set(profile=str(tmp_path / "profile.json"))[0].successful
        assert peer.change_state(CONFIGURE) == bool(kept), graph.node.problem
    assert peer.change_state(ACTIVATE)
    assert peer.ask().width == 0.5, "the widest that meets the deadline"


def test_what_on_error_leaves_behind_can_be_configured_again(start_graph, monkeypatch) -> None:
    graph = start_graph()
    peer = graph.peer
    peer.ask()
    monkeypatch.setattr("oat_perception.node.pipeline.Pipeline.close", lambda self: 1 / 0)
    peer.change_state(DEACTIVATE)
    monkeypatch.undo()
    assert "ZeroDivisionError" in graph.node.problem
    assert graph.node.state == "unconfigured"
    assert peer.change_state(CONFIGURE)
    assert peer.change_state(ACTIVATE)
    assert peer.ask().class_name


def test_what_a_failed_configure_took_can_be_taken_again(start_graph, monkeypatch, tmp_path: Path) -> None:
    """The decision log is locked while it is open."""
    graph = start_graph(auto_activate=False, decision_log=str(tmp_path / "log.jsonl"))
    monkeypatch.setattr("oat_perception.perception_node.ResultPublishers", lambda *_, **__: 1 / 0)
    assert not graph.peer.change_state(CONFIGURE)
    assert "ZeroDivisionError" in graph.node.problem
    monkeypatch.undo()
    assert graph.peer.change_state(CONFIGURE), graph.node.problem


@pytest.fixture
def hang(monkeypatch) -> Iterator[tuple[threading.Event, threading.Event]]:
    """Once asked to, the first event says that an image is in work, and it stays so until the second one."""
    monkeypatch.setattr("oat_perception.node.pipeline._PATIENCE_S", 0.2)
    step, hangs, gate = AdaptivePolicy.step, threading.Event(), threading.Event()

    def hung_step(policy: AdaptivePolicy, signals: Signals) -> Decision:
        hangs.set()
        gate.wait(60.0)
        return step(policy, signals)

    monkeypatch.setattr(AdaptivePolicy, "step", hung_step)
    yield hangs, gate
    gate.set()


def test_a_node_whose_image_hangs_stays_active_and_deactivates_once_it_is_done(start_graph, hang) -> None:
    """Regression: it waited for the image for good, and answered no call any more."""
    hangs, gate = hang
    graph = start_graph()
    peer = graph.peer
    peer.until(peer.image.get_subscription_count, "the node listens")
    hung = peer.make_image()
    peer.until(lambda: (peer.image.publish(hung), hangs.is_set())[1], "an image hangs")
    for _ in range(2):
        assert not peer.change_state(DEACTIVATE)
        assert "on_deactivate: an image is still in work after 0.2 s: try again" in graph.node.problem
        assert graph.node.state == "active"
        assert peer.set(lambda_=0.2)[0].successful, "it still answers"
    gate.set()
    peer.until(lambda: any(result.header == hung.header for result in peer.results), "it is done, and answered")
    peer.ask_until(lambda result: result.lambda_value == 0.2, "the node is active, as it says")
    assert peer.change_state(DEACTIVATE)
    assert graph.node.problem == ""
    assert peer.change_state(ACTIVATE)
    assert peer.ask().class_name


def test_a_node_whose_image_hangs_can_be_shut_down_and_its_process_ends(start_graph, hang) -> None:
    hangs, _ = hang
    graph = start_graph()
    peer = graph.peer
    peer.until(peer.image.get_subscription_count, "the node listens")
    peer.until(lambda: (peer.image.publish(peer.make_image()), hangs.is_set())[1], "an image hangs")
    assert not peer.change_state(SHUTDOWN)
    assert graph.node.state == "finalized"
    assert "on_shutdown: an image is still in work" in graph.node.problem
    peer.until(lambda: graph.node.outcome() == 1, "the process ends, and not as if all were well")


def test_a_node_whose_image_hangs_is_destroyed_all_the_same(start_graph, on_a_thread, bundle, hang, capfd) -> None:
    """Regression: an interrupt did not end the process."""
    hangs, _ = hang
    graph = start_graph(listen=False)
    given = {"backend": "onnxruntime", "num_threads": 1, "bundle": str(bundle), "auto_activate": True}
    overrides = [Parameter(name, value=value) for name, value in {**given, "always_process": True}.items()]
    other = PerceptionNode(context=graph.context, namespace="rear", parameter_overrides=overrides)
    camera = graph.peer.create_publisher(Image, "/rear/image", 5)
    with on_a_thread(other):
        graph.peer.until(
            lambda: (camera.publish(graph.peer.make_image()), hangs.is_set())[1], "an image hangs", timeout_s=180.0
        )
    assert "the node ends all the same: an image is still in work" in capfd.readouterr().err
