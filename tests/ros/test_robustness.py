"""The running graph under abuse: floods, overload, malformed images, several nodes, replayed bags."""

from __future__ import annotations

import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from oat_msgs.msg import Perception
from oat_perception.bench.malformed import malformed_images
from oat_perception.camera_replay_node import CameraReplay
from oat_perception.perception_node import PerceptionNode
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from oat_runtime.data.camera_messages import check_image
from oat_runtime.errors import InputError
from oat_runtime.runtime import OATRuntime

NAME = "/oat_perception"
BAG = Path(__file__).parents[2].parent / "shared" / "data" / "bags" / "donkeycar"


def test_whatever_is_called_malformed_is_refused() -> None:
    for message in malformed_images(seed=1, num=2000):
        with pytest.raises(InputError):
            check_image(message)


@pytest.mark.parametrize("num", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_malformed_images_are_all_counted_and_good_ones_between_them_answered(start_graph, num) -> None:
    peer = start_graph(image_reliability="reliable", image_depth=200, probe_period_s=0.0).peer
    peer.ask()
    camera = peer.create_publisher(Image, "image", 200)
    peer.until(camera.get_subscription_count, "connected")
    for index, message in enumerate(malformed_images(seed=0, num=num), start=1):
        camera.publish(message)
        if index % 50 == 0:
            camera.publish(peer.make_image(frame_id=str(index)))
            peer.until(lambda: peer.results[-1].header.frame_id == str(index), f"good image after {index} malformed")  # noqa: B023

    def counted() -> int:
        values = peer.diagnoses["camera"].values
        return sum(int(pair.value) for pair in values if pair.key.startswith("images refused"))

    peer.until(lambda: counted() == num, f"{num} are counted, not more and not less")


def test_images_above_the_limit_and_with_holes_are_counted_and_the_next_one_is_answered(start_graph) -> None:
    """A PNG of 16384x16384 silenced the node for 12 s and took 1.5 GB; JPEGs with holes were classified."""
    peer = start_graph(
        image_transport="compressed", image_reliability="reliable", probe_period_s=0.0, max_pixels=320 * 240
    ).peer
    camera = peer.create_publisher(CompressedImage, "image/compressed", 20)
    peer.until(camera.get_subscription_count, "connected")
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    whole = cv2.imencode(".jpg", noise)[1].tobytes()
    hole = whole[: len(whole) * 4 // 10] + whole[len(whole) * 6 // 10 :]
    wide = cv2.imencode(".jpg", np.zeros((240, 321, 3), np.uint8))[1].tobytes()
    for data in (hole, wide, cv2.imencode(".png", np.zeros((241, 320), np.uint8))[1].tobytes()):
        camera.publish(CompressedImage(format="jpeg", data=data))
        peer.spin(0.2)
    camera.publish(CompressedImage(header=Header(frame_id="good"), format="jpeg", data=whole))
    peer.until(lambda: [result.header.frame_id for result in peer.results] == ["good"], "the good one alone")

    def refused() -> int:
        values = peer.diagnoses["camera"].values
        return sum(int(pair.value) for pair in values if pair.key.startswith("images refused"))

    peer.until(lambda: refused() == 3, "the others are counted")


def test_a_flood_of_parameters_is_answered_and_the_last_one_holds(start_graph) -> None:
    peer = start_graph(probe_period_s=0.0).peer
    peer.ask()
    client = peer.create_client(SetParameters, f"{NAME}/set_parameters")
    peer.until(client.service_is_ready, "the parameter service")
    wanted = [float(lam) for lam in np.random.default_rng(0).choice([0.0, 0.1, 0.2, 0.4, 1.0, 7.0], 200)] + [0.3]
    futures = []
    for index, lam in enumerate(wanted):
        request = SetParameters.Request(parameters=[Parameter("lambda", value=lam).to_parameter_msg()])
        futures.append(client.call_async(request))
        if index % 10 == 0:
            peer.image.publish(peer.make_image())
            peer.until(futures[-1].done, "the flood is answered")
    peer.until(lambda: all(future.done() for future in futures), "every call is answered")
    assert [future.result().results[0].successful for future in futures] == [lam <= 1 for lam in wanted]
    assert peer.ask().lambda_value == 0.3


def test_ten_times_overload_stays_fresh_and_counts_what_it_drops(start_graph, monkeypatch) -> None:
    """The network gets a turn for each tenth image, however fast this machine is."""
    graph = start_graph(probe_period_s=0.0, image_reliability="reliable")
    peer = graph.peer
    first_s = peer.ask().header.stamp.sec + 1
    predict, turns = OATRuntime.predict_inputs, threading.Semaphore(0)
    monkeypatch.setattr(
        OATRuntime, "predict_inputs", lambda self, x, **at: (turns.acquire(timeout=60.0), predict(self, x, **at))[1]
    )
    tally = graph.node._running.pipeline.tally
    for sent in range(1, 201):
        peer.image.publish(peer.make_image())
        peer.until(lambda: tally.num_received == 1 + sent, "it has come")  # noqa: B023
        if sent % 10 == 0:
            turns.release()
            peer.until(lambda: len(peer.results) == 1 + sent // 10, "one image is answered")  # noqa: B023
    turns.release(10)
    result = peer.ask()
    answered = peer.results[1:]
    assert len(answered) <= 22, "no queue is worked off"
    for number, each in enumerate(answered[:20]):
        assert each.header.stamp.sec - first_s >= 10 * number - 1, "what is answered was the newest when its turn came"
    assert len(answered) + result.num_dropped == tally.num_received - 1, "each received image is answered or counted"


def test_two_nodes_with_namespaces_keep_to_themselves(start_graph, on_a_thread, bundle: Path) -> None:
    graph = start_graph()
    peer = graph.peer
    given = {"backend": "onnxruntime", "num_threads": 1, "bundle": str(bundle), "auto_activate": True, "lambda": 0.2}
    overrides = [Parameter(name, value=value) for name, value in given.items()]
    second = PerceptionNode(context=graph.context, namespace="rear", parameter_overrides=overrides)
    with on_a_thread(second):
        results: list[Perception] = []
        peer.create_subscription(Perception, "/rear/oat_perception/perception", results.append, 5)
        camera = peer.create_publisher(Image, "/rear/image", 5)
        peer.until(camera.get_subscription_count, "the second node listens")
        message = peer.make_image(frame_id="rear")
        camera.publish(message)
        peer.until(lambda: results, "the second node answers")
        assert results[0].header == message.header
        assert results[0].lambda_value == 0.2
        front = peer.ask()
        assert front.lambda_source != results[0].lambda_source
        assert not any(result.header.frame_id == "rear" for result in peer.results)


@pytest.mark.skipif(not BAG.is_dir(), reason="no recorded bag here")
@pytest.mark.parametrize("rate_hz", [20.0, 200.0])
def test_a_replayed_bag_is_answered_at_its_rate_and_ten_times_that(start_graph, on_a_thread, rate_hz) -> None:
    graph = start_graph(always_process=True)
    peer = graph.peer
    given = {"source": str(BAG), "rate_hz": rate_hz, "frame_id": "bag"}
    overrides = [Parameter(name, value=value) for name, value in given.items()]
    camera = CameraReplay(context=graph.context, parameter_overrides=overrides)
    with on_a_thread(camera):
        peer.until(lambda: len(peer.results) >= 30, "thirty images of the bag are answered")
    assert {result.header.frame_id for result in peer.results} == {"bag"}
    stamps = [(r.header.stamp.sec, r.header.stamp.nanosec) for r in peer.results]
    assert stamps == sorted(set(stamps)), "none twice, none out of order"
    assert peer.diagnoses["network"].level == DiagnosticStatus.OK


@pytest.mark.slow
def test_a_thousand_lambdas_each_hold_from_the_next_image_on(start_graph) -> None:
    peer = start_graph(probe_period_s=0.0).peer
    peer.ask()
    client = peer.create_client(SetParameters, f"{NAME}/set_parameters")
    for lam in np.random.default_rng(0).choice([0.0, 0.1, 0.2, 0.3, 0.4, 1.0], 1000):
        peer.image.publish(peer.make_image())
        request = SetParameters.Request(parameters=[Parameter("lambda", value=float(lam)).to_parameter_msg()])
        future = client.call_async(request)
        peer.until(future.done, "the reply")
        assert peer.ask().lambda_value == lam
