"""Make the benchmark's three measurements, each in its own process, because DDS reads its profile once a process."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rclpy
from ament_index_python.packages import get_package_share_directory

from oat_perception.bench.camera import Camera, Run
from oat_perception.bench.checks import ControlFigures, SizeFigures, StartFigures
from oat_perception.bench.control import Control, prepared_switches, survive_malformed, unprepared_switch
from oat_perception.bench.fallbacks import (
    POLICY_SETTINGS,
    SETTINGS,
    camera_fallback,
    policy_fallback,
    signal_fallbacks,
)
from oat_perception.bench.start import measure_start, summary
from oat_perception.node.processes import module_command, running
from oat_runtime.backends import BackendName
from oat_runtime.operating_point import OperatingPoint
from oat_runtime.report import Report
from oat_runtime.runtime import OATRuntime
from oat_runtime.timing import p50_p99

Backend = BackendName | Literal["auto"]

SIZES = {"224": (224, 224), "vga": (480, 640), "720p": (720, 1280), "1080p": (1080, 1920)}
RATE_HZ = 30.0
_WARM_UP_S = 1.0
_PEAK_LOSS = 0.05
_POINT = OperatingPoint(1.0, 1.0)
_START_BACKEND: Backend = "onnxruntime"
"""The start of this engine's node is measured where `auto` would first compare all of them."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured.

    Attributes:
        sizes: keys of `SIZES`.
        profiles: Fast DDS settings.
        seconds: length of a stretch at 30 Hz; each is measured in two turns.
        peak_seconds: length of a stretch while the peak rate is searched.
        peak_steps: halvings of that search.
        num_switches: λ set by the parameter service.
        num_malformed: malformed images sent.
        num_starts: starts of a node.
    """

    sizes: tuple[str, ...] = tuple(SIZES)
    profiles: tuple[str, ...] = ("shipped", "default")
    seconds: float = 5.0
    peak_seconds: float = 2.0
    peak_steps: int = 5
    num_switches: int = 1000
    num_malformed: int = 10_000
    num_starts: int = 11


FULL = Extent()
QUICK = Extent(
    sizes=("vga",),
    profiles=("shipped",),
    seconds=2.0,
    peak_seconds=1.0,
    peak_steps=4,
    num_switches=100,
    num_malformed=500,
    num_starts=3,
)


def measure_sizes(bundle: Path, profile: str, backend: Backend, extent: Extent) -> list[SizeFigures]:
    """Return the figures of each image size, under one DDS profile. Run this in its own process."""
    runtime = OATRuntime.load(bundle, backend=backend)
    runtime.prepare([_POINT])
    runtime.set_point(lam=_POINT.lam, width=_POINT.width)
    fixed = {"lambda": _POINT.lam, "width": _POINT.width, "probe_period_s": 0.0, "confidence_required": False}
    echo_command = module_command("bench.echo", {})
    with _domain(profile), running(_node(bundle, backend, fixed)) as node, running(echo_command) as echo:
        return [_measure(runtime, size, profile, extent, node_pid=node.pid, echo_pid=echo.pid) for size in extent.sizes]


def _measure(
    runtime: OATRuntime, size: str, profile: str, extent: Extent, *, node_pid: int, echo_pid: int
) -> SizeFigures:
    image_HWC = _picture(SIZES[size])
    node, echo = Camera(image_HWC), Camera(image_HWC, prefix="echo/")
    for camera, pid in ((node, node_pid), (echo, echo_pid)):
        camera.wait_for_answer()
        camera.run(RATE_HZ, _WARM_UP_S, pid=pid)
    echo_runs, node_runs, bare_ms, bare_cpu_s = [], [], [], []
    for _ in range(2):
        echo_runs.append(echo.run(RATE_HZ, extent.seconds, pid=echo_pid))
        node_runs.append(node.run(RATE_HZ, extent.seconds, pid=node_pid))
        taken_ms, cpu_s = _bare(runtime, image_HWC, extent.seconds / 2)
        bare_ms += taken_ms
        bare_cpu_s.append(cpu_s)
    echoes, runs = _joined(echo_runs), _joined(node_runs)
    cpu_s = (echoes.camera_cpu_s + echoes.node_cpu_s) / echoes.num_sent + float(np.mean(bare_cpu_s))
    allowed_hz = len(os.sched_getaffinity(0)) / cpu_s
    peak = _peak(node, extent, allowed_hz, pid=node_pid)
    bare_p50, bare_p99 = p50_p99(bare_ms)
    transport_ms, end_to_end_ms = echoes.end_to_end_ms(50), runs.end_to_end_ms(50)
    overhead_ms = None
    if end_to_end_ms is not None and transport_ms is not None:
        overhead_ms = end_to_end_ms - transport_ms - bare_p50
    for camera in (node, echo):
        camera.destroy_node()
    return SizeFigures(
        size=size,
        profile=profile,
        num_sent=runs.num_sent,
        lost=runs.lost,
        unanswered=runs.unanswered,
        echo_lost=echoes.unanswered,
        end_to_end_ms_p50=end_to_end_ms,
        end_to_end_ms_p95=runs.end_to_end_ms(95),
        end_to_end_ms_p99=runs.end_to_end_ms(99),
        end_to_end_ms_max=runs.end_to_end_ms(100),
        transport_ms_p50=transport_ms,
        bare_ms_p50=bare_p50,
        bare_ms_p99=bare_p99,
        overhead_ms_p50=overhead_ms,
        node_cpu_ms_per_image=1e3 * runs.node_cpu_s / runs.num_sent,
        allowed_hz=allowed_hz,
        peak_hz=peak,
        peak_share=None if peak is None else peak / allowed_hz,
    )


def _bare(runtime: OATRuntime, image_HWC: np.ndarray, seconds: float) -> tuple[list[float], float]:
    """Return the milliseconds of each `predict` on that image at the camera's rate, and the CPU seconds of one call."""
    took_ms, until_s = list[float](), time.monotonic() + seconds
    before_s = time.process_time()
    while time.monotonic() < until_s:
        started_s = time.perf_counter()
        runtime.predict(image_HWC)
        took_ms.append(1e3 * (time.perf_counter() - started_s))
        # A network that rests between images is slower than one that never does; the node's rests.
        time.sleep(max(0.0, 1 / RATE_HZ - took_ms[-1] / 1e3))
    return took_ms[1:], (time.process_time() - before_s) / len(took_ms)


def _joined(runs: list[Run]) -> Run:
    return Run(
        num_sent=sum(run.num_sent for run in runs),
        num_replaced=sum(run.num_replaced for run in runs),
        num_skipped=sum(run.num_skipped for run in runs),
        answers=tuple(answer for run in runs for answer in run.answers),
        camera_cpu_s=sum(run.camera_cpu_s for run in runs),
        node_cpu_s=sum(run.node_cpu_s for run in runs),
        seconds=sum(run.seconds for run in runs),
    )


def _peak(camera: Camera, extent: Extent, allowed_hz: float, *, pid: int) -> float | None:
    """Return the highest rate that leaves at most 5 % of the images without an answer; None: not even a few Hz."""
    best, low_hz, high_hz = None, RATE_HZ, max(RATE_HZ, 1.5 * allowed_hz)
    for step in range(extent.peak_steps + 1):
        rate_hz = low_hz if step == 0 else (low_hz + high_hz) / 2
        answered_hz = _answered_hz(camera, extent, rate_hz, pid=pid)
        if answered_hz is not None:
            best, low_hz = max(best or 0.0, answered_hz), rate_hz
        elif step == 0:
            low_hz, high_hz = 0.0, RATE_HZ
        else:
            high_hz = rate_hz
    return best


def _answered_hz(camera: Camera, extent: Extent, rate_hz: float, *, pid: int) -> float | None:
    """Return the answers a second; None if too few come in two stretches, since other programs may disturb one."""
    for _ in range(2):
        run = camera.run(rate_hz, extent.peak_seconds, pid=pid)
        if run.unanswered <= _PEAK_LOSS:
            return len(run.answers) / run.seconds
    return None


def measure_control(bundle: Path, profile: str, backend: Backend, extent: Extent) -> tuple[ControlFigures, Report]:
    """Measure switches, malformed images and fallbacks, each by itself; the report says why some are missing."""
    image_HWC = _picture((32, 32))
    runtime = OATRuntime.load(bundle, backend=backend)
    settings = {"image_reliability": "reliable", "image_depth": 100, "probe_period_s": 0.0, **SETTINGS}
    report = Report("oat_perception.bench.control")
    late_ms: dict[str, float | None] = dict.fromkeys(("confidence", "battery", "camera", "policy"))
    others = [field.name for field in fields(ControlFigures) if field.name != "late_ms"]
    found: dict[str, Any] = dict.fromkeys(others) | {
        "num_switches": extent.num_switches,
        "num_malformed": extent.num_malformed,
    }
    node = _node(bundle, backend, settings)
    with _domain(profile), running(node), _camera(image_HWC, reliable=True, depth=100) as camera:
        parts: dict[str, Callable[[], None]] = {
            "fallbacks of confidence and battery": lambda: late_ms.update(signal_fallbacks(camera)),
            "fallback of the camera": lambda: late_ms.update(camera=camera_fallback(camera)),
            "λ by parameter": lambda: found.update(_switches(camera, runtime, extent)),
            "λ that was never prepared": lambda: found.update(_unprepared(camera, runtime, image_HWC)),
            "malformed images": lambda: found.update(_malformed(camera, extent)),
        }
        if report.measure("the node's answers", camera.wait_for_answer):
            for part, measure in parts.items():
                report.measure(part, measure)
    node = _node(bundle, backend, POLICY_SETTINGS)
    with _domain(profile), running(node), _camera(image_HWC) as camera:
        report.measure("fallback of the policy", lambda: late_ms.update(policy=policy_fallback(camera)))
    return ControlFigures(late_ms=late_ms, **found), report


def _switches(camera: Camera, runtime: OATRuntime, extent: Extent) -> dict[str, Any]:
    num_effective, reply_ms = prepared_switches(camera, Control(camera), runtime.table.lambdas, num=extent.num_switches)
    reply_p50, reply_p99 = p50_p99(reply_ms)
    return {"num_effective": num_effective, "reply_ms_p50": reply_p50, "reply_ms_p99": reply_p99}


def _unprepared(camera: Camera, runtime: OATRuntime, image_HWC: np.ndarray) -> dict[str, Any]:
    unprepared_s, named_truly = unprepared_switch(camera, Control(camera), runtime, image_HWC)
    return {"unprepared_s": unprepared_s, "named_truly": named_truly}


def _malformed(camera: Camera, extent: Extent) -> dict[str, Any]:
    Control(camera).set_lambda(-1.0)
    num_counted, num_good, num_answered = survive_malformed(camera, num=extent.num_malformed)
    return {"num_counted": num_counted, "num_good": num_good, "num_answered": num_answered}


@contextlib.contextmanager
def _camera(image_HWC: np.ndarray, *, reliable: bool = False, depth: int = 5) -> Iterator[Camera]:
    camera = Camera(image_HWC, reliable=reliable, depth=depth)
    try:
        yield camera
    finally:
        camera.destroy_node()


def measure_starts(bundle: Path, profile: str, backend: Backend, extent: Extent) -> StartFigures:
    """Return median and worst of several starts of the node, after one start that fills the file caches."""
    backend = _START_BACKEND if backend == "auto" else backend
    with _domain(profile):
        camera = Camera(_picture((32, 32)))
        command = _node(bundle, backend, {})
        starts = [measure_start(camera, command) for _ in range(1 + extent.num_starts)][1:]
        camera.destroy_node()
    return StartFigures(num_starts=len(starts), backend=backend, **summary(starts))


def _picture(size_hw: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*size_hw, 3), dtype=np.uint8)


@contextlib.contextmanager
def _domain(profile: str) -> Iterator[None]:
    config = Path(get_package_share_directory("oat_perception")) / "config"
    for name in ("FASTRTPS", "FASTDDS"):  # up to Jazzy, and later
        variable = f"{name}_DEFAULT_PROFILES_FILE"
        os.environ.pop(variable, None)
        if profile == "shipped":
            os.environ[variable] = str(config / "fastdds.xml")
    rclpy.init()
    try:
        yield
    finally:
        rclpy.try_shutdown()


def _node(bundle: Path, backend: Backend, settings: Mapping[str, Any]) -> list[str]:
    given = {"bundle": str(bundle), "auto_activate": True, "backend": backend, **settings}
    return module_command("perception_node", given)
