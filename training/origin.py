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
    """Return the commit of the code that was loaded, whatever is committed or checked out later.

    It has 40 digits, and `-dirty` if the code was changed since; `unknown` outside a checkout of this project.
    """
    return _COMMIT


def _commit_of(file: Path) -> str:
    """Return the commit of the checkout that `file` belongs to; a repository that only surrounds it says nothing."""
    try:
        _git("ls-files", "--error-unmatch", "--", file.name, folder=file.parent)
        # Without tags, whose names would take the place of the digits.
        return _git("describe", "--always", "--exclude=*", f"--dirty={_DIRTY}", "--abbrev=40", folder=file.parent)
    except (OSError, subprocess.CalledProcessError):
        return UNKNOWN


def _git(*arguments: str, folder: Path) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


_COMMIT = _commit_of(Path(__file__))


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
