"""Finds oat_perception in the sources, so that its parts without ROS are tested where no workspace is sourced."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from oat_runtime.data import ImageSet

if TYPE_CHECKING:
    from oat_perception.replay.attacker import Attacker

if find_spec("oat_perception") is None:
    sys.path.insert(0, str(Path(__file__).parents[2] / "ros2_ws" / "src" / "oat_perception"))


@pytest.fixture(scope="session")
def attacker(tiny_bundle: Path) -> Attacker:
    """An attacker of the tiny bundle; needs torch."""
    from oat_perception.replay.attacker import Attacker

    return Attacker(tiny_bundle)


@pytest.fixture(scope="session")
def images() -> ImageSet:
    """Six smooth images of the tiny bundle's input size, with labels."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (6, 4, 4, 3), np.uint8)
    smooth = np.stack([cv2.resize(image, (32, 32), interpolation=cv2.INTER_CUBIC) for image in coarse])
    return ImageSet(smooth, rng.integers(0, 10, 6), (), "smooth")
