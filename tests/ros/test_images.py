"""Good images are answered under their own header; bad ones are counted and explained, and nothing else happens."""

from __future__ import annotations

import json
import math
import re
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from rclpy.qos import ReliabilityPolicy, qos_profile_sensor_data
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image

from oat_runtime.runtime import OATRuntime
from policy.replay import replay

NAME = "/oat_perception"


def _broken(peer, **changes) -> Image:
    message = peer.make_image()
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def _pixels(message: Image) -> np.ndarray:
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, -1)


def test_the_header_is_copied(peer) -> None:
    message = peer.make_image(frame_id="front_left")
    message.header.stamp.nanosec = 123456789
    result = peer.ask(message)
    assert result.header == message.header
    assert result.class_name == peer.labels[0].class_names[result.label]
    assert sum(result.probabilities) == pytest.approx(1.0, abs=1e-5)
    assert result.confidence == pytest.approx(max(result.probabilities))
    assert result.total_ms >= result.inference_ms > 0


def test_row_padding_and_channel_order_do_not_change_the_answer(peer) -> None:
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (40, 36, 3), dtype=np.uint8)
    plain = peer.ask(peer.make_image(rgb))
    padded = np.full((40, 128), 99, np.uint8)
    padded[:, : 36 * 3] = rgb[..., ::-1].reshape(40, -1)
    message = peer.make_image(rgb)
    message.encoding, message.step, message.data = "bgr8", 128, padded.tobytes()
    assert peer.ask(message).probabilities == plain.probabilities


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("truncated", {"data": bytes(100)}),
        ("truncated", {"data": b""}),
        ("oversize", {"data": bytes(32 * 32 * 3 + 1)}),
        ("unknown encoding", {"encoding": "nonsense"}),
        ("unknown encoding", {"encoding": ""}),
        ("bad size", {"height": 0, "data": b""}),
        ("bad size", {"width": 2**31, "height": 2**31}),
        ("bad step", {"step": 5}),
    ],
)
def test_a_bad_image_is_counted_and_explained_and_the_next_good_one_answered(peer, kind, changes) -> None:
    peer.ask()

    def count() -> int:
        return peer.value("camera", f"images refused, {kind}")

    before, num_results = count(), len(peer.results)
    for _ in range(3):
        peer.image.publish(_broken(peer, **changes))
    peer.ask()
    assert len(peer.results) == num_results + 1

    def all_counted() -> bool:
        peer.image.publish(peer.make_image())  # or the camera would be called silent instead
        return count() == before + 3

    peer.until(all_counted, f"three more images are refused as {kind}")
    assert peer.diagnoses["camera"].level == DiagnosticStatus.WARN
    assert kind in peer.diagnoses["camera"].message


def test_a_burst_drops_images_and_says_so(start_graph, monkeypatch) -> None:
    graph = start_graph(probe_period_s=0.0)
    peer = graph.peer
    peer.ask()
    predict, in_work, gate = OATRuntime.predict_inputs, threading.Event(), threading.Event()
    monkeypatch.setattr(
        OATRuntime,
        "predict_inputs",
        lambda self, x, **at: (in_work.set(), gate.wait(60.0), predict(self, x, **at))[-1],
    )
    tally = graph.node._running.pipeline.tally
    sent = [peer.make_image() for _ in range(6)]
    for num, message in enumerate(sent, start=2):
        peer.image.publish(message)
        peer.until(lambda: tally.num_received == num, "it has come")  # noqa: B023
        peer.until(in_work.is_set, "the first one is in work, all others wait for it")
    gate.set()
    peer.until(lambda: len(peer.results) == 3, "the two others are answered")
    assert [result.header for result in peer.results[1:]] == [sent[0].header, sent[-1].header], "the newest image wins"
    assert peer.results[-1].num_dropped == 4, "each image was either answered or counted"


def test_compressed_images_and_a_damaged_one(start_graph) -> None:
    peer = start_graph(image_transport="compressed").peer
    ok, png = cv2.imencode(".png", np.full((48, 64, 3), 90, np.uint8))
    assert ok

    def message(data: bytes) -> CompressedImage:
        compressed = CompressedImage(format="png", data=data)
        compressed.header = peer.make_image().header
        return compressed

    assert peer.ask(message(png.tobytes())).confidence > 0
    damaged = bytearray(png.tobytes())
    damaged[40:60] = bytes(20)
    for bad in (b"", b"GIF89a....", png.tobytes()[:40], bytes(damaged)):
        peer.compressed.publish(message(bad))
        peer.spin(0.1)
    assert peer.ask(message(png.tobytes())).confidence > 0
    peer.until(
        lambda: (
            {pair.key for pair in peer.diagnoses["camera"].values}
            >= {f"images refused, {kind}" for kind in ("empty", "unknown format", "truncated", "undecodable")}
        ),
        "each damage is counted by its kind",
    )


def test_nothing_is_received_while_nobody_listens(start_graph) -> None:
    peer = start_graph(listen=False).peer
    peer.until(lambda: "not listened to" in peer.diagnoses["camera"].message, "diagnosed as idle")
    assert peer.image.get_subscription_count() == 0
    reader = peer.create_subscription(Image, f"{NAME}/image_annotated", lambda _: None, 5)
    peer.until(peer.image.get_subscription_count, "a reader of any result is enough")
    peer.destroy_subscription(reader)
    peer.until(lambda: not peer.image.get_subscription_count(), "the last reader is gone")
    assert peer.set(always_process=True)[0].successful
    peer.until(peer.image.get_subscription_count, "told to work for nobody")
    peer.listen()
    assert peer.ask().class_name


def test_the_annotated_image_shows_the_source_and_is_made_on_demand(peer) -> None:
    annotated: list[Image] = []
    peer.ask()
    assert not peer.count_subscribers(f"{NAME}/image_annotated")
    reader = peer.create_subscription(Image, f"{NAME}/image_annotated", annotated.append, 5)
    message = peer.make_image()
    peer.until(lambda: peer.count_subscribers(f"{NAME}/image_annotated"), "the reader is seen")
    peer.until(lambda: (peer.ask(message), annotated)[1], "an annotated image")
    assert annotated[-1].header == message.header
    assert (annotated[-1].encoding, annotated[-1].height, annotated[-1].width) == ("rgb8", 256, 256)
    same = (_pixels(annotated[-1]) == np.kron(_pixels(message), np.ones((8, 8, 1), np.uint8))).all(-1)
    assert 0.5 < same.mean() < 1.0, "text on the source's own pixels"
    peer.destroy_subscription(reader)


def test_other_encodings_are_answered_and_their_kin_refused(peer) -> None:
    grey_HW = np.ascontiguousarray(_pixels(peer.make_image())[..., 0])
    plain = peer.ask(peer.make_image(np.repeat(grey_HW[..., None], 3, -1)))
    message = peer.make_image(grey_HW[..., None])
    message.encoding = "mono8"
    assert peer.ask(message).probabilities == plain.probabilities
    message = peer.make_image(grey_HW[..., None])
    message.encoding, message.step, message.is_bigendian = "mono16", 64, 1
    message.data = np.stack([grey_HW, 0 * grey_HW], -1).tobytes()
    assert peer.ask(message).probabilities == plain.probabilities


def test_a_camera_of_another_qos_is_named(start_graph) -> None:
    peer = start_graph(image_reliability="reliable", camera_timeout_s=0.3).peer
    camera = peer.create_publisher(Image, "image", qos_profile_sensor_data)
    peer.destroy_publisher(peer.image)
    peer.until(lambda: "offers another reliability" in peer.diagnoses["camera"].message, "the policy is named")
    assert peer.diagnoses["camera"].level == DiagnosticStatus.STALE
    peer.destroy_publisher(camera)


def test_a_qos_that_fitted_once_images_came_is_no_cause_of_a_later_silence(start_graph) -> None:
    """Regression: a bag of another reliability was named for as long as the node was active."""
    peer = start_graph(image_reliability="reliable", camera_timeout_s=0.5).peer
    peer.create_publisher(Image, "image", qos_profile_sensor_data)
    peer.until(lambda: "offers another reliability" in peer.diagnoses["camera"].message, "the bag is named")
    peer.ask()
    peer.until(lambda: "no image for" in peer.diagnoses["camera"].message, "the camera falls silent")
    assert "offers another" not in peer.diagnoses["camera"].message


def test_qos_overrides_by_parameter(start_graph, capfd) -> None:
    """Regression: the node subscribed once more for each override, and took each image as often."""
    prefix = "qos_overrides./image.subscription"
    graph = start_graph(**{f"{prefix}.reliability": "reliable", f"{prefix}.depth": 3})
    graph.peer.ask()
    (found,) = graph.peer.get_subscriptions_info_by_topic("/image")
    assert found.qos_profile.reliability == ReliabilityPolicy.RELIABLE
    assert capfd.readouterr().err.count("listening on /image") == 1


@pytest.mark.parametrize(
    ("topic", "policy", "wrong", "right"),
    [
        ("/image", "reliability", "best-effort", "best_effort"),
        ("/image", "depth", "5", 5),
        ("/image", "depth", -1, 0),
        ("/image/compressed", "durability", "none", "Volatile"),
        ("/image", "history", True, "keep_all"),
        ("/regions", "reliability", "unknown", "reliable"),
    ],
)
def test_a_wrong_qos_override_is_refused_on_configure(start_graph, topic, policy, wrong, right) -> None:
    """Regression: it was found when the first reader came, and each parameter that was set later seemed refused."""
    name = f"qos_overrides.{topic}.subscription.{policy}"
    graph = start_graph(auto_activate=False, **{name: wrong})
    assert not graph.peer.change_state(Transition.TRANSITION_CONFIGURE)
    assert graph.node.problem.startswith(f"on_configure: {name} must be ")
    assert graph.node.problem.endswith(f"got {wrong!r}")
    assert graph.node.state == "unconfigured"
    graph = start_graph(auto_activate=False, **{name: right})
    assert graph.peer.change_state(Transition.TRANSITION_CONFIGURE), graph.node.problem


WRONG_NAMES = {
    "image.subscription.reliability": "/image.subscription.reliability",
    "/image.subscription.reliabilty": "/image.subscription.reliability",
    "/image.subscription.deadline": "/image.subscription.",
    "/battery_state.subscription.durability": ".subscription.durability",
    "/perception.publisher.reliability": ".subscription.reliability",
}


@pytest.mark.parametrize(
    ("arguments", "wrong_names"),
    [
        ([], WRONG_NAMES),
        (
            ["-r", "__ns:=/front"],
            {"/image.subscription.depth": "/front/image.subscription.depth"},
        ),
        (
            ["-r", "image:=/cam/image_raw"],
            {
                "/image.subscription.depth": "/cam/image_raw.subscription.depth",
                "/image/compressed.subscription.history": "/cam/image_raw/compressed.subscription.history",
            },
        ),
    ],
)
def test_a_qos_override_that_nothing_reads_is_named_with_the_nearest_one(
    start_graph, capfd, arguments, wrong_names
) -> None:
    """Regression: it had no effect, and no line told so."""
    given = {f"qos_overrides.{name}": 3 for name in wrong_names}
    start_graph(auto_activate=False, listen=False, arguments=arguments, **given)
    said = [line for line in capfd.readouterr().err.splitlines() if "there is no parameter" in line]
    assert len(said) == len(wrong_names)
    for name, meant in wrong_names.items():
        (line,) = (line for line in said if f"'qos_overrides.{name}'" in line)
        assert re.search(rf"is qos_overrides\.\S*{re.escape(meant)}\S* meant\?; it is ignored", line), line


def test_a_qos_override_that_is_read_and_a_dumped_file_are_no_warning(start_graph, capfd, tmp_path: Path) -> None:
    topics = ("/image", "/image/compressed", "/regions")
    wanted = {"reliability": "reliable", "depth": 3, "history": "keep_last", "durability": "volatile"}
    given = {f"qos_overrides.{t}.subscription.{name}": value for t in topics for name, value in wanted.items()}
    graph = start_graph(**given)
    graph.peer.until(lambda: graph.node.has_parameter("qos_overrides./image.subscription.depth"), "it is declared")
    dumped = {name: parameter.value for name, parameter in graph.node._parameters.items()}
    dumped = {name: list(value) if hasattr(value, "tolist") else value for name, value in dumped.items()}
    file = tmp_path / "dump.yaml"
    file.write_text(json.dumps({"/**": {"ros__parameters": dumped}}))  # JSON is YAML
    start_graph(auto_activate=False, listen=False, arguments=["--params-file", str(file)])
    assert "there is no parameter" not in capfd.readouterr().err


def test_zero_and_backward_stamps_are_answered_and_counted(peer) -> None:
    late = peer.make_image()
    late.header.stamp.sec = 2_000_000_000
    assert math.isnan(peer.ask(late).image_age_ms), "a stamp in the future has no age"
    zero = peer.make_image()
    zero.header.stamp.sec = 0
    assert math.isnan(peer.ask(zero).image_age_ms)
    peer.until(lambda: peer.value("camera", "stamps that went back") >= 1, "a bag that began again is noticed")


def test_stamps_before_1970_are_answered_logged_and_replayed(start_graph, tmp_path: Path) -> None:
    log = tmp_path / "decisions.jsonl"
    graph = start_graph(decision_log=str(log))
    for sec in (-2_000_000_000, -3, -1):
        message = graph.peer.make_image()
        message.header.stamp.sec, message.header.stamp.nanosec = sec, 999_999_999
        result = graph.peer.ask(message)
        assert result.header == message.header and math.isnan(result.image_age_ms)
    assert graph.peer.value("camera", "stamps that went back") == 0
    assert graph.peer.change_state(Transition.TRANSITION_DEACTIVATE)
    assert graph.peer.change_state(Transition.TRANSITION_CLEANUP)
    assert [step.equal for step in replay(log)] == [True] * 3


def _twelve_bits(peer) -> Image:
    """A picture as a camera of 12 bits sends it: in the lower bits of 16."""
    grey_HW = np.ascontiguousarray(_pixels(peer.make_image())[..., 0])
    message = peer.make_image(grey_HW[..., None])
    message.encoding, message.step = "mono16", 2 * message.step
    message.data = (grey_HW.astype("<u2") << 4).tobytes()
    return message


def test_images_that_are_all_nearly_black_are_a_warning_that_ends_with_the_bits_of_the_camera(
    start_graph, capfd
) -> None:
    peer = start_graph().peer
    for _ in range(20):
        peer.ask(_twelve_bits(peer))
    peer.until(lambda: "set image_bits" in peer.diagnoses["camera"].message, "the warning in diagnostics")
    assert peer.diagnoses["camera"].level == DiagnosticStatus.WARN
    assert capfd.readouterr().err.count("every image is nearly black") == 1, "once in the log"
    plain = peer.ask(peer.make_image(np.repeat(_pixels(peer.make_image())[..., :1], 3, -1)))
    peer.until(lambda: peer.diagnoses["camera"].level == DiagnosticStatus.OK, "light ends it")

    peer = start_graph(image_bits=12).peer
    for _ in range(20):
        assert peer.ask(_twelve_bits(peer)).probabilities == plain.probabilities
    assert "nearly black" not in peer.diagnoses["camera"].message
    wide = _twelve_bits(peer)
    wide.data = b"\xff" * len(wide.data)
    peer.image.publish(wide)
    peer.until(lambda: peer.value("camera", "images refused, more than 12 bits") == 1, "a value of 16 bits is refused")


def test_a_simulated_clock_that_jumps_changes_no_answer(start_graph) -> None:
    peer = start_graph(use_sim_time=True, confidence_max_age_s=30.0).peer
    clock = peer.create_publisher(Clock, "/clock", 5)
    peer.until(clock.get_subscription_count, "the node follows /clock")
    peer.say(confidence=1.0)
    for at_s, stamp_s in ((100, 99), (5, 4), (1000, 999)):
        clock.publish(Clock(clock=Time(sec=at_s)))
        peer.spin(0.3)
        message = peer.make_image()
        message.header.stamp.sec = stamp_s
        result = peer.ask(message)
        assert result.image_age_ms == pytest.approx(1000.0)
        assert result.environment_confidence_age_ms < 20_000, "ages count on a steady clock"
