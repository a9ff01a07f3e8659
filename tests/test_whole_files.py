"""Whatever the project writes goes through `oat_runtime.files`, so that no full disk leaves half a file."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("oat_runtime", "policy", "training", "ros2_ws/src")
SOURCES = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
IN_PLACE = re.compile(r"\.(savefig|write_text|write_bytes)\(|open\([^)]*[\"'][wx]b?[\"']")
ALLOWED = {
    "oat_runtime/style.py": "savefig into memory",
    "oat_runtime/bench/static_int8.py": "a temporary folder",
    "oat_runtime/data/folders/decode_cache.py": "a file of its own that a record makes valid",
    "oat_runtime/data/npz.py": "a member of an archive that is written whole",
    "ros2_ws/src/oat_perception/oat_perception/camera_replay_node.py": "lines are added to it while it runs",
    "ros2_ws/src/oat_perception/oat_perception/node/processes.py": "what a process says while it runs",
}


def test_files_are_written_whole() -> None:
    """Regression: five pictures and three files of the demo were written in their place."""
    assert SOURCES
    found = {str(file.relative_to(ROOT)) for file in SOURCES if IN_PLACE.search(file.read_text(encoding="utf-8"))}
    assert found == set(ALLOWED)
