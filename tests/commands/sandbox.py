"""A folder that looks like the project's root to a command, with tiny data, and a home of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.commands.reading import ROOT
from tests.policy.conftest import make_constants, make_table
from tests.policy.test_replay import _write_bag, _write_log

HERE = Path(__file__).parent
_CODE = ("oat_runtime", "policy", "training")
_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def ran(self) -> bool:
        """Whether it did its work: 0, or 1 where it judged tiny networks and one of its checks does not hold."""
        return "Traceback" not in self.stderr and (self.status == 0 or (self.status == 1 and self._judged()))

    def _judged(self) -> bool:
        try:
            told: dict[str, Any] = json.loads(self.stdout.splitlines()[-1])
        except (ValueError, IndexError):
            return False
        return any(not check["ok"] for check in told.get("checks", ()))


def environment_in(folder: Path) -> dict[str, str]:
    """Return what a person's shell has in an active .venv, with data and home in this folder alone."""
    kept = {key: value for key, value in os.environ.items() if key in {"LANG", "TERM", "LD_LIBRARY_PATH", "TMPDIR"}}
    return kept | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder / "home"),
        "OAT_DATA": str(folder / "data"),
        "PYTHONPATH": f"{HERE / 'small'}:{folder}",
        "OMP_NUM_THREADS": "1",
        "TORCHDYNAMO_DISABLE": "1",  # compiling takes half a minute, and changes no figure
        "COLUMNS": "120",
        "https_proxy": "http://127.0.0.1:9",  # nothing is fetched
        "_ROS_WHEELS_BOOTSTRAP_COMPLETE": "1",  # without it the ROS 2 wheels start Python twice
    }


def run_in(folder: Path, command: str) -> Outcome:
    """Run one command, as it is typed, from a folder."""
    begun_s = time.monotonic()
    ended = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment_in(folder),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
    )
    return Outcome(ended.returncode, ended.stdout, ended.stderr, time.monotonic() - begun_s)


def make_sandbox(folder: Path) -> Path:
    """Copy the code into a folder, and make there what the pages' commands name."""
    for name in _CODE:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("home", "docs/images", "docs/results"):
        (folder / name).mkdir(parents=True)
    (folder / ".venv").symlink_to(sys.prefix)
    _write_log(folder / "decisions.jsonl", make_table(profiled=True), make_constants())
    header, *steps = (folder / "decisions.jsonl").read_text(encoding="utf-8").splitlines()
    _write_bag(folder / "bag", [f"{header}\n{steps[0]}", *steps[1:]])
    shutil.move(next((folder / "bag").glob("*.mcap")), folder / "drive.mcap")
    made = run_in(folder, f"python {HERE / 'prepare.py'}")
    if made.status != 0:
        raise AssertionError(f"the sandbox could not be made:\n{made.stdout}\n{made.stderr}")
    return folder
