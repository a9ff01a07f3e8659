"""The examples that need no ROS end as they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

CAMERA = Path(__file__).parents[1] / "examples" / "camera.py"


def test_a_video_without_an_image_is_no_success(tiny_bundle: Path, tmp_path: Path) -> None:
    """Regression: the example ended with status 0, and had said nothing."""
    for num_frames, status, told in ((0, 2, "gave 0 images and no more"), (2, 0, "")):
        video = tmp_path / f"{num_frames}.avi"
        writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
        for _ in range(num_frames):
            writer.write(np.full((48, 64, 3), 127, np.uint8))
        writer.release()
        command = [sys.executable, str(CAMERA), str(tiny_bundle), "--video", str(video)]
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
        assert ended.returncode == status, ended.stderr
        assert told in ended.stderr and len(ended.stdout.splitlines()) == min(num_frames, 1)
