"""Write the file of all decisions. It is bounded in size, and what a full disk costs is counted and marked in it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path

from oat_perception.core.perception import FrameResult
from oat_runtime.errors import ConfigError, one_line
from oat_runtime.files import DISK_FULL
from policy.controller import AdaptivePolicy
from policy.records.record import Gap, header_line, step_line

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Of a file system that cannot lock."""
_OPENED_TO_WRITE = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC


class DecisionLog:
    """Write decisions as JSON lines, from which `oat-replay` computes the same decisions again. For one thread.

    Every file begins with the policy, and with the policy's state where it goes on from another file, so each replays
    by itself. A decision that cannot be written is lost for the log alone: the next one that can is written behind a
    line that says how many are missing, why, and what the policy remembers after them.

    The file is locked while it is written, so that no other node takes it for an old one or writes between the lines.

    Attributes:
        num_written: decisions that are in a file.
        num_lost: decisions that are in none.
        problem: why the last decision is in none; empty where it is in one.
        remedy: what to do about the last problem.
    """

    def __init__(self, path: Path, policy: AdaptivePolicy, *, max_bytes: int, max_files: int) -> None:
        """Begin a file; one that is at `path` already becomes `<path>.1`, that one `<path>.2`, and so on.

        Args:
            path: the file that is written.
            policy: whose decisions they are; nothing has been decided yet.
            max_bytes: size at which the next file begins.
            max_files: files that are kept, with the one that is written; the oldest goes first.

        Raises:
            ConfigError: something else than a file is there, or another node writes it.
            OSError: the file cannot be written, and not for want of room.
        """
        if path.exists() and not path.is_file():
            raise ConfigError(f"decision_log must be a file, got {one_line(path)}: name a file that may be replaced")
        self._path, self._policy, self._max_bytes, self._max_files = path, policy, max_bytes, max_files
        self._header = header_line(policy)
        self._file: int | None = None
        self._size = 0
        self._is_torn = False
        self._gap: Gap | None = None
        self.num_written = self.num_lost = 0
        self.problem = self.remedy = ""
        try:
            self._begin()
        except BlockingIOError:
            raise ConfigError(
                f"decision_log must be this node's own, got {one_line(path)}, which is written by another node or "
                "process: name a file for each node"
            ) from None
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            self._fail(error)

    def write(self, result: FrameResult) -> None:
        """Add the decision that the policy made last; it is in the file at once, or counted as lost."""
        gap = _joined(self._gap, result.gap)
        lines = [step_line(result.signals, result.decision)]
        if gap is not None:
            lines.insert(0, gap.line())
        try:
            if self._file is None or self._size >= self._max_bytes:
                self._begin()
            if not self._size:
                lines.insert(0, self._header)
            self._append("".join(f"{line}\n" for line in lines).encode())
        except OSError as error:
            self._fail(error)
            self.num_lost += 1
            self._gap = _joined(gap, Gap(1, self.problem, self._policy.snapshot()))
            return
        self._gap, self.problem = None, ""
        self.num_written += 1
        if self._size >= self._max_bytes:  # still open, so that nobody takes its place before the next file begins
            self._gap = Gap(0, f"it goes on from {self._path.name}.1", self._policy.snapshot())

    def close(self) -> None:
        """Finish the file."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):  # some file systems tell a full disk only now, and nobody can act on it
                os.close(file)

    def _fail(self, error: OSError) -> None:
        is_full = error.errno in DISK_FULL
        self.remedy = "make room" if is_full else f"let {one_line(self._path)} be a file that this node can write"
        self.problem = one_line(error.strerror or error)

    def _begin(self) -> None:
        """Open an empty file and lock it, and keep what is there under the next numbers.

        Raises:
            BlockingIOError: another node or process writes the file.
            OSError: it cannot be written.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            if self._file is None:
                self._file = os.open(self._path, _OPENED_TO_WRITE, 0o644)
            try:
                _lock(self._file)
                is_there = _is_at(self._path, self._file)  # else somebody put another one there before the lock
                if is_there and os.fstat(self._file).st_size:
                    self._put_by()
                elif is_there:
                    self._size, self._is_torn = 0, False
                    return
            except OSError:
                self.close()
                raise
            self.close()

    def _put_by(self) -> None:
        """Keep what is there under the next number. Where that leaves it in its place, as if one is kept, empty it."""
        assert self._file is not None, "opened and locked before"
        kept = [self._path, *(Path(f"{self._path}.{number}") for number in range(1, self._max_files))]
        for older, newer in zip(kept[:0:-1], kept[-2::-1], strict=True):
            with contextlib.suppress(FileNotFoundError):
                os.replace(newer, older)
        if _is_at(self._path, self._file):
            os.ftruncate(self._file, 0)

    def _append(self, data: bytes) -> None:
        """Write whole lines, or leave the file as it is; half a line that cannot be taken back gets an end of its own.

        Raises:
            OSError: they could not be written.
        """
        assert self._file is not None, "begun before"
        found = os.fstat(self._file)
        if not found.st_nlink:
            self.close()
            raise FileNotFoundError(errno.ENOENT, "the file was removed")
        if found.st_size < self._size:
            self.close()
            raise OSError(errno.EIO, "the file was cut short by somebody else")
        left = memoryview(b"\n" + data if self._is_torn else data)
        num_bytes = len(left)
        try:
            while left:
                left = left[os.write(self._file, left) :]
        except OSError:
            try:
                os.ftruncate(self._file, self._size)
            except OSError:
                self._is_torn = True
            raise
        self._size, self._is_torn = self._size + num_bytes, False


def record(result: FrameResult) -> str:
    """Return one decision as `oat-replay` reads it: its line, after what must come before it in a log."""
    before = [result.record_header, "" if result.gap is None else result.gap.line()]
    return "\n".join([*filter(None, before), step_line(result.signals, result.decision)])


def _lock(file: int) -> None:
    """Lock a file against every other descriptor, those of this process too, until it is closed.

    Raises:
        BlockingIOError: it is locked.
        OSError: it cannot be locked, though its file system can lock.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BlockingIOError(errno.EWOULDBLOCK, "another node or process writes it") from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def _is_at(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except FileNotFoundError:
        return False


def _joined(first: Gap | None, second: Gap | None) -> Gap | None:
    return first.and_then(second) if first is not None and second is not None else first or second
