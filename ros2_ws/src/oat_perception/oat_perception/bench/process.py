"""Runs what the benchmark measures as a process of its own, and ends it again."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_STOP_TIMEOUT_S = 30.0


def module_command(module: str, parameters: Mapping[str, Any]) -> list[str]:
    """Return the command that runs a module of this package with ROS parameters, by name."""
    command = [sys.executable, "-m", f"oat_perception.{module}", "--ros-args", "--log-level", "error"]
    for name, value in parameters.items():
        command += ["-p", f"{name}:={json.dumps(value)}"]
    return command


@contextlib.contextmanager
def running(
    command: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command; interrupt it on the way out, and kill it where it does not end.

    Args:
        command: the program and its arguments.
        cwd: the folder that it runs in; None: this process's.
        env: its environment; None: this process's.
    """
    # People's table and the JSON line have stdout for themselves.
    process = subprocess.Popen(command, stdout=sys.stderr, cwd=cwd, env=env)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
