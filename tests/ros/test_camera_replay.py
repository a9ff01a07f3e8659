"""The camera's images arrive bit for bit, its labels stay at home, and live parameters act on the next image."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import rclpy
from oat_msgs.msg import EnvironmentConfidence, OperatingPoint
from oat_perception.camera_replay_node import CameraReplay
from oat_perception.middleware import LATCHED
from oat_perception.node import messages
from oat_perception.replay.scenario import Phase, Scenario
from oat_perception.replay.sources import load_foolbox_cifar10
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from sensor_msgs.msg import BatteryState, Image

from oat_runtime.errors import ConfigError
from tests.oat_perception.replay.test_frames import save_robocup
from tests.ros.domains import next_domain

TIMEOUT_S = 20.0


class Scene:
    """The camera on a thread of its own, and a listener."""

    def __init__(self, on_a_thread, arguments=(), **parameters) -> None:
        self.context = Context()
        rclpy.init(args=list(arguments), context=self.context, domain_id=next_domain())
        given = {"source": "foolbox", "rate_hz": 50.0, **parameters}
        overrides = [Parameter(name, value=value) for name, value in given.items()]
        try:
            self.camera = CameraReplay(context=self.context, parameter_overrides=overrides)
        except ConfigError:
            rclpy.shutdown(context=self.context)
            raise
        self._spinning = contextlib.ExitStack()
        self._spinning.enter_context(on_a_thread(self.camera))
        self._node = rclpy.create_node("listener", context=self.context)
        self._listener = SingleThreadedExecutor(context=self.context)
        self._listener.add_node(self._node)
        self.images: list[Image] = []
        self.batteries: list[BatteryState] = []
        self.confidences: list[EnvironmentConfidence] = []

    def listen(self) -> None:
        self._node.create_subscription(Image, "image", self.images.append, 100)
        self._node.create_subscription(BatteryState, "battery_state", self.batteries.append, 100)
        self._node.create_subscription(EnvironmentConfidence, "environment_confidence", self.confidences.append, 100)

    def until(self, condition, what: str) -> None:
        until_s = time.monotonic() + TIMEOUT_S
        while not condition():
            assert time.monotonic() < until_s, f"not within {TIMEOUT_S} s: {what}"
            self._listener.spin_once(timeout_sec=0.02)

    def set(self, **values):
        return self.camera.set_parameters([Parameter(name, value=value) for name, value in values.items()])

    def close(self) -> None:
        self._spinning.close()
        self._listener.shutdown()
        self._node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def start(on_a_thread):
    scenes = []

    def begin(**parameters) -> Scene:
        scenes.append(Scene(on_a_thread, **parameters))
        return scenes[-1]

    yield begin
    for scene in scenes:
        scene.close()


def pixels(message: Image) -> np.ndarray:
    assert (message.encoding, message.step) == ("rgb8", 3 * message.width)
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)


def test_pixels_stamps_and_truth_agree_and_labels_are_not_published(start, tmp_path):
    scene = start(truth_file=str(tmp_path / "truth.jsonl"), frames_dir=str(tmp_path / "frames"), frame_id="eye")
    assert not (tmp_path / "truth.jsonl").read_text()  # nobody listens yet
    scene.listen()
    scene.until(lambda: len(scene.images) >= 10 and scene.batteries and scene.confidences, "images and signals")
    truth = {
        line["stamp_ns"]: line for line in map(json.loads, (tmp_path / "truth.jsonl").read_text().splitlines()[:-1])
    }
    labelled = load_foolbox_cifar10()
    for message in scene.images[:8]:
        line = truth[message.header.stamp.sec * 10**9 + message.header.stamp.nanosec]
        assert np.array_equal(pixels(message), labelled.images_NHWC[line["index"]])
        assert line["label"] == labelled.labels_N[line["index"]]
        kept = cv2.imread(str(tmp_path / "frames" / line["file"]))
        assert np.array_equal(cv2.cvtColor(kept, cv2.COLOR_BGR2RGB), pixels(message))
        assert message.header.frame_id == "eye"
    assert (scene.batteries[0].percentage, scene.batteries[0].present) == (1.0, True)
    assert math.isnan(scene.batteries[0].voltage)  # not measured, so not claimed
    assert scene.confidences[0].confidence == 1.0


def test_live_parameters_act_and_bad_ones_are_refused(start, tmp_path):
    scene = start(truth_file=str(tmp_path / "truth.jsonl"))
    scene.listen()
    scene.until(lambda: len(scene.images) >= 3, "images")
    assert all(result.successful for result in scene.set(corruption="fog", severity=5, battery=0.25, confidence=-1))
    clean = {image.tobytes() for image in load_foolbox_cifar10().images_NHWC}
    scene.until(lambda: pixels(scene.images[-1]).tobytes() not in clean, "a corrupted image")
    scene.until(lambda: scene.batteries and scene.batteries[-1].percentage == 0.25, "the battery's new charge")
    num_confidences = len(scene.confidences)
    scene.until(lambda: len(scene.images) >= 60, "a second's images")
    assert len(scene.confidences) <= num_confidences + 1  # silent, but for one on its way
    for name, value, reason in (
        ("corruption", "rain", "must be one of"), ("severity", 6, ""), ("attack", "pgd-10", "bundle:="),
        ("confidence", 1.5, "out of range"), ("rate_hz", 5.0, "read-only"),
    ):  # fmt: skip
        (result,) = scene.set(**{name: value})
        assert not result.successful and reason in result.reason, (name, result.reason)


def test_a_parameter_that_it_does_not_have_is_named_with_the_nearest_one(start, tmp_path, capfd):
    """Regression: a misspelt one had no effect, and no line told so."""
    file = tmp_path / "parameters.yaml"
    file.write_text("/**: {ros__parameters: {rate: 5.0, use_sim_time: false, severity: 2}}\n")
    start(arguments=["--ros-args", "-p", "corruptoin:=fog", "-p", "seed:=1", "--params-file", str(file)])
    said = [line for line in capfd.readouterr().err.splitlines() if "there is no parameter" in line]
    assert [line.partition("there is no parameter ")[2] for line in said] == [
        "'corruptoin': is corruption meant?; it is ignored",
        "'rate': is rate_hz meant?; it is ignored",
    ]


def test_a_broken_file_of_a_folder_is_left_out_and_named_once(start, tmp_path, capfd):
    for number, level in enumerate((50, 90)):
        cv2.imwrite(str(tmp_path / f"frame{2 * number}.png"), np.full((4, 4, 3), level, np.uint8))
    (tmp_path / "frame1.png").write_bytes(b"")
    scene = start(source=str(tmp_path))
    scene.listen()
    scene.until(lambda: len(scene.images) >= 5, "the folder plays again and again")
    assert {int(pixels(message)[0, 0, 0]) for message in scene.images} == {50, 90}
    said = capfd.readouterr().err
    assert said.count("frame1.png cannot be decoded: empty") == 1 == said.count(f"images of {tmp_path} left out: 1")


def test_a_paused_day_does_not_go_on(start, tmp_path):
    phases = tuple(Phase(name=name, title=name, seconds=0.6) for name in ("first", "second"))
    (tmp_path / "day.json").write_text(Scenario(phases=phases).model_dump_json())
    scene = start(scenario=str(tmp_path / "day.json"), truth_file=str(tmp_path / "truth.jsonl"), playing=False)
    scene.listen()
    scene.until(lambda: scene.camera.count_subscribers("image"), "discovery")
    time.sleep(1.5)  # longer than the whole day
    assert not scene.images
    assert scene.set(playing=True)[0].successful
    scene.until(lambda: scene.camera.done, "the end of the day")
    shown = [json.loads(line)["phase"] for line in (tmp_path / "truth.jsonl").read_text().splitlines()]
    assert [name for name, _ in itertools.groupby(shown)] == ["first", "second"]
    assert not scene.set(corruption="fog")[0].successful  # the script's business


def test_an_attack_tells_whose_operating_point_it_waits_for(start, tiny_bundle, tmp_path, capfd):
    """Regression: with a misspelt `perception_node`, no image was attacked, and no line told so."""
    pytest.importorskip("torch")
    truth = tmp_path / "truth.jsonl"
    scene = start(bundle=str(tiny_bundle), attack="pgd-10", perception_node="front/eye", truth_file=str(truth))
    scene.listen()
    scene.until(lambda: len(scene.images) >= 3, "images")
    assert "no image is attacked before /front/eye/operating_point says" in capfd.readouterr().err

    def attacks() -> list[str]:
        return [json.loads(line)["attack"] for line in truth.read_text().splitlines()[:-1]]

    assert set(attacks()) <= {"none"}
    points = scene._node.create_publisher(OperatingPoint, "front/eye/operating_point", LATCHED)
    points.publish(OperatingPoint(lambda_value=1.0, width=1.0))
    scene.until(lambda: "pgd-10" in attacks(), "an attacked image")


def test_a_script_that_attacks_needs_a_bundle(start):
    with pytest.raises(ConfigError, match="set the parameter 'bundle'"):
        start(scenario="day")


@pytest.mark.parametrize(
    ("more", "says"), [({}, "needs vision_msgs"), ({"frame_side_px": 32}, "frame_side_px would cut")]
)
def test_frames_with_boxes_are_refused_where_their_boxes_could_not_be_sent(start, tmp_path, monkeypatch, more, says):
    monkeypatch.setattr(messages, "vision", SimpleNamespace(Detection2DArray=Image) if more else None)
    with pytest.raises(ConfigError, match=says):
        start(source="robocup/20260502_r5", data_root=str(save_robocup(tmp_path)), **more)
