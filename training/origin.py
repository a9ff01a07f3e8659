"""Name the commit and the hardware that a figure comes from, for bundles and results."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import torch

from oat_runtime.devices import device_name
from oat_runtime.text import count_of

UNKNOWN = "unknown"
_DIRTY = "-dirty"


def commit_of_code() -> str:
    """Return this code's commit: 40 digits, and `-dirty` if it was changed since; `unknown` outside a checkout."""
    try:
        command = ["git", "describe", "--always", f"--dirty={_DIRTY}", "--abbrev=40"]
        return subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return UNKNOWN


def is_committed(commit: str) -> bool:
    """Return whether `commit` names exactly the code that ran."""
    return commit != UNKNOWN and not commit.endswith(_DIRTY)


def short(commit: str) -> str:
    """Return twelve digits of a commit for people, with `-dirty` if it has that."""
    return commit[:12] + " with changes" * commit.endswith(_DIRTY)


def machine(device: torch.device | str) -> dict[str, Any]:
    """Describe the machine of a benchmark or suite, for JSON."""
    kind = torch.device(device).type
    return {
        "processor": device_name("cuda" if kind == "cuda" else "cpu"),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": kind,
    }


def hardware(device: torch.device | str, *, num_processes: int = 1) -> str:
    """Name the processor, the GPU if `device` is one, the threads of this process, and the version of torch."""
    about = machine(device)
    processes = f"{num_processes} processes on " if num_processes > 1 else ""
    return f"{processes}{about['processor']}, {count_of(about['threads'], 'thread')}, torch {about['torch']}"
