"""The node in a process of its own: killed, stopped, on a full disk, and for minutes or hours under all of it."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from oat_msgs.msg import OperatingPoint, Perception
from oat_msgs.srv import SetOperatingPoint
from oat_perception.bench.malformed import malformed_images
from oat_perception.node.processes import module_command
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import BatteryState, Image

from policy.replay import read_recording, replay

NAME = "/second/oat_perception"
START_TIMEOUT_S = 180.0
MAX_GROWTH_MB, MAX_GROWTH_OF_CONFIGURATIONS_MB = 10.0, 15.0
"""As docs/ros.md states them."""
SETTLED_MINUTES = 2.0
BURST = QoSProfile(depth=1000)


class Away:
    """The node in a process of its own, in the domain of a graph whose own node rests, and how it is spoken to."""

    def __init__(self, graph: Any, folder: Path, **settings: Any) -> None:
        self.peer, self.folder = graph.peer, folder
        given = {"backend": "onnxruntime", "num_threads": 1, "auto_activate": True, **settings}
        self.command = [*module_command("perception_node", given), "-r", "__ns:=/second"]
        self.environment = {**os.environ, "ROS_DOMAIN_ID": str(graph.context.get_domain_id()), "OMP_NUM_THREADS": "1"}
        self.results: list[Perception] = []
        self.num_results = self.num_lost_on_the_way = 0
        events = SubscriptionEventCallbacks(message_lost=self._on_lost)
        self.peer.create_subscription(Perception, f"{NAME}/perception", self._on_result, BURST, event_callbacks=events)
        self.camera = self.peer.create_publisher(Image, "/second/image", BURST)
        self.battery = self.peer.create_publisher(BatteryState, "/second/battery_state", 5)
        self.set_point = self.peer.create_client(SetOperatingPoint, f"{NAME}/set_operating_point", qos_profile=BURST)
        self._frames = itertools.count()
        self.process: subprocess.Popen[bytes] | None = None

    def _on_result(self, result: Perception) -> None:
        self.num_results += 1
        self.results = [*self.results[-99:], result]

    def _on_lost(self, event: Any) -> None:
        self.num_lost_on_the_way = event.total_count

    @contextlib.contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        """Start the process, and wait for its answer to an image that no process before it can have seen."""
        with (self.folder / "log").open("w") as log:
            self.process = subprocess.Popen(self.command, env=self.environment, stderr=log)
        try:
            self.answer(timeout_s=START_TIMEOUT_S)
            yield self.process
        finally:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()

    def answer(self, *, timeout_s: float = 60.0) -> Perception:
        """An image's result; the image is sent until it is answered, since the first ones come before the graph is."""
        name = f"frame {next(self._frames)}"

        def asked() -> Perception | None:
            assert self.process is not None
            assert self.process.poll() is None, (self.folder / "log").read_text()
            self.camera.publish(self.peer.make_image(frame_id=name))
            self.peer.spin(0.05)
            return next((result for result in self.results if result.header.frame_id == name), None)

        result: Perception = self.peer.until(asked, "a result", timeout_s=timeout_s)
        return result

    def call(self, **fields: float) -> SetOperatingPoint.Response:
        self.peer.until(self.set_point.service_is_ready, "the service")
        future = self.set_point.call_async(SetOperatingPoint.Request(**fields))
        self.peer.until(future.done, "an answer")
        return future.result()

    def count(self, part: str, key: str) -> int:
        """A count of the node's diagnostics; those of a key that begins so are added up."""
        values = self.peer.diagnoses[part].values
        return sum(int(pair.value) for pair in values if pair.key.startswith(key))

    def counts(self) -> dict[str, int]:
        """All that is counted."""
        return {
            "received": self.count("camera", "images received"),
            "processed": self.count("network", "images processed"),
            "refused": self.count("camera", "images refused"),
            "replaced": self.count("camera", "images replaced"),
            "written": self.count("decision log", "decisions written"),
            "lost": self.count("decision log", "decisions lost"),
            "failures": self.count("node", "failures of"),
        }

    def set_room(self, num_bytes: int) -> None:
        """Let the process write files up to this size: on a full disk it ends in half a line and an error as well."""
        assert self.process is not None
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))

    def change_state(self, transition: int) -> bool:
        client = self.peer.create_client(ChangeState, f"{NAME}/change_state")
        self.peer.until(client.service_is_ready, "the service")
        request = ChangeState.Request()
        request.transition.id = transition
        future = client.call_async(request)
        self.peer.until(future.done, "an answer", timeout_s=START_TIMEOUT_S)
        self.peer.destroy_client(client)
        return bool(future.result().success)

    def memory_mb(self) -> float:
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) / 1024


@pytest.fixture
def away(start_graph, bundle: Path, tmp_path: Path) -> Any:
    graph = start_graph(auto_activate=False, listen=False)
    return lambda **settings: Away(graph, tmp_path, **{"bundle": str(bundle), **settings})


def _replays(path: Path) -> int:
    steps = replay(path)
    assert all(step.equal for step in steps)
    return len(steps)


@pytest.mark.parametrize("num", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_a_killed_node_leaves_a_log_that_replays_and_nothing_that_hinders_the_next(away, tmp_path, num: int) -> None:
    log = tmp_path / "decisions.jsonl"
    node = away(decision_log=str(log), decision_log_files=3)
    rng = np.random.default_rng(num)
    for _ in range(num):
        before = node.num_results
        with node.running() as process:
            points: list[OperatingPoint] = []
            latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
            subscription = node.peer.create_subscription(
                OperatingPoint, f"{NAME}/operating_point", points.append, latched
            )
            result = node.answer()
            assert result.lambda_source == OperatingPoint.SOURCE_ADAPTIVE, "the override died with the one before"
            node.peer.until(lambda: points, "the latched point")  # noqa: B023
            assert points[0].lambda_source == OperatingPoint.SOURCE_ADAPTIVE
            assert points[0].reason
            node.peer.destroy_subscription(subscription)
            assert node.call(lambda_value=0.3).success
            assert node.answer().lambda_value == pytest.approx(0.3)
            until_s = time.monotonic() + rng.uniform(0.0, 0.2)
            while time.monotonic() < until_s:
                node.camera.publish(node.peer.make_image())
                node.peer._spinner.spin_once(timeout_sec=0.005)
            process.kill()
            assert process.wait() == -signal.SIGKILL
        node.peer.spin(0.05)
        # Results come first, so the last one may be without its line.
        assert _replays(log) >= node.num_results - before - 1
        assert not any(gap.num_lost for gap in read_recording(log).gaps.values())
    with node.running() as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, (tmp_path / "log").read_text()
    assert _replays(log) > 0


@pytest.mark.parametrize("seconds", [2.0, pytest.param(10.0, marks=pytest.mark.slow)])
def test_a_node_that_was_stopped_goes_on_with_the_present(away, seconds: float) -> None:
    node = away(use_battery=True, camera_timeout_s=0.5)
    with node.running() as process:
        assert node.call(lambda_value=0.2, expiry_s=seconds / 2).success
        node.peer.until(lambda: node.answer().lambda_source == OperatingPoint.SOURCE_OPERATOR, "the override holds")
        process.send_signal(signal.SIGSTOP)
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            node.camera.publish(node.peer.make_image(frame_id="while stopped"))
            node.peer.spin(0.03)
        seen = node.num_results
        process.send_signal(signal.SIGCONT)
        result = node.answer()
        assert node.num_results - seen <= 20, "what piled up is not worked off"
        assert result.lambda_source == OperatingPoint.SOURCE_ADAPTIVE, "the override ended meanwhile"
        assert result.total_ms < 1e3 * seconds
        node.peer.until(
            lambda: (node.answer(), node.peer.diagnoses["camera"].level == DiagnosticStatus.OK)[1], "the camera is well"
        )


def test_a_full_disk_costs_no_image_and_the_log_says_what_it_cost(away, tmp_path: Path) -> None:
    """Regression: 0 of the next 100 images were answered."""
    log = tmp_path / "decisions.jsonl"
    node = away(decision_log=str(log))
    with node.running():
        for _ in range(20):
            node.answer()
        node.set_room(log.stat().st_size + 100)
        for _ in range(100):
            assert node.answer()
        node.peer.until(lambda: node.peer.diagnoses["decision log"].level == DiagnosticStatus.WARN, "diagnostics warn")
        assert "File too large" in node.peer.diagnoses["decision log"].message
        node.set_room(resource.RLIM_INFINITY)
        for _ in range(20):
            node.answer()
        node.peer.until(lambda: node.peer.diagnoses["decision log"].level == DiagnosticStatus.OK, "all is well again")
        node.peer.spin(2.5)  # the diagnostics of the last images
        lost, written = node.count("decision log", "decisions lost"), node.count("decision log", "decisions written")
    assert lost >= 100
    recording = read_recording(log)
    assert [gap.num_lost for gap in recording.gaps.values()] == [lost]
    assert _replays(log) == written


@pytest.mark.parametrize(
    "minutes", [0.1, pytest.param(float(os.environ.get("SOAK_MINUTES", "10")), marks=pytest.mark.slow)]
)
def test_for_minutes_nothing_is_lost_uncounted_and_nothing_grows(away, tmp_path: Path, minutes: float) -> None:
    """30 images a second with damaged ones, signals, overrides, full disks and new files of the log.

    `make soak SOAK_MINUTES=60` runs it for an hour.
    """
    log = tmp_path / "decisions.jsonl"
    node = away(
        decision_log=str(log), decision_log_size_mb=1, decision_log_files=3, use_battery=True, dwell_s=0.5,
        image_reliability="reliable", image_depth=1000,
    )  # fmt: skip
    with node.running():
        node.peer.spin(2.5)  # the diagnostics of the first images, some of which came before the graph was connected
        sent, calls = 0, []
        at_first, results_at_first = node.counts(), node.num_results
        damaged = itertools.chain.from_iterable(malformed_images(seed=seed, num=100) for seed in itertools.count())
        settled_mb, started_s = math.nan, time.monotonic()
        num_calls = num_refused = 0
        is_full = False
        while (elapsed_s := time.monotonic() - started_s) < 60 * minutes:
            node.camera.publish(next(damaged) if sent % 50 == 49 else node.peer.make_image())
            sent += 1
            node.peer.say(confidence=1.0 if int(elapsed_s / 7) % 2 else 0.2)
            node.battery.publish(BatteryState(percentage=0.5 + 0.4 * math.sin(elapsed_s), present=True))
            if sent % 15 == 0:
                expiry_s = 0.2 if sent % 30 else 1e12
                calls.append(node.set_point.call_async(SetOperatingPoint.Request(lambda_value=0.3, expiry_s=expiry_s)))
            done = [call for call in calls if call.done()]
            num_calls += len(done)
            num_refused += sum(not call.result().success for call in done)
            calls = [call for call in calls if not call.done()]
            if is_full != (is_full := elapsed_s % 20 > 17 or (minutes < 1 and 2 < elapsed_s < 4)):
                node.set_room(log.stat().st_size + 50 if is_full and log.exists() else resource.RLIM_INFINITY)
            if math.isnan(settled_mb) and elapsed_s > 60 * min(SETTLED_MINUTES, minutes / 2):
                settled_mb = node.memory_mb()
            node.peer.points.clear()
            node.peer.spin(max(0.001, 1 / 30 - (time.monotonic() - started_s - elapsed_s)))
        node.set_room(resource.RLIM_INFINITY)
        grown_mb = node.memory_mb() - settled_mb
        node.peer.until(lambda: node.counts()["received"] - at_first["received"] >= sent, "every image has arrived")
        node.peer.until(lambda: all(call.done() for call in calls), "each call is answered")
        node.peer.spin(2.5)  # the diagnostics of the last images
        counts = {name: count - at_first[name] for name, count in node.counts().items()}
        num_calls, num_results = num_calls + len(calls), node.num_results - results_at_first
        print(
            f"{minutes:g} minutes: {sent} images sent, {counts}, {num_results} results, "
            f"{node.num_lost_on_the_way} lost on the way; {num_calls} calls answered; {grown_mb:+.1f} MB"
        )
        assert counts["failures"] == 0
        assert "failed" not in node.peer.diagnoses["network"].message
        assert counts["received"] == sent, "each image that was sent is counted as received"
        assert counts["received"] == counts["processed"] + counts["refused"] + counts["replaced"]
        assert counts["written"] + counts["lost"] == counts["processed"]
        assert num_results + node.num_lost_on_the_way == counts["processed"], "and each result has come"
        assert counts["lost"] > 0, "the disk was full at times"
        assert num_refused > 0, "and the wrong ones refused"
        if minutes > SETTLED_MINUTES:
            assert grown_mb <= MAX_GROWTH_MB
    files = sorted(tmp_path.glob("decisions.jsonl*"))
    assert len(files) <= 3
    assert sum(map(_replays, files)) > 0


@pytest.mark.slow
def test_the_tenth_configuration_takes_no_more_memory_than_the_second(away) -> None:
    again = (
        Transition.TRANSITION_DEACTIVATE,
        Transition.TRANSITION_CLEANUP,
        Transition.TRANSITION_CONFIGURE,
        Transition.TRANSITION_ACTIVATE,
    )
    node, used_mb = away(bundle="cifar10-wrn-16-4"), []
    with node.running():
        for number in range(10):
            assert not number or all(map(node.change_state, again))
            node.answer()
            used_mb.append(node.memory_mb())
    print([f"{mb:.1f} MB" for mb in used_mb])
    assert used_mb[9] - used_mb[1] <= MAX_GROWTH_OF_CONFIGURATIONS_MB
