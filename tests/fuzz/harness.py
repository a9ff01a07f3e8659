"""Run damaged inputs through a reader in a process of its own, and hold what comes out to the bounds.

    python tests/fuzz/harness.py KIND FIRST COUNT    reads the cases FIRST .. FIRST+COUNT-1; the last line is JSON

A kind is a module beside this one with `prepare`, `damage` and `read` (see `Kind`). A case is its number: the same
number gives the same damage on every machine. Every case must be accepted or end in one of the project's errors, within
the bounds of CPU time and memory.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

MOST_CPU_S = 5.0
MOST_MB = 300.0
IS_LONG = os.environ.get("OAT_FUZZ") == "long"
"""Whether all cases run, which takes an hour, in place of a few seconds' worth."""
_HERE = Path(__file__).resolve().parent
_MOST_LISTED = 20
_HANGS_AFTER_S = 30.0
_MOST_ADDRESSES = 16 * 2**30
"""Of the whole process, so that a bomb that goes off does not take the machine with it."""


class Kind(Protocol):
    """What a module of damaged inputs offers."""

    NUM_CASES: int
    """Cases of the long form."""
    NUM_SHORT: int
    """Cases of the short form: a few seconds."""

    def prepare(self, folder: Path) -> Any:
        """Make what is whole, once a process."""

    def damage(self, whole: Any, rng: random.Random, folder: Path) -> Any:
        """Write one damaged input below `folder`, which is empty."""

    def read(self, whole: Any, damaged: Any) -> None:
        """Read it to the end. An AssertionError says that it was accepted with another meaning."""


@dataclass
class Outcome:
    """What came of some cases; `faults` says which case did what it must not."""

    num_cases: int = 0
    num_accepted: int = 0
    num_refused: int = 0
    num_foreign: int = 0
    num_not_one_line: int = 0
    num_other_meaning: int = 0
    num_over_time: int = 0
    num_over_memory: int = 0
    slowest_s: float = 0.0
    most_mb: float = 0.0
    faults: list[str] = field(default_factory=list)

    @property
    def num_faults(self) -> int:
        """Cases that broke a promise."""
        return (
            self.num_foreign
            + self.num_not_one_line
            + self.num_other_meaning
            + self.num_over_time
            + self.num_over_memory
        )


def run(kind: str, *, first: int = 0, count: int | None = None) -> Outcome:
    """Run cases of a kind in a process of their own.

    Args:
        kind: name of a module beside this one.
        first: number of the first case.
        count: how many; None: as many as the short form has, or the long one with `OAT_FUZZ=long`.
    """
    if count is None:
        module = _kind(kind)
        count = module.NUM_CASES if IS_LONG else module.NUM_SHORT
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(_HERE.parents[1])}
    done = subprocess.run(
        [sys.executable, str(_HERE / "harness.py"), kind, str(first), str(count)],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise AssertionError(f"{kind}: the process ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return Outcome(**json.loads(done.stdout.splitlines()[-1]))


def _kind(name: str) -> Kind:
    if str(_HERE) not in sys.path:
        sys.path.insert(0, str(_HERE))
    return importlib.import_module(name)  # type: ignore[return-value]


def _main(name: str, first: int, count: int) -> int:
    from oat_runtime.errors import OATError

    resource.setrlimit(resource.RLIMIT_AS, (_MOST_ADDRESSES, _MOST_ADDRESSES))
    kind, outcome, kinds_of_faults = _kind(name), Outcome(), Counter[str]()
    with tempfile.TemporaryDirectory() as place:
        whole = kind.prepare(Path(place))
        _warm_up(kind, whole)
        for number in range(first, first + count):
            with tempfile.TemporaryDirectory() as folder:
                damaged = kind.damage(whole, random.Random(f"{name} {number}"), Path(folder))
                print(f"case {number}", file=sys.stderr)
                signal.setitimer(
                    signal.ITIMER_PROF, _HANGS_AFTER_S
                )  # its signal ends a process that does not come back
                idle_mb, started_s, fault = _reset_peak_mb(), time.process_time(), ""
                try:
                    kind.read(whole, damaged)
                    outcome.num_accepted += 1
                except OATError as error:
                    outcome.num_refused += 1
                    is_one_line = str(error).isprintable() and len(str(error)) < 2000
                    outcome.num_not_one_line += not is_one_line
                    fault = "" if is_one_line else f"not one line: {str(error)[:80]!r}"
                except AssertionError as error:
                    outcome.num_other_meaning += 1
                    fault = f"other meaning: {error}"
                except Exception as error:
                    outcome.num_foreign += 1
                    where = traceback.extract_tb(error.__traceback__)[-1]
                    fault = f"{type(error).__name__}: {str(error)[:80]!r} at {Path(where.filename).name}:{where.lineno}"
                seconds, megabytes = time.process_time() - started_s, _peak_mb() - idle_mb
            outcome.num_over_time += seconds > MOST_CPU_S
            outcome.num_over_memory += megabytes > MOST_MB
            if seconds > MOST_CPU_S or megabytes > MOST_MB:
                fault += f" {seconds:.1f} s, {megabytes:.0f} MB"
            outcome.slowest_s, outcome.most_mb = max(outcome.slowest_s, seconds), max(outcome.most_mb, megabytes)
            outcome.num_cases += 1
            if fault:
                kinds_of_faults[fault.split(":")[0]] += 1
                if len(outcome.faults) < _MOST_LISTED:
                    outcome.faults.append(f"case {number}: {fault}")
    signal.setitimer(signal.ITIMER_PROF, 0.0)
    print(dict(kinds_of_faults), file=sys.stderr)
    print(json.dumps(asdict(outcome)))
    return 0


def _warm_up(kind: Kind, whole: Any) -> None:
    """Load what the first reading loads, so that no case pays for an import."""
    for number in range(5):
        with tempfile.TemporaryDirectory() as folder:
            try:
                kind.read(whole, kind.damage(whole, random.Random(f"warm {number}"), Path(folder)))
            except Exception:
                continue


def _reset_peak_mb() -> float:
    """Let the peak of this process's memory begin anew from what it holds, and return that."""
    Path("/proc/self/clear_refs").write_text("5")
    return _peak_mb()


def _peak_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
