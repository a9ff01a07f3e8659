"""Measures the node from outside: images over DDS to a node in a process of its own, and its answers back.

`python -m oat_perception.bench --bundle bundles/<name> [--quick]`: loss, end-to-end latency and the node's share of it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from oat_msgs.msg import Perception
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rich.console import Console
from rich.table import Table
from sensor_msgs.msg import Image

_SIZES = {"vga": (480, 640), "720p": (720, 1280)}
_RATE_HZ = 30.0
_WARM_UP_S = 1.0
_START_TIMEOUT_S = 120.0
_PROFILE = Path(__file__).parents[1] / "config" / "fastdds.xml"


@dataclass(frozen=True, slots=True)
class Sample:
    """One answered image: milliseconds from publishing it to its answer, and as the node tells them."""

    end_to_end_ms: float
    total_ms: float
    preprocess_ms: float
    inference_ms: float


class Probe(Node):
    """Camera and listener in one; an image's stamp finds its answer again."""

    def __init__(self, size_hw: tuple[int, int]) -> None:
        """Connect to the node."""
        super().__init__("bench")
        height, width = size_hw
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        self._image = Image(height=height, width=width, encoding="rgb8", step=3 * width, data=pixels.tobytes())
        self._camera = self.create_publisher(Image, "image", qos_profile_sensor_data)
        self._sent_s: dict[int, float] = {}
        self.samples: dict[int, Sample] = {}
        self.create_subscription(Perception, "oat_perception/perception", self._on_result, 50)
        self._spinner = SingleThreadedExecutor()
        self._spinner.add_node(self)

    def run(self, seconds: float) -> int:
        """Publish at the camera's rate; returns how many."""
        start_s, count = time.monotonic(), 0
        while count < seconds * _RATE_HZ:
            due_s = start_s + count / _RATE_HZ
            while (left_s := due_s - time.monotonic()) > 0:
                self._spinner.spin_once(timeout_sec=left_s)
            stamp = self.get_clock().now().to_msg()
            self._image.header.stamp = stamp
            self._sent_s[stamp.sec * 10**9 + stamp.nanosec] = time.monotonic()
            self._camera.publish(self._image)
            count += 1
        until_s = time.monotonic() + 0.5
        while time.monotonic() < until_s:
            self._spinner.spin_once(timeout_sec=0.05)
        return count

    def wait_for_node(self) -> None:
        """Publish until the first answer."""
        until_s = time.monotonic() + _START_TIMEOUT_S
        while not self.samples:
            if time.monotonic() > until_s:
                raise TimeoutError(f"the node gave no answer within {_START_TIMEOUT_S:.0f} s")
            self.run(0.2)
        self.run(_WARM_UP_S)
        self._sent_s.clear()
        self.samples.clear()

    def _on_result(self, message: Perception) -> None:
        key = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        if key in self._sent_s:
            end_to_end_ms = 1e3 * (time.monotonic() - self._sent_s[key])
            self.samples[key] = Sample(end_to_end_ms, message.total_ms, message.preprocess_ms, message.inference_ms)


def measure(bundle: Path, size: str, *, profile: str, seconds: float, backend: str) -> dict[str, Any]:
    """One row: a fresh node process and one image size.

    Args:
        bundle: the network.
        size: a key of the sizes above.
        profile: `shipped` or `default` Fast DDS settings, on both sides.
        seconds: how long.
        backend: the node's inference engine.
    """
    os.environ.pop("FASTRTPS_DEFAULT_PROFILES_FILE", None)
    if profile == "shipped":
        os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"] = str(_PROFILE)
    command = [sys.executable, "-m", "oat_perception.perception_node", "--ros-args", "--log-level", "warn"]
    for name, value in (("bundle", bundle), ("auto_activate", "true"), ("backend", backend), ("probe_period_s", 0.0)):
        command += ["-p", f"{name}:={value}"]
    process = subprocess.Popen(command)
    rclpy.init()
    try:
        probe = Probe(_SIZES[size])
        probe.wait_for_node()
        num_sent = probe.run(seconds)
        samples = list(probe.samples.values())
        probe.destroy_node()
    finally:
        rclpy.try_shutdown()
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)
    row: dict[str, Any] = {"size": size, "profile": profile, "num_sent": num_sent, "loss": 1 - len(samples) / num_sent}
    columns = {
        "end_to_end_ms": [s.end_to_end_ms for s in samples],
        "node_total_ms": [s.total_ms for s in samples],
        "inference_ms": [s.inference_ms for s in samples],
        "node_overhead_ms": [s.total_ms - s.inference_ms for s in samples],
    }
    for name, values in columns.items():
        for percent in (50, 99):
            row[f"{name}_p{percent}"] = float(np.percentile(values, percent)) if values else None
    return row


def main(argv: list[str] | None = None) -> int:
    """Print a table for people, then one JSON line."""
    parser = argparse.ArgumentParser(prog="oat_perception.bench", description=__doc__)
    parser.add_argument("--bundle", type=Path, help="folder of a bundle; default: the first one under bundles/")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--quick", action="store_true", help="one size, a few seconds")
    options = parser.parse_args(argv)
    bundle = options.bundle or next((path.parent for path in sorted(Path("bundles").glob("*/manifest.json"))), None)
    if bundle is None:
        parser.error("no bundle under bundles/: pass --bundle")
    cases = [("vga", "shipped")] if options.quick else [(s, p) for s in _SIZES for p in ("shipped", "default")]
    seconds = 5.0 if options.quick else 20.0
    rows = [measure(bundle, size, profile=profile, seconds=seconds, backend=options.backend) for size, profile in cases]
    table = Table(title=f"{bundle.name}, {_RATE_HZ:g} Hz, {options.backend}")
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()))
    Console().print(table)
    machine = {"cpu": platform.processor() or platform.machine(), "num_cores": len(os.sched_getaffinity(0))}
    overhead_ms = rows[0]["node_overhead_ms_p50"]
    checks = [
        {"name": "loss, VGA, shipped profile", "value": rows[0]["loss"], "limit": 0.0, "unit": "",
         "ok": rows[0]["loss"] <= 0.0},
        {"name": "node overhead p50, VGA, shipped profile", "value": overhead_ms, "limit": 2.0, "unit": "ms",
         "ok": overhead_ms is not None and overhead_ms <= 2.0},
    ]  # fmt: skip
    print(json.dumps({"name": "oat_perception.bench", "machine": machine, "rows": rows, "checks": checks}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
