"""Start this package's modules as separate processes, notice when one dies, and leave none behind."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from oat_runtime.errors import OATError

_STOP_TIMEOUT_S = 10.0
_Process = subprocess.Popen[bytes]


def module_command(
    module: str, parameters: Mapping[str, Any], *, options: Sequence[str] = ("--log-level", "error")
) -> list[str]:
    """Return the command that runs a module of this package with ROS parameters, by name, and further ROS options."""
    command = [sys.executable, "-m", f"oat_perception.{module}", "--ros-args", *options]
    for name, value in parameters.items():
        command += ["-p", f"{name}:={json.dumps(value)}"]
    return command


@contextlib.contextmanager
def running(
    command: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> Iterator[_Process]:
    """Run a command, whose output goes to stderr; stop it on the way out.

    Args:
        command: the program and its arguments.
        cwd: the folder that it runs in; None: this process's.
        env: its environment; None: this process's.
    """
    process = subprocess.Popen(command, stdout=sys.stderr, cwd=cwd, env=env)
    try:
        yield process
    finally:
        _stop([process])


class Nodes:
    """The processes that `started` started, by the module that each runs."""

    def __init__(self, folder: Path) -> None:
        """Set up; the output of each process goes to `folder`/<module>.log."""
        self.processes: dict[str, _Process] = {}
        self._folder = folder

    def start(self, module: str, parameters: Mapping[str, Any]) -> None:
        """Start a module of this package."""
        command = module_command(module, parameters, options=("--disable-external-lib-logs",))
        with (self._folder / f"{module}.log").open("wb") as log:
            # A session of its own: Ctrl-C in the terminal reaches this process alone, which then stops its nodes.
            self.processes[module] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def check(self) -> None:
        """Raise an error if a node has ended.

        Raises:
            OATError: a node has ended; the message holds its last lines.
        """
        for name, process in self.processes.items():
            if process.poll() is not None:
                words = (self._folder / f"{name}.log").read_text(errors="replace").strip().splitlines()[-8:]
                raise OATError(f"{name} ended with status {process.returncode}:\n  " + "\n  ".join(words))

    def ended(self, name: str) -> bool:
        """Return whether a node has ended without an error."""
        return self.processes[name].poll() == 0


@contextlib.contextmanager
def started(parameters: Mapping[str, Mapping[str, Any]], folder: Path) -> Iterator[Nodes]:
    """Start a process for each node, and stop all of them at the end, even after an error.

    Args:
        parameters: ROS parameters by module.
        folder: gets `<module>.log`, with all that the node prints.
    """
    nodes = Nodes(folder)
    try:
        for module, values in parameters.items():
            nodes.start(module, values)
        yield nodes
    finally:
        _stop(nodes.processes.values())


def _stop(processes: Collection[_Process]) -> None:
    """Interrupt each process, then kill those that do not end."""
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        alive = [process for process in processes if process.poll() is None]
        for process in alive:
            process.send_signal(sign)
        until_s = time.monotonic() + _STOP_TIMEOUT_S
        for process in alive:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until_s - time.monotonic()))
