"""The node where vision_msgs is installed: Classification, LabelInfo and regions. Run by test_overlay elsewhere."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

vision = pytest.importorskip("vision_msgs.msg", reason="vision_msgs is not in this environment: see test_overlay.py")

from ament_index_python.packages import get_package_share_directory  # noqa: E402
from diagnostic_msgs.msg import DiagnosticStatus  # noqa: E402
from oat_perception.camera_replay_node import CameraReplay  # noqa: E402
from oat_perception.core.regions import box_of  # noqa: E402
from oat_perception.demo.client import DemoClient  # noqa: E402
from oat_perception.node.messages import stamp_ns  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data  # noqa: E402
from std_msgs.msg import String  # noqa: E402

from tests.oat_perception.replay.test_frames import save_robocup  # noqa: E402

NAME = "/oat_perception"
# Of vision_msgs 4.1.1, which Jazzy ships; computed from its own message files.
TYPE_HASHES = {
    "Classification": "RIHS01_f74db28d0eaef3afb78f48bf2161cd709a1383a0309d3454383b25be11345143",
    "Detection2DArray": "RIHS01_214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968",
    "LabelInfo": "RIHS01_3d37df4015cdf660cc851c51897f2acd957e1ca6205ba0a99aebffb9406b0783",
}


def region(x: float, y: float, size: float, *, name: str = "", theta: float = 0.0):
    found = vision.Detection2D(id=name)
    found.bbox.center.position.x, found.bbox.center.position.y, found.bbox.center.theta = float(x), float(y), theta
    found.bbox.size_x = found.bbox.size_y = float(size)
    return found


@pytest.mark.parametrize("name", TYPE_HASHES)
def test_the_types_are_those_of_the_real_package(name: str) -> None:
    folder = Path(get_package_share_directory("vision_msgs")) / "msg"
    hashes = json.loads((folder / f"{name}.json").read_text())["type_hashes"]
    assert {h["type_name"]: h["hash_string"] for h in hashes}[f"vision_msgs/msg/{name}"] == TYPE_HASHES[name]


def test_a_classification_lists_every_class_by_probability(start_graph) -> None:
    peer = start_graph(listen=False).peer
    found, labels = [], []
    peer.create_subscription(vision.Classification, f"{NAME}/classification", found.append, 5)
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    peer.create_subscription(vision.LabelInfo, f"{NAME}/vision_label_info", labels.append, latched)
    peer.listen()
    result = peer.ask()
    peer.until(lambda: found and labels, "both are published")
    assert found[-1].header == result.header
    scores = [hypothesis.score for hypothesis in found[-1].results]
    names = {str(each.class_id): each.class_name for each in labels[0].class_map}
    assert names[found[-1].results[0].class_id] == result.class_name
    assert scores == sorted(scores, reverse=True)
    assert scores == pytest.approx(sorted(result.probabilities, reverse=True))
    assert [c.class_name for c in labels[0].class_map] == [*peer.labels[0].class_names, "unknown"]
    assert peer.set(min_confidence=1.0)[0].successful
    peer.ask()
    peer.until(lambda: len(found[-1].results) == 1, "the answer is unknown")
    assert names[found[-1].results[0].class_id] == "unknown"
    assert found[-1].results[0].score == pytest.approx(1 - result.confidence)


@pytest.mark.parametrize("detections_first", [True, False])
def test_each_region_is_answered_in_its_place_as_if_it_were_an_image(start_graph, detections_first) -> None:
    peer = start_graph(max_regions=8, probe_period_s=0.0, lambda_=0.3, regions_top_k=0).peer
    answers = []
    peer.create_subscription(vision.Detection2DArray, f"{NAME}/detections", answers.append, 5)
    regions = peer.create_publisher(vision.Detection2DArray, "regions", 5)
    peer.until(lambda: peer.image.get_subscription_count() and regions.get_subscription_count(), "both are heard")
    pixels_HWC = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    image = peer.make_image(pixels_HWC)
    asked = vision.Detection2DArray(
        header=image.header,
        detections=[
            region(16, 16, 32, name="corner"),
            region(500, 16, 32, name="outside"),
            region(48, 32, math.nan, name="nothing"),
            region(48, 32, 32, name="turned", theta=0.5),
            region(90, 60, 40, name="cut off"),
        ],
    )
    first, second = (
        ((regions, asked), (peer.image, image)) if detections_first else ((peer.image, image), (regions, asked))
    )
    first[0].publish(first[1])
    peer.spin(0.5)
    second[0].publish(second[1])
    answer = peer.until(lambda: answers and answers[-1], "the regions are answered")
    assert answer.header == image.header
    assert [d.id for d in answer.detections] == ["corner", "outside", "nothing", "turned", "cut off"]
    assert [bool(d.results) for d in answer.detections] == [True, False, False, True, True]
    assert answer.detections[4].bbox == asked.detections[4].bbox
    peer.until(lambda: peer.value("camera", "images refused, bad region") == 2, "each bad one is counted")

    crop = peer.make_image(np.ascontiguousarray(pixels_HWC[:32, :32]))
    nothing = vision.Detection2DArray(header=crop.header)
    regions.publish(nothing)
    alone = peer.ask(crop)
    seen = {h.hypothesis.class_id: h.hypothesis.score for h in answer.detections[0].results}
    assert seen == pytest.approx({str(k): score for k, score in enumerate(alone.probabilities)}, abs=1e-6)


def test_a_replayed_session_comes_with_its_boxes_and_the_demo_hears_an_answer_for_each(
    start_graph, on_a_thread, tmp_path
) -> None:
    graph = start_graph(max_regions=16, probe_period_s=0.0, lambda_=0.3)
    asked: list[Any] = []
    answers: list[Any] = []
    graph.peer.create_subscription(vision.Detection2DArray, "regions", asked.append, 50)
    graph.peer.create_subscription(vision.Detection2DArray, f"{NAME}/detections", answers.append, 50)
    client = DemoClient([f"class {number}" for number in range(10)], regions=True, context=graph.context)
    given = {
        "source": "robocup/20260502_r5",
        "data_root": str(save_robocup(tmp_path)),
        "rate_hz": 10.0,
        "truth_file": str(tmp_path / "truth.jsonl"),
    }
    overrides = [Parameter(name, value=value) for name, value in given.items()]

    def heard() -> bool:
        client.spin(0.1)
        return len(answers) >= 4 and len(asked) >= 4 and len(client.results) >= 4

    with on_a_thread(CameraReplay(context=graph.context, parameter_overrides=overrides)):
        graph.peer.until(heard, "frames with boxes are answered")
    client.destroy_node()
    truth = {line["stamp_ns"]: line for line in map(json.loads, (tmp_path / "truth.jsonl").read_text().splitlines())}
    best = {}
    for message in (*asked, *answers):
        line = truth[stamp_ns(message)]
        boxes = [box_of(found.bbox, height=96, width=128) for found in message.detections]
        assert boxes == [tuple(box) for box in line["boxes"]] and len(boxes) == len(line["labels"]) == 4
    for message in answers:
        best[stamp_ns(message)] = [found.results[0].hypothesis for found in message.detections]
    for result in client.results:
        told = [(answer["label"], answer["class_name"], answer["confidence"]) for answer in result["answers"]]
        wanted = best.get(result["stamp_ns"])
        assert wanted is None or told == [(int(h.class_id), f"class {h.class_id}", h.score) for h in wanted]
    assert any(result["stamp_ns"] in best for result in client.results)


def test_detections_without_their_image_are_counted(start_graph) -> None:
    peer = start_graph(max_regions=8, always_process=True).peer
    regions = peer.create_publisher(vision.Detection2DArray, "regions", 5)
    peer.until(regions.get_subscription_count, "the node listens")
    for second in (5, 6, 7):
        message = vision.Detection2DArray(detections=[region(16, 16, 32)])
        message.header.stamp.sec = second
        regions.publish(message)
    peer.until(lambda: peer.value("camera", "images refused, detections without an image") == 2, "counted")
    assert not peer.results


def _detect(peer, regions, image, *found) -> None:
    regions.publish(vision.Detection2DArray(header=image.header, detections=[region(*each) for each in found]))


def test_a_region_has_only_the_best_hypotheses_above_the_least_score_and_a_track_is_smoothed(start_graph) -> None:
    """Regression: 43 hypotheses, each with a covariance of 36 numbers, made 16 kB a box."""
    settings = {"regions_top_k": 3, "regions_min_score": 0.02, "regions_smoothing_s": 60.0}
    peer = start_graph(max_regions=8, probe_period_s=0.0, lambda_=0.3, **settings).peer
    answers, labels = [], []
    peer.create_subscription(vision.Detection2DArray, f"{NAME}/detections", answers.append, 5)
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    peer.create_subscription(vision.LabelInfo, f"{NAME}/vision_label_info", labels.append, latched)
    regions = peer.create_publisher(vision.Detection2DArray, "regions", 5)
    peer.until(lambda: regions.get_subscription_count() and peer.count_publishers(f"{NAME}/detections"), "both heard")

    def scores(pixels_HWC) -> list[dict[str, float]]:
        image = peer.make_image(pixels_HWC)
        number = len(answers)
        regions.publish(
            vision.Detection2DArray(header=image.header, detections=[region(16, 16, 32, name=n) for n in ("track", "")])
        )
        peer.ask(image)
        peer.until(lambda: len(answers) > number, "answered")
        found = [{h.hypothesis.class_id: h.hypothesis.score for h in d.results} for d in answers[-1].detections]
        for each in found:
            assert 1 <= len(each) <= 3
            assert list(each.values()) == sorted(each.values(), reverse=True)
            assert min(each.values()) >= 0.02
        return found

    rng = np.random.default_rng(1)
    track, single = scores(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
    assert track == single, "the first image of a track is its mean"
    dark_track, dark_single = scores(np.zeros((32, 32, 3), np.uint8))
    assert dark_track != dark_single
    peer.until(lambda: labels, "the labels, kept for whoever comes later")
    assert labels[0].threshold == pytest.approx(0.02)


def test_a_detector_that_is_later_than_a_second_is_matched(start_graph) -> None:
    """Regression: ten images waited, which is a third of a second at 30 Hz."""
    peer = start_graph(max_regions=8, probe_period_s=0.0, regions_wait_s=60.0, regions_queue_s=60.0).peer
    regions = peer.create_publisher(vision.Detection2DArray, "regions", 5)
    answers = []
    peer.create_subscription(vision.Detection2DArray, f"{NAME}/detections", answers.append, 50)
    peer.until(lambda: peer.image.get_subscription_count() and regions.get_subscription_count(), "both are heard")
    images = [peer.make_image() for _ in range(42)]
    for sent, image in enumerate(images):
        peer.image.publish(image)
        peer.spin(1 / 30)
        if sent >= 36:  # 1.2 s
            _detect(peer, regions, images[sent - 36], (16, 16, 32))
    peer.until(lambda: len(answers) >= 5, "detections meet their images")
    assert all(answer.detections[0].results for answer in answers)
    assert {answer.header.stamp.sec for answer in answers} <= {image.header.stamp.sec for image in images[:6]}


def test_without_a_detector_whole_images_are_answered_and_diagnostics_say_why(start_graph) -> None:
    """Regression: with a dead detector there were no results, and every part of the diagnostics was OK."""
    peer = start_graph(max_regions=8, probe_period_s=0.0, regions_wait_s=0.5).peer
    assert peer.ask().class_name
    peer.until(lambda: peer.diagnoses["regions"].level == DiagnosticStatus.STALE, "diagnosed")
    peer.until(lambda: "nobody publishes /regions" in peer.diagnoses["regions"].message, "the topic is named")
    peer.ask()
    peer.until(lambda: peer.value("regions", "images answered without detections") >= 2, "they are counted")
    regions = peer.create_publisher(vision.Detection2DArray, "regions", 5)
    told = "a publisher of /regions matches, but nothing arrives"
    peer.until(lambda: told in peer.diagnoses["regions"].message, "a publisher that is silent is named")
    peer.until(regions.get_subscription_count, "the node listens")
    image = peer.make_image()
    _detect(peer, regions, image, (16, 16, 32))
    peer.ask(image)
    peer.until(lambda: peer.diagnoses["regions"].level == DiagnosticStatus.OK, "well again")


def test_a_detector_of_another_qos_or_type_is_named(start_graph, stranger) -> None:
    """Regression: "a publisher matches, and sends nothing", although none could be heard."""
    graph = start_graph(max_regions=8, probe_period_s=0.0, regions_wait_s=0.3, image_reliability="reliable")
    peer = graph.peer
    detector = peer.create_publisher(vision.Detection2DArray, "regions", qos_profile_sensor_data)
    peer.ask()
    peer.until(lambda: "offers another reliability" in peer.diagnoses["regions"].message, "the policy is named")
    assert peer.diagnoses["regions"].level == DiagnosticStatus.STALE
    peer.destroy_publisher(detector)
    told = "/regions is published as std_msgs/msg/String, not as vision_msgs/msg/Detection2DArray"
    with stranger(graph) as other:
        other.create_publisher(String, "regions", 1)
        peer.until(lambda: told in peer.diagnoses["regions"].message, "the type is named")


def test_boxes_that_may_be_of_another_image_are_refused_with_the_reason(start_graph) -> None:
    """Regression: the boxes of one image were answered on another's pixels, and all diagnostics were OK."""
    peer = start_graph(max_regions=8, probe_period_s=0.0, regions_wait_s=60.0, regions_queue_s=60.0).peer
    answers = []
    peer.create_subscription(vision.Detection2DArray, f"{NAME}/detections", answers.append, 5)
    regions = peer.create_publisher(vision.Detection2DArray, "regions", 5)
    peer.until(lambda: regions.get_subscription_count() and peer.count_publishers(f"{NAME}/detections"), "both heard")

    def counted(reason: str) -> bool:
        return peer.value("camera", f"images refused, {reason}") == 1

    image = peer.make_image()
    image.header.stamp.sec = 0
    peer.ask(image)
    peer.until(lambda: counted("regions of an image without a stamp"), "an image without a stamp goes alone")
    assert peer.diagnoses["camera"].level == DiagnosticStatus.WARN
    assert "let the camera's driver stamp" in peer.diagnoses["camera"].message
    _detect(peer, regions, image, (16, 16, 32))
    peer.until(lambda: counted("detections without a stamp"), "and its boxes are refused")

    image = peer.make_image(frame_id="front")
    rear = peer.make_image(frame_id="rear")
    rear.header.stamp = image.header.stamp
    peer.image.publish(image)
    peer.until(lambda: peer.value("regions", "images waiting") == 1, "it waits")
    _detect(peer, regions, rear, (16, 16, 32))
    peer.until(lambda: counted("detections of another camera"), "boxes of the other camera are refused")
    assert not answers
    _detect(peer, regions, image, (16, 16, 32))
    peer.until(lambda: answers, "its own are answered")
    assert answers[0].header == image.header


def test_a_hundred_thousand_boxes_are_refused_in_words_before_they_are_read(start_graph) -> None:
    """Regression: the executor's thread made objects of all of them, for seconds."""
    graph = start_graph(max_regions=8, probe_period_s=0.0)
    peer = graph.peer
    regions = peer.create_publisher(vision.Detection2DArray, "regions", 5)
    peer.until(regions.get_subscription_count, "the node listens")
    message = peer.make_image()
    hostile = vision.Detection2DArray(header=message.header, detections=[region(16, 16, 8)] * 100_000)
    regions.publish(hostile)
    peer.until(lambda: peer.value("camera", "images refused, too many detections") == 1, "it is refused and counted")
    regions.publish(vision.Detection2DArray(header=message.header, detections=[region(16, 16, 8, name="x")]))
    assert peer.ask(message).class_name


def test_more_boxes_than_regions_are_counted_one_by_one_and_keep_their_places(start_graph) -> None:
    peer = start_graph(max_regions=2, probe_period_s=0.0).peer
    answers = []
    peer.create_subscription(vision.Detection2DArray, f"{NAME}/detections", answers.append, 5)
    regions = peer.create_publisher(vision.Detection2DArray, "regions", 5)
    peer.until(regions.get_subscription_count, "the node listens")
    peer.until(lambda: peer.count_publishers(f"{NAME}/detections"), "the node answers")
    message = peer.make_image()
    regions.publish(vision.Detection2DArray(header=message.header, detections=[region(16, 16, 8)] * 500))
    peer.ask(message)
    peer.until(lambda: answers, "the regions are answered")
    assert [bool(each.results) for each in answers[0].detections] == [True] * 2 + [False] * 498
    peer.until(lambda: peer.value("camera", "images refused, too many regions") == 498, "each is counted")


def test_detections_that_are_no_message_are_refused(start_graph) -> None:
    graph = start_graph(max_regions=2, probe_period_s=0.0)
    peer = graph.peer
    regions = peer.create_publisher(vision.Detection2DArray, "regions", 5)
    peer.until(regions.get_subscription_count, "the node listens")
    regions.publish(b"\x00\x01\x00\x00" + b"\xff" * 64)
    peer.spin(0.3)
    message = peer.make_image()
    regions.publish(vision.Detection2DArray(header=message.header, detections=[region(16, 16, 8)]))
    assert peer.ask(message).class_name
    assert graph.thread.is_alive()
