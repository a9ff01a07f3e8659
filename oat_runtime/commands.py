"""How every command begins and ends: its arguments, and one line with a status in place of a traceback.

| what ends it | what it says on stderr | status |
| -- | -- | -- |
| one of the project's errors, or a mistake in the arguments | one line | 2 |
| an `OSError` about a file, a full disk among them | one line that names the file | 2 |
| Ctrl-C; SIGTERM | one line | 130; 143 |
| a reader of its output that went away, as `head` does | nothing | 141 |
| anything else | the traceback: it is a bug, and the traceback is what a report of it needs | 1 |
"""

from __future__ import annotations

import argparse
import functools
import io
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn, ParamSpec

from oat_runtime.errors import ConfigError, OATError, one_line, quoted
from oat_runtime.files import DISK_FULL, expanded

REFUSED: Final = 2
"""Exit status where the input or the arguments are at fault: starting again cannot mend that."""
FIGURES: Final = (".png", ".svg", ".pdf")
"""Endings of a figure's file."""
_INTERRUPTED, _BROKEN_PIPE, _TERMINATED = 130, 141, 143
_MOST_SHOWN = 1000

_Arguments = ParamSpec("_Arguments")


class _TerminatedError(BaseException):
    """SIGTERM came: what is open is closed on the way out, as after Ctrl-C."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line: they are raised for `command` to print."""

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong with the arguments.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"{message} (see --help)")


def command(name: str) -> Callable[[Callable[_Arguments, int]], Callable[_Arguments, int]]:
    """Decorate the `main` of a command so that it ends as the table at the top says.

    Args:
        name: what the line on stderr begins with.
    """

    def decorate(main: Callable[_Arguments, int]) -> Callable[_Arguments, int]:
        @functools.wraps(main)
        def guarded(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> int:
            print_anything()
            try:
                with _terminable():
                    status = main(*args, **kwargs)
                    sys.stdout.flush()  # here, where a closed pipe can still be caught
                    return status
            except OATError as error:
                return _end(name, str(error), REFUSED)
            except KeyboardInterrupt as stop:
                return _end(name, ": ".join(filter(None, ("interrupted", str(stop)))), _INTERRUPTED)
            except _TerminatedError as stop:
                return _end(name, ": ".join(filter(None, ("terminated", str(stop)))), _TERMINATED)
            except BrokenPipeError:
                # The interpreter flushes once more when it ends, into nothing now.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return _BROKEN_PIPE
            except OSError as error:
                if error.filename is None and error.errno not in DISK_FULL:
                    raise
                return _end(name, text_of(error), REFUSED)

        return guarded

    return decorate


def print_anything() -> None:
    """Let stdout and stderr take what their encoding lacks, λ in ASCII say, as an escape in place of an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def text_of(error: OSError) -> str:
    """Return what an error of the file system says, the file first; a full disk is called that."""
    place = "" if error.filename is None else os.fspath(error.filename)
    if error.errno in DISK_FULL:
        return f"disk full: {place or 'a file'} could not be written"
    return f"{place}: {error.strerror or error}"


def _end(name: str, text: str, status: int) -> int:
    print(f"{name}: {one_line(text, most=_MOST_SHOWN)}", file=sys.stderr)
    return status


@contextmanager
def _terminable() -> Iterator[None]:
    """Turn SIGTERM into an exception, where this is the main thread and nobody else handles it."""
    is_ours = (
        threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )

    def end(*_: object) -> NoReturn:
        raise _TerminatedError

    if is_ours:
        signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        if is_ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


class HeldBack:
    """Whether a signal came that is held back, and the `note` that the line about it will end with."""

    def __init__(self) -> None:
        """Start without a signal."""
        self.number: int | None = None
        self.note = ""

    def came(self) -> bool:
        """Return whether a signal came."""
        return self.number is not None


@contextmanager
def held_back() -> Iterator[HeldBack]:
    """Hold Ctrl-C and SIGTERM back until the block ends, and let the first one act then, as if it came at that moment.

    The block asks for `came()` where it can stop, and brings its work to a good end; more signals change nothing. If it
    fails, its error counts alone. A signal that is ignored stays so. Outside of the main thread nothing is held back.
    """
    held = HeldBack()

    def take(number: int, _: object) -> None:
        held.number = held.number or number

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if callable(handler := signal.getsignal(number)) or handler is signal.SIG_DFL:
                before[number] = signal.signal(number, take)
    try:
        yield held
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if held.number is not None:
        try:
            signal.raise_signal(held.number)
        except (KeyboardInterrupt, _TerminatedError) as stop:
            raise type(stop)(held.note) from None


def a_path(text: str) -> Path:
    """Return a path argument; `~` is the home folder also where no shell expands it, as in `--output=~/file`."""
    if "\0" in text or not text:
        raise argparse.ArgumentTypeError(f"expected a path, got {quoted(text)}")
    try:
        return expanded(text)
    except ConfigError as error:  # a ValueError, of which argparse would say "invalid value" alone
        raise argparse.ArgumentTypeError(str(error)) from None


def output_file(*endings: str) -> Callable[[str], Path]:
    """Return the type of an argument that names a file to write, checked before the work starts.

    Args:
        endings: which the file may have, as in `.png`; none: any.
    """

    def check(text: str) -> Path:
        file = a_path(text)
        if endings and file.suffix.lower() not in endings:
            raise argparse.ArgumentTypeError(f"expected a file ending in {', '.join(endings)}, got {one_line(text)}")
        if file.is_dir():
            raise argparse.ArgumentTypeError(f"{one_line(text)} is a folder: name a file")
        if file.exists() and not file.is_file():  # a device or a pipe, which a file would take the place of
            raise argparse.ArgumentTypeError(f"{one_line(text)} is a device or a pipe, no regular file: name a file")
        _check_folder(Path(os.path.realpath(file)).parent if file.is_symlink() else file.parent, text)
        return file

    return check


def output_folder(text: str) -> Path:
    """Return an argument that names a folder to write into, there or not, checked before the work starts."""
    folder = a_path(text)
    _check_folder(folder, text)
    return folder


def _check_folder(folder: Path, text: str) -> None:
    there = next(place for place in (folder, *folder.parents, Path()) if os.path.lexists(place))
    if not there.is_dir():
        raise argparse.ArgumentTypeError(f"{one_line(text)} cannot be written: {one_line(there)} is not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f"{one_line(text)} cannot be written: no permission in {one_line(there)}")


def whole(*, least: int) -> Callable[[str], int]:
    """Return the type of an argument that is a whole number, `least` or more."""

    def check(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected a whole number, got {quoted(text)}") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {quoted(value)}")
        return value

    return check


a_count, a_seed = whole(least=1), whole(least=0)


def real(*, above: float = -math.inf, least: float = -math.inf, most: float = math.inf) -> Callable[[str], float]:
    """Return the type of an argument that is a finite number, more than `above` and in [`least`, `most`]."""
    low = f"({above:g}" if above >= least else f"[{least:g}"

    def check(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected a number, got {quoted(text)}") from None
        if not (math.isfinite(value) and above < value and least <= value <= most):
            raise argparse.ArgumentTypeError(f"must be in {low}, {most:g}], got {quoted(value)}")
        return value

    return check
