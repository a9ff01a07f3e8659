"""Run the demo once: the nodes play the day, every answer is recorded, then come the comparison and the report."""

from __future__ import annotations

import json
import os
import platform
import secrets
import shlex
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import rclpy
from rclpy.signals import SignalHandlerOptions
from rich.console import Console
from rich.progress import Progress

from oat_perception.core.parameters import SPECS, policy_config
from oat_perception.demo.checks import DayCheck, check_day
from oat_perception.demo.client import CAMERA, PERCEPTION, DemoClient
from oat_perception.demo.days import Day, Images
from oat_perception.demo.live_view import LiveView
from oat_perception.demo.report import PICTURE, write_report
from oat_perception.demo.run_record import (
    DECISIONS,
    FIXED,
    RESULTS,
    SUMMARY,
    TRUTH,
    Record,
    ReplayedFrame,
    Run,
    joined,
    load_run,
    plain,
    write_lines,
)  # fmt: skip
from oat_perception.node import messages
from oat_perception.node.processes import Nodes, started
from oat_perception.replay.scenario import Scenario
from oat_runtime.bundle import Bundle
from oat_runtime.errors import ConfigError, OATError
from oat_runtime.extras import require
from oat_runtime.files import write_whole
from oat_runtime.runtime import OATRuntime
from policy.config import PolicyConfig

_START_TIMEOUT_S = 180.0
_SILENCE_TIMEOUT_S = 15.0
_REFRESH_S = 0.25
_WIDTH_DWELL_S = 3.0  # 10 on a robot; here a battery empties in seconds
_HIGHEST_DOMAIN_ID = 101  # above it, DDS ports meet the ephemeral ones


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command line."""

    day: Day
    bundle: Path
    output: Path
    scenario: Scenario
    seconds_per_phase: float
    rate_hz: float
    seed: int
    arguments: tuple[str, ...]


def run(options: Options, console: Console) -> tuple[DayCheck, ...]:
    """Play the day, compare, write everything to the output folder, and check it.

    Raises:
        OATError: the bundle is damaged or of other images than the demo's, a node died, nothing was answered, or
            something needed is missing.
    """
    class_names = _check(options)
    # In this process, before the camera needs them: a download should be seen, and happen once.
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("Images", total=None)
        images = options.day.find(lambda done, of: progress.update(task, completed=done, total=of))
    folder = _fresh_folder(options.output)
    console.print(f"Bundle {options.bundle.name}, output in {folder}")
    _act(options, folder, images, class_names, console)
    _compare(options, folder, images, load_run(folder, options.scenario).frames, console)
    done = load_run(folder, options.scenario)
    checks = check_day(done, folder / DECISIONS, bundle=options.bundle, config=_policy_config(options.day))
    _write_summary(options, folder, done, images.origin, checks)
    report = write_report(folder)
    for check in checks:
        console.print(
            f"{'✓' if check.ok else '✗'} {check.name}: {check.detail}",
            style="" if check.ok else "red",
            soft_wrap=True,
        )
    console.print(f"Report: {report}", soft_wrap=True)
    return checks


def _check(options: Options) -> tuple[str, ...]:
    """Refuse what cannot end well before an earlier run's files are removed. Return the bundle's class names."""
    day, bundle = options.day, Bundle.load(options.bundle)
    dataset = bundle.manifest.provenance.dataset
    if dataset.partition("@")[0] != day.dataset or bundle.class_names != day.class_names:
        raise ConfigError(
            f"this demo plays {day.images}, and {options.bundle.name} was trained on {dataset}: choose another "
            "--bundle, or play images of your own with camera_replay's `source`"
        )
    require("torch", extra="torch", by="the demo's attacker")
    if day.has_regions and messages.vision is None:
        raise ConfigError(
            "a robot's frames go over ROS with their boxes, which needs vision_msgs: run `make demo "
            "DEMO_ARGS=--robot`, which brings it, or install ros-jazzy-vision-msgs"
        )
    return bundle.class_names


def _fresh_folder(folder: Path) -> Path:
    """Remove the files of an earlier run, and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (TRUTH, RESULTS, DECISIONS, FIXED, SUMMARY, "report.html", "timeline.png", PICTURE):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "frames", ignore_errors=True)
    return folder


def _act(options: Options, folder: Path, images: Images, class_names: Sequence[str], console: Console) -> None:
    """Run both nodes through the scenario, and leave truth, frames, decisions and results in `folder`."""
    # A domain of its own on the loopback interface: no robot and no other demo is disturbed.
    os.environ["ROS_DOMAIN_ID"] = str(1 + secrets.randbelow(_HIGHEST_DOMAIN_ID))
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ["ROS_STATIC_PEERS"] = ""
    # Logs of the nodes go to files here; rcl would write them to the home folder too.
    rclpy.init(args=["--ros-args", "--disable-external-lib-logs"], signal_handler_options=SignalHandlerOptions.NO)
    client = DemoClient(class_names, regions=options.day.has_regions)
    try:
        with started(_parameters(options, folder, images), folder) as nodes:
            with console.status("Starting the nodes"):
                client.wait_until_ready(timeout_s=_START_TIMEOUT_S, alive=nodes.check)
            with LiveView(options.day.title, options.scenario, console) as view:
                _follow(options.scenario, folder, client, nodes, view)
    finally:
        write_lines(folder / RESULTS, client.results_with_reasons())
        client.destroy_node()
        rclpy.try_shutdown()


def _parameters(options: Options, folder: Path, images: Images) -> dict[str, dict[str, Any]]:
    return {
        "perception_node": {
            **_node_settings(options.day),
            "bundle": str(options.bundle),
            "decision_log": str(folder / DECISIONS),
        },
        "camera_replay_node": {
            **images.camera,
            "bundle": str(options.bundle),
            "perception_node": PERCEPTION,
            "scenario": options.day.name,
            "seconds_per_phase": options.seconds_per_phase,
            "rate_hz": options.rate_hz,
            "seed": options.seed,
            "truth_file": str(folder / TRUTH),
            "frames_dir": str(folder / "frames"),
            "playing": False,
        },
    }


def _node_settings(day: Day) -> dict[str, Any]:
    """Return the node's parameters that differ from their defaults."""
    return {
        **day.settings,
        "auto_activate": True,
        "always_process": True,
        "use_battery": True,
        "width_dwell_s": _WIDTH_DWELL_S,
        # One core is left to camera and attacker, which on a robot would not be there.
        "num_threads": max(1, len(os.sched_getaffinity(0)) - 1),
    }


def _policy_config(day: Day) -> PolicyConfig:
    return policy_config({spec.name: spec.default for spec in SPECS} | _node_settings(day))


def _follow(scenario: Scenario, folder: Path, client: DemoClient, nodes: Nodes, view: LiveView) -> None:
    """Let the day run, act as the operator when the script says so, and show what happens."""
    client.set_on(CAMERA, {"playing": True})
    started_s = time.monotonic()
    phase = scenario.phases[0]
    while not nodes.ended("camera_replay_node"):
        nodes.check()
        client.spin(_REFRESH_S)
        frames = _so_far(folder, client.results)
        elapsed_s = time.monotonic() - started_s
        if not client.results and elapsed_s > _SILENCE_TIMEOUT_S:
            raise OATError(
                f"no result within {_SILENCE_TIMEOUT_S:.0f} s, {len(frames)} images sent: see the *.log files"
            )
        if elapsed_s > scenario.duration_s + _SILENCE_TIMEOUT_S:
            raise OATError(f"the day should have ended after {scenario.duration_s:.0f} s: see camera_replay_node.log")
        present = scenario.phase(frames[-1].truth["phase"]) if frames else phase
        if present.manual is not None and phase.manual is None:
            client.set_on(PERCEPTION, {"lambda": present.manual.lam, "width": present.manual.width})
        elif present.manual is None and phase.manual is not None:
            client.set_on(PERCEPTION, {"lambda": -1.0, "width": -1.0})
        phase = present
        view.show(frames, reason=client.latest_reason, elapsed_s=elapsed_s)
    client.spin(1.0)  # the last answers
    frames = _so_far(folder, client.results)
    view.show(frames, reason=client.latest_reason, elapsed_s=scenario.duration_s)
    view.finish(frames)


def _so_far(folder: Path, results: Sequence[Record]) -> tuple[ReplayedFrame, ...]:
    """Return the published images with the answers so far; a half-written line is left for later."""
    path = folder / TRUTH
    text = path.read_text() if path.is_file() else ""
    truth = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return joined(truth, {result["stamp_ns"]: result for result in results}, {})


def _compare(options: Options, folder: Path, images: Images, frames: Sequence[ReplayedFrame], console: Console) -> None:
    """Write what other operating points say of the same images."""
    import torch

    from oat_perception.demo.comparison import other_answers
    from oat_perception.replay.attacker import Attacker

    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("The same images at other points", total=len(frames))
        torch.set_num_threads(1)  # one small image at a time: more threads only wait for one another
        backend = options.day.settings.get("backend", "auto")
        runtime = OATRuntime.load(options.bundle, backend=backend, num_threads=1)
        try:
            answers = other_answers(
                frames,
                frames_dir=folder / "frames",
                clean=images.clean,
                runtime=runtime,
                attacker=Attacker(options.bundle),
                config=_policy_config(options.day),
                seed=options.seed,
                progress=lambda done: progress.update(task, completed=done),
            )
        finally:
            runtime.close()
    write_lines(folder / FIXED, answers)


def _write_summary(options: Options, folder: Path, run: Run, origin: str, checks: Sequence[DayCheck]) -> None:
    """Write the numbers of the run as one JSON object."""
    from oat_perception.replay.attacker import PGD10

    bundle = Bundle.load(options.bundle)
    rows = [run.counts(phase) for phase in (*options.scenario.phases, None)]
    summary = {
        "name": "demo",
        "finished": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "oat_perception.demo", *options.arguments]),
        "day": options.day.name,
        "settings": _node_settings(options.day),
        "bundle": options.bundle.name,
        "bundle_sha256": bundle.sha256,
        "images": origin,
        "seed": options.seed,
        "rate_hz": options.rate_hz,
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} CPUs, Python {platform.python_version()}",
        "attack": PGD10.model_dump(),
        "input": bundle.input.model_dump(mode="json"),
        "scenario": options.scenario.model_dump(mode="json"),
        "phases": [counts.as_json() for counts in rows],
        "switches": [switch.as_json() for switch in run.switches],
        "checks": [{"name": check.name, "ok": check.ok, "detail": check.detail} for check in checks],
    }
    write_whole(folder / SUMMARY, json.dumps(plain(summary), indent=1, allow_nan=False) + "\n")
