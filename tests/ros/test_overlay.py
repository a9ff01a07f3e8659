"""Brings the stand-in for vision_msgs where there is none, and runs test_vision.py in an environment that has it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

VISION_ENV = Path(__file__).parents[2] / "tools" / "vision_env.sh"


@pytest.mark.skipif(find_spec("vision_msgs") is not None, reason="vision_msgs is here: test_vision.py runs by itself")
def test_the_node_works_with_vision_msgs_too() -> None:
    script = shlex.quote(str(VISION_ENV))
    tests = shlex.quote(str(Path(__file__).with_name("test_vision.py")))
    command = f". {script} && exec {shlex.quote(sys.executable)} -m pytest -q -p no:cacheprovider {tests}"
    run = subprocess.run(["bash", "-c", command], env=dict(os.environ), capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"\d+ passed", run.stdout) and "skipped" not in run.stdout, run.stdout
