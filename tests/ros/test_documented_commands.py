"""The documented commands of nodes run on a graph as they are typed, each in a shell that `tools/ros_env.sh` set up."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.commands.marked import ON_THE_GRAPH
from tests.commands.reading import ROOT
from tests.ros.domains import next_domain

NODE, WATCH, REPLAY_SETTINGS, SETTINGS = ON_THE_GRAPH
_TIMEOUT_S = 120.0
_Start = Callable[[str], "tuple[subprocess.Popen[bytes], Path]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[_Start]:
    """Start a command in a shell of its own, in this test's domain: (its process, the file with what it prints)."""
    environment = {**os.environ, "ROS_DOMAIN_ID": str(next_domain()), "OMP_NUM_THREADS": "1"}
    environment |= {"XDG_CACHE_HOME": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    processes: list[subprocess.Popen[bytes]] = []

    def start(command: str) -> tuple[subprocess.Popen[bytes], Path]:
        printed = tmp_path / f"{len(processes)}.txt"
        shell = ["bash", "-c", f". tools/ros_env.sh\n{command}"]
        with printed.open("wb") as stream:
            process = subprocess.Popen(
                shell, cwd=ROOT, env=environment, stdout=stream, stderr=stream, start_new_session=True
            )
        processes.append(process)
        return process, printed

    yield start
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _until_printed(pattern: str, printed: Path) -> None:
    until_s = time.monotonic() + _TIMEOUT_S
    while not re.search(pattern, printed.read_text()):
        assert time.monotonic() < until_s, f"{pattern} never came:\n{printed.read_text()}"
        time.sleep(0.1)


def test_a_camera_a_node_and_a_console_find_each_other(start: _Start, tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(20):
        cv2.imwrite(str(frames / f"{number}.png"), np.full((48, 64, 3), 40 + 8 * number, np.uint8))
    camera, _ = start(f"python -m oat_perception.camera_replay_node --ros-args -p source:={frames}")
    node, node_printed = start(NODE)
    console, console_printed = start(WATCH)
    _until_printed(r"images/s", console_printed)
    for command in (REPLAY_SETTINGS, SETTINGS):
        process, printed = start(command)
        assert process.wait(_TIMEOUT_S) == 0, printed.read_text()
    _until_printed(r"λ 0\.8.*images/s", console_printed)
    for process, printed in ((console, console_printed), (node, node_printed)):
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(_TIMEOUT_S) == 0, printed.read_text()
        assert "Traceback" not in printed.read_text()
    assert camera.poll() is None
