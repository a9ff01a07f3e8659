"""Measure the time from the start of the node's process to its first result, and the CPU time and memory by then."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from oat_perception.bench.camera import START_TIMEOUT_S, Camera, cpu_s
from oat_perception.node.processes import running
from oat_runtime.devices import resident_mb
from oat_runtime.errors import OATError

_IMAGE_PERIOD_S = 0.01
"""Time between images, so that the node's first image is at most this late."""


@dataclass(frozen=True, slots=True)
class Start:
    """One start of a node.

    Attributes:
        wall_s: seconds from the start of its process to the arrival of its first result.
        cpu_s: CPU seconds of the process by then, of user and system.
        rss_mb: its resident memory then, in megabytes.
    """

    wall_s: float
    cpu_s: float
    rss_mb: float


def measure_start(
    camera: Camera, command: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> Start:
    """Start a node, send it images until its first result arrives, and end it.

    Args:
        camera: sends the images and hears the results; no other node in its domain may answer.
        command: starts the node.
        cwd: the folder that it runs in; None: this process's.
        env: its environment; None: this process's.

    Raises:
        OATError: the node ended, or no result came in time.
    """
    camera.wait(lambda: not camera.images.get_subscription_count(), "the node before has left the graph")
    camera.forget()
    started_s = time.monotonic()
    with running(command, cwd=cwd, env=env) as process:
        due_s = started_s
        while not camera.answers:
            now_s = time.monotonic()
            if process.poll() is not None:
                raise OATError(f"the node ended with status {process.returncode} before its first result")
            if now_s > started_s + START_TIMEOUT_S:
                raise OATError(f"no result within {START_TIMEOUT_S:.0f} s of starting")
            if now_s >= due_s and camera.images.get_subscription_count():
                camera.send()
                due_s = now_s + _IMAGE_PERIOD_S
            camera.spinner.spin_once(timeout_sec=_IMAGE_PERIOD_S)
        wall_s = time.monotonic() - started_s
        return Start(wall_s, cpu_s(process.pid), resident_mb(process.pid) or float("nan"))


def summary(starts: Sequence[Start]) -> dict[str, float]:
    """Return median and worst of each measurement."""
    found: dict[str, float] = {}
    for name in ("wall_s", "cpu_s", "rss_mb"):
        values = [getattr(start, name) for start in starts]
        found |= {f"{name}_p50": float(np.median(values)), f"{name}_max": max(values)}
    return found
