"""A signal ends a node's process with status 0 and a word, from its first import to the interpreter's end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import oat_perception
import pytest

PACKAGE = str(Path(oat_perception.__file__).resolve().parents[1])
REMEMBER = """
import atexit, os, signal
from oat_perception.interrupts import Interrupts
atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))  # runs last: it is registered first
with Interrupts() as interrupts:
    for number in {signals}:
        os.kill(os.getpid(), number)
    assert len(interrupts.came) == len({signals})
"""


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": PACKAGE}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("signals", ["(2,)", "(2, 2)", "(2, 15)", "(15, 2)", "(15, 15)"])
def test_two_signals_and_one_more_at_the_very_end_leave_status_0(signals: str) -> None:
    ended = _run(sys.executable, "-c", REMEMBER.format(signals=signals))
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stderr


def test_the_third_ends_it_well_or_not() -> None:
    assert _run(sys.executable, "-c", REMEMBER.format(signals="(2, 15, 2)")).returncode == -signal.SIGINT


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", ["perception_node", "camera_replay_node", "console"])
def test_a_signal_while_a_node_is_imported_ends_it_in_one_line(tmp_path: Path, name: str, number: int) -> None:
    """Regression: Ctrl-C in the first seconds showed a traceback of some import."""
    program = tmp_path / "oat_perception" / name
    program.parent.mkdir()
    program.write_text(f"import os, oat_perception\nos.kill(os.getpid(), {int(number)})\nwhile True: pass")
    ended = _run(sys.executable, str(program))
    line = f"oat_perception: {signal.Signals(number).name} came before the node began\n"
    assert (ended.returncode, ended.stderr) == (0, line)


def test_another_program_that_imports_the_package_keeps_its_signals(tmp_path: Path) -> None:
    script = "import signal, oat_perception; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    assert _run(sys.executable, "-c", script).stdout == "True\n"
