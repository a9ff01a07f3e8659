"""The node starts from nothing, as a process of its own, and answers; the benchmark measures how long that takes."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import pytest
import rclpy
from oat_perception.bench.camera import Camera
from oat_perception.bench.start import measure_start, summary
from oat_perception.node.processes import module_command

from oat_runtime import SHIPPED_BUNDLE
from oat_runtime.errors import OATError
from tests.ros.domains import next_domain


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> Iterator[Camera]:
    """A camera in a domain of its own."""
    monkeypatch.setenv("ROS_DOMAIN_ID", str(next_domain()))
    rclpy.init()
    camera = Camera(np.zeros((32, 32, 3), np.uint8))
    yield camera
    camera.destroy_node()
    rclpy.try_shutdown()


def test_the_shipped_network_answers_again_and_again(camera: Camera) -> None:
    command = module_command(
        "perception_node", {"bundle": str(SHIPPED_BUNDLE), "auto_activate": True, "backend": "onnxruntime"}
    )
    starts = [measure_start(camera, command) for _ in range(2)]
    assert all(0 < start.cpu_s < 4 * start.wall_s and start.rss_mb > 10 for start in starts)
    found = summary(starts)
    assert found["wall_s_max"] == max(start.wall_s for start in starts) >= found["wall_s_p50"]


def test_a_node_that_ends_before_its_first_result_is_no_start(camera: Camera) -> None:
    with pytest.raises(OATError, match="ended with status 3 before its first result"):
        measure_start(camera, [sys.executable, "-c", "raise SystemExit(3)"])
