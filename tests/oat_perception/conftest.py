"""Finds oat_perception in the sources, so that its parts without ROS are tested where no workspace is sourced."""

import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("oat_perception") is None:
    sys.path.insert(0, str(Path(__file__).parents[2] / "ros2_ws" / "src" / "oat_perception"))
