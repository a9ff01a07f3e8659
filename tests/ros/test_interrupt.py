"""SIGINT at any moment ends each of the package's processes with status 0 and without a traceback."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from oat_perception.node.processes import module_command

from tests.ros.domains import next_domain

_AT_A_TIME = 4
_START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 60.0


def _begun(pid: int) -> bool:
    """Whether the process makes its node: the middleware's threads are there."""
    try:
        return any(file.read_text().startswith("dds") for file in Path(f"/proc/{pid}/task").glob("*/comm"))
    except FileNotFoundError:  # a thread ended, or the process did, as its status will say
        return not Path(f"/proc/{pid}").exists()


def _interrupt(module: str, settings: dict[str, object], delays_s: np.ndarray, folder: Path) -> None:
    """Start a process for each delay, and interrupt it so long after it began to make its node."""
    command = module_command(module, settings)
    environment = {**os.environ, "ROS_DOMAIN_ID": str(next_domain()), "OMP_NUM_THREADS": "1"}
    logs = [folder / f"{delay_s}.log" for delay_s in delays_s]
    processes = []
    try:
        for log in logs:
            with log.open("w") as stream:
                processes.append(subprocess.Popen(command, env=environment, stdout=stream, stderr=stream))
        until_s = time.monotonic() + _START_TIMEOUT_S
        waiting = dict(zip(processes, delays_s, strict=True))
        while waiting:
            assert time.monotonic() < until_s, "main never began"
            for process in [process for process in waiting if _begun(process.pid)]:
                time.sleep(waiting.pop(process))
                process.send_signal(signal.SIGINT)
            time.sleep(0.001)
        for process, log in zip(processes, logs, strict=True):
            assert process.wait(_STOP_TIMEOUT_S) == 0, log.read_text()
            assert "Traceback" not in log.read_text(), log.read_text()
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.parametrize("num", [_AT_A_TIME, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("module", "settings"),
    [
        (
            "perception_node",
            {"auto_activate": True, "always_process": True, "backend": "onnxruntime", "num_threads": 1},
        ),
        ("camera_replay_node", {"source": "foolbox", "wait_for_subscriber": False, "rate_hz": 500.0}),
        ("bench.echo", {}),
        ("console", {}),
    ],
)
def test_an_interrupt_ends_a_process_well_whenever_it_comes(module, settings, num, bundle, tmp_path) -> None:
    if module == "perception_node":
        settings = settings | {"bundle": str(bundle)}
    rng = np.random.default_rng(num)
    for _ in range(num // _AT_A_TIME):
        # Half of them within the first moments, when the node is made; the others while it loads or runs.
        delays_s = np.concatenate([rng.uniform(0, 0.05, _AT_A_TIME // 2), rng.uniform(0, 1.5, _AT_A_TIME // 2)])
        _interrupt(module, settings, delays_s, tmp_path)


def test_a_second_signal_on_the_way_out_changes_nothing(bundle: Path, tmp_path: Path) -> None:
    """Regression: it met Python's own handlers, or none, and the status was 1, -2 or -15."""
    settings = {"bundle": str(bundle), "backend": "onnxruntime", "num_threads": 1, "auto_activate": True}
    environment = {**os.environ, "ROS_DOMAIN_ID": str(next_domain()), "OMP_NUM_THREADS": "1"}
    for first, second in itertools.product((signal.SIGINT, signal.SIGTERM), repeat=2):
        log = tmp_path / f"{first}{second}.log"
        with log.open("w") as stream:
            process = subprocess.Popen(module_command("perception_node", settings), env=environment, stderr=stream)
        try:
            until_s = time.monotonic() + _START_TIMEOUT_S
            while not _begun(process.pid):
                assert time.monotonic() < until_s, "the node is not made"
                time.sleep(0.01)
            process.send_signal(first)
            time.sleep(0.02)
            process.send_signal(second)
            assert process.wait(_STOP_TIMEOUT_S) == 0, log.read_text()
            assert "Traceback" not in log.read_text(), log.read_text()
        finally:
            process.kill()
            process.wait()


STUCK = """
import time
from oat_perception.node.spin import spin
from rclpy.node import Node

class Stuck(Node):
    def destroy_node(self):
        print("stuck", flush=True)
        while True:
            time.sleep(0.1)

spin(lambda: Stuck("stuck"), name="stuck")
"""


def test_a_node_that_hangs_on_its_way_out_ends_with_the_third_interrupt() -> None:
    environment = {**os.environ, "ROS_DOMAIN_ID": str(next_domain())}
    process = subprocess.Popen([sys.executable, "-c", STUCK], env=environment, stdout=subprocess.PIPE)
    try:
        until_s = time.monotonic() + _START_TIMEOUT_S
        while not _begun(process.pid):
            assert time.monotonic() < until_s, "the node is not made"
            time.sleep(0.01)
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.readline() == b"stuck\n"
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert process.poll() is None, "two may come of one Ctrl-C: from the terminal and from ros2 launch"
        process.send_signal(signal.SIGINT)
        assert process.wait(_STOP_TIMEOUT_S) == -signal.SIGINT
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


ENDED = """
from oat_perception.node.spin import spin
from rclpy.node import Node

executors = []
spin(lambda: Node("ended"), name="ended", outcome=lambda node: executors.append(node.executor) or 0)
print(executors[0]._is_shutdown)
"""


def test_a_node_that_ended_leaves_nothing_of_its_executor_to_the_garbage_collector() -> None:
    """Regression: rclpy's finalizers, which run in any order, printed a traceback after some clean ends."""
    environment = {**os.environ, "ROS_DOMAIN_ID": str(next_domain())}
    ended = subprocess.run(
        [sys.executable, "-c", ENDED], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert ended.stdout.strip() == "True"
