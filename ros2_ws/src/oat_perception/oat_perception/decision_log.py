"""The file of all decisions. Needs no ROS."""

from __future__ import annotations

import os
from pathlib import Path

from oat_perception.core import FrameResult
from policy.controller import AdaptivePolicy
from policy.record import header_line, step_line

_FLUSH_PERIOD_S = 1.0


class DecisionLog:
    """Decisions as JSON lines, which `oat-replay` turns back into the same decisions."""

    def __init__(self, path: Path, policy: AdaptivePolicy) -> None:
        """Start a log; an older one at `path` is kept as `<path>.old`.

        Raises:
            OSError: the file cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            os.replace(path, path.with_name(path.name + ".old"))
        self._file = path.open("w", encoding="utf-8")
        self._file.write(header_line(policy) + "\n")
        self._flushed_s = 0.0

    def write(self, result: FrameResult) -> None:
        """Add one decision; what was written reaches the file within about a second.

        Raises:
            OSError: the file can no longer be written.
        """
        self._file.write(step_line(result.signals, result.decision) + "\n")
        if result.signals.now_s - self._flushed_s >= _FLUSH_PERIOD_S:
            self._file.flush()
            self._flushed_s = result.signals.now_s

    def close(self) -> None:
        """Finish the file."""
        self._file.close()
