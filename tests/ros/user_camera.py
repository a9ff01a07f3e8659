"""A camera and a reader of results: `user_camera.py NUM SECONDS` sends VGA images, and waits that long for each result.

Prints how many results came. A process of its own, because another user runs it.
"""

from __future__ import annotations

import contextlib
import functools
import sys

import numpy as np
import rclpy
from oat_perception.bench.camera import Camera

from oat_runtime.errors import OATError


def main() -> int:
    """Print `NUM of NUM` results."""
    num, patience_s, answered = int(sys.argv[1]), float(sys.argv[2]), 0
    rclpy.init()
    camera = Camera(np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8))
    camera.wait(camera.images.get_subscription_count, "the node listens to images", timeout_s=60.0)
    for _ in range(num):
        key = camera.send()
        with contextlib.suppress(OATError):
            camera.wait(functools.partial(camera.answers.__contains__, key), "a result", timeout_s=patience_s)
            answered += 1
    print(f"{answered} of {num}", flush=True)
    camera.destroy_node()
    rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
