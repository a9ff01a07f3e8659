"""The node where vision_msgs is installed: Classification, LabelInfo and regions. Run by test_overlay elsewhere."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

vision = pytest.importorskip("vision_msgs.msg", reason="vision_msgs is not in this environment: see test_overlay.py")

from ament_index_python.packages import get_package_share_directory  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile  # noqa: E402

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
    assert found[-1].results[0].class_id == result.class_name
    assert scores == sorted(scores, reverse=True)
    assert scores == pytest.approx(sorted(result.probabilities, reverse=True))
    assert [c.class_name for c in labels[0].class_map] == list(peer.labels[0].class_names)


@pytest.mark.parametrize("detections_first", [True, False])
def test_each_region_is_answered_in_its_place_as_if_it_were_an_image(start_graph, detections_first) -> None:
    peer = start_graph(max_regions=8, probe_period_s=0.0, lambda_=0.3).peer
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
    assert [bool(d.results) for d in answer.detections] == [True, False, False, False, True]
    assert answer.detections[4].bbox == asked.detections[4].bbox
    peer.until(lambda: peer.value("camera", "images refused, bad region") == 3, "each bad one is counted")

    crop = peer.make_image(np.ascontiguousarray(pixels_HWC[:32, :32]))
    nothing = vision.Detection2DArray(header=crop.header)
    regions.publish(nothing)
    alone = peer.ask(crop)
    seen = {h.hypothesis.class_id: h.hypothesis.score for h in answer.detections[0].results}
    names = peer.labels[0].class_names
    assert seen == pytest.approx(dict(zip(names, alone.probabilities, strict=True)), abs=1e-6)


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
