"""Builds a stand-in for vision_msgs where there is none, and runs test_vision.py in an environment that has it."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SOURCES = Path(__file__).parent / "overlay"
WORKSPACE = Path(__file__).parents[2] / "ros2_ws"


def build_overlay() -> Path:
    """The set-up script of the built stand-in; it is built once for each state of its sources."""
    files = sorted(path for path in SOURCES.rglob("*") if path.is_file())
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]
    folder = WORKSPACE / "build" / f"overlay-{digest}"
    script = folder / "install" / "local_setup.bash"
    if not (folder / "built").exists():
        command = [
            "colcon",
            "--log-base",
            str(folder / "log"),
            "build",
            "--base-paths",
            str(SOURCES),
            "--merge-install",
        ]
        command += ["--build-base", str(folder / "build"), "--install-base", str(folder / "install")]
        command += ["--cmake-args", "-DBUILD_TESTING=OFF", "-DCMAKE_BUILD_TYPE=Release"]
        built = subprocess.run(command, cwd=WORKSPACE, capture_output=True, text=True, check=False)
        assert built.returncode == 0, built.stdout + built.stderr
        (folder / "built").touch()
    return script


@pytest.mark.skipif(find_spec("vision_msgs") is not None, reason="vision_msgs is here: test_vision.py runs by itself")
def test_the_node_works_with_vision_msgs_too() -> None:
    script = shlex.quote(str(build_overlay()))
    tests = shlex.quote(str(Path(__file__).with_name("test_vision.py")))
    command = f". {script} && exec {shlex.quote(sys.executable)} -m pytest -q -p no:cacheprovider {tests}"
    run = subprocess.run(["bash", "-c", command], env=dict(os.environ), capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"\d+ passed", run.stdout) and "skipped" not in run.stdout, run.stdout
