"""What documents, launch files and the robot's files start is in the built package, and starts."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "ros2_ws" / "src" / "oat_perception"
PAGES = [
    ROOT / "README.md",
    ROOT / "Makefile",
    *(path for folder in ("docs", "examples") for path in (ROOT / folder).rglob("*") if path.suffix in (".md", ".py")),
    *(path for path in PACKAGE.rglob("*") if path.suffix in (".md", ".py", ".sh", ".service", ".yaml")),
]
HELP = ["--help"], 0, "usage:"
ROS_HELP = ["--ros-args", "-p", "x:=1", "--help"], 0, "usage:"
NO_FILE = ["--ros-args", "--params-file", "/nowhere"], 2, "/nowhere"
NO_ARGUMENT = ["bundle=x"], 2, "unrecognized arguments: bundle=x (see --help)"
MODULES = ("bench", "camera_replay_node", "console", "demo", "perception_node")
STARTS = [
    *((module, HELP) for module in ("bench", "demo")),
    *((module, ROS_HELP) for module in ("bench.echo", "camera_replay_node", "console", "perception_node")),
    *((module, NO_FILE) for module in ("camera_replay_node", "perception_node")),
    ("perception_node", NO_ARGUMENT),
]


def _named(pattern: str) -> set[str]:
    return {name for page in PAGES for name in re.findall(pattern, page.read_text())}


def test_each_documented_module_is_tried_here() -> None:
    assert _named(r"-m oat_perception\.(\w+)") == set(MODULES)


@pytest.mark.parametrize(("module", "start"), STARTS)
def test_a_documented_module_starts_and_explains_itself(module: str, start: tuple[list[str], int, str]) -> None:
    arguments, status, words = start
    command = [sys.executable, "-m", f"oat_perception.{module}", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == status, ended.stderr
    assert words in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr


def test_each_executable_that_is_named_is_installed_and_has_a_main() -> None:
    scripts = {script.name: script for script in distribution("oat_perception").entry_points}
    named = _named(r'executable="(\w+)"|ros2 run oat_perception (\w+)|lib/oat_perception/(\w+)')
    assert named and {name for names in named for name in names if name} <= scripts.keys() == set(MODULES)
    assert all(callable(script.load()) for script in scripts.values())


def test_each_folder_of_modules_is_a_package_so_that_it_is_installed() -> None:
    folders = {path.parent for path in (PACKAGE / "oat_perception").rglob("*.py")}
    assert len(folders) > 1 and all((folder / "__init__.py").is_file() for folder in folders)
