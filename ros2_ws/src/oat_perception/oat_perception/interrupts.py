"""Take SIGINT and SIGTERM from the first line of a process to its last: they end it well, and never with a traceback.

This imports nothing heavy: the package asks for `take_early` before Python reads a node's other modules for seconds.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from pathlib import Path
from types import FrameType

_ENDING = (signal.SIGINT, signal.SIGTERM)
_NODES = ("perception_node", "camera_replay_node", "console", "bench.echo")
"""Modules and executables that run a node until they are interrupted, so that their status is 0 then."""


def take_early() -> None:
    """If this process was started to run a node, let a signal end it in one line until `Interrupts` takes over."""
    if _module() in _NODES:
        for number in _ENDING:
            signal.signal(number, _end)


def _module() -> str:
    """Return what of this package the process was started for; empty: nothing, or another program imports it."""
    program = Path(sys.argv[0] if sys.argv else "")
    if program.name == "-m":  # as long as Python looks for the module
        return sys.orig_argv[sys.orig_argv.index("-m") + 1].removeprefix("oat_perception.")
    return program.name if program.parent.name == "oat_perception" else ""


def _end(number: int, _: FrameType | None) -> None:
    os.write(2, f"oat_perception: {signal.Signals(number).name} came before the node began\n".encode())
    os._exit(0)


class Interrupts:
    """Within `with`, remember the signals that ask for an end, until the very end of the process if one came.

    Python's own handler would raise KeyboardInterrupt wherever it likes, within rclpy's conversion of a message too.
    The third signal ends the process at once, well or not: two may come of one Ctrl-C, from the terminal and from
    ros2 launch.

    Attributes:
        came: the signals so far.
    """

    def __init__(self) -> None:
        """Remember none yet."""
        self.came: list[signal.Signals] = []

    def __enter__(self) -> Interrupts:
        """Begin, from the main thread."""
        self._before = {number: signal.signal(number, self._remember) for number in _ENDING}
        return self

    def __exit__(self, *_: object) -> None:
        """Go on to the end of the process if a signal came; else leave signals as they were."""
        if self.came:  # the interpreter forgets handlers written in Python before it ends, but not this
            atexit.register(_set_all, signal.SIG_IGN)
            return
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, _: FrameType | None) -> None:
        self.came.append(signal.Signals(number))
        if len(self.came) > 1:
            _set_all(signal.SIG_DFL)


def _set_all(handler: signal.Handlers) -> None:
    for number in _ENDING:
        signal.signal(number, handler)
