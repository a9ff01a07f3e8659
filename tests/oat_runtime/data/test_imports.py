"""What a robot reads, it reads without torch, and without what only training's files need."""

import subprocess
import sys

HEAVY = ("torch", "PIL", "pooch", "scipy", "rosbags", "rclpy", "policy", "training", "oat_perception")


def test_reading_loads_no_torch_and_no_extra() -> None:
    code = (
        "import pkgutil, sys, oat_runtime.data\n"
        "for found in pkgutil.iter_modules(oat_runtime.data.__path__, 'oat_runtime.data.'): __import__(found.name)\n"
        f"print(sorted(set({HEAVY}) & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
