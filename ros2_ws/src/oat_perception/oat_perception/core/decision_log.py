"""Write the file of all decisions."""

from __future__ import annotations

import os
from pathlib import Path

from oat_perception.core.perception import FrameResult
from policy.record import step_line

_FLUSH_PERIOD_S = 1.0


class DecisionLog:
    """Write decisions as JSON lines, from which `oat-replay` computes the same decisions again."""

    def __init__(self, path: Path) -> None:
        """Start a log; an older one at `path` is kept as `<path>.old`.

        Raises:
            OSError: the file cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            os.replace(path, path.with_name(path.name + ".old"))
        self._file = path.open("w", encoding="utf-8")
        self._flushed_s = 0.0

    def write(self, result: FrameResult) -> None:
        """Add one decision; what was written reaches the file within about a second.

        Raises:
            OSError: the file can no longer be written.
        """
        self._file.write(record(result) + "\n")
        if result.signals.now_s - self._flushed_s >= _FLUSH_PERIOD_S:
            self._file.flush()
            self._flushed_s = result.signals.now_s

    def close(self) -> None:
        """Finish the file."""
        self._file.close()


def record(result: FrameResult) -> str:
    """Return one decision as `oat-replay` reads it: one line, and before a policy's first one the log's header."""
    line = step_line(result.signals, result.decision)
    return f"{result.record_header}\n{line}" if result.record_header else line
