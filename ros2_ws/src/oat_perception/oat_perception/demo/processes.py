"""Start nodes as processes of their own, notice when one dies, and leave none behind. Knows no rclpy."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from oat_runtime.errors import OATError

_STOP_TIMEOUT_S = 5.0


class Nodes:
    """The processes that were started here, and no others."""

    def __init__(self, processes: Mapping[str, subprocess.Popen[bytes]], folder: Path) -> None:
        """Take the running processes by name."""
        self._processes = processes
        self._folder = folder

    def check(self) -> None:
        """Raise where a node has ended.

        Raises:
            OATError: it has; the message ends in its last words.
        """
        for name, process in self._processes.items():
            if process.poll() is not None:
                words = (self._folder / f"{name}.log").read_text(errors="replace").strip().splitlines()[-8:]
                raise OATError(f"{name} ended with status {process.returncode}:\n  " + "\n  ".join(words))

    def ended(self, name: str) -> bool:
        """Whether a node has ended well."""
        return self._processes[name].poll() == 0

    def stop(self) -> None:
        """Ask each to end, then insist."""
        for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            running = [process for process in self._processes.values() if process.poll() is None]
            for process in running:
                process.send_signal(sign)
            until_s = time.monotonic() + _STOP_TIMEOUT_S
            for process in running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, until_s - time.monotonic()))


@contextlib.contextmanager
def started(parameters: Mapping[str, Mapping[str, Any]], folder: Path) -> Iterator[Nodes]:
    """Start a process for each node; stop them on the way out, however that comes about.

    Args:
        parameters: ROS parameters by node; the node is a module of this package.
        folder: gets `<node>.log`, with all that the node prints.
    """
    processes: dict[str, subprocess.Popen[bytes]] = {}
    nodes = Nodes(processes, folder)
    try:
        for name, values in parameters.items():
            command = [sys.executable, "-m", f"oat_perception.{name}", "--ros-args", "--disable-external-lib-logs"]
            for key, value in values.items():
                command += ["-p", f"{key}:={json.dumps(value)}"]
            with (folder / f"{name}.log").open("wb") as log:
                # A session of its own: Ctrl-C in the terminal reaches this process alone, which then stops its nodes.
                processes[name] = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
        yield nodes
    finally:
        nodes.stop()
