"""The exception tree: every error that this project raises on purpose.

OATError
├── OperatingPointError   λ or width out of range, or not offered by this bundle   (also ValueError)
├── InputError            an image, frame or batch that cannot be used             (also ValueError)
├── ConfigError           a configuration that contradicts itself                  (also ValueError)
├── DataError             a data set that is missing, damaged or of another format
│   └── FileReadError     its bytes could not be had, which may pass
├── BundleError           a bundle that is missing, truncated, tampered or unknown
├── CheckpointError       a checkpoint that is damaged or of another run
└── BackendError          an inference engine that is missing or refused the model

A message says what was expected, what came, and what to do about it. What came may be ten megabytes or hold escape
codes: `quoted` and `one_line` make a short, printable piece of one line of it.
"""

from __future__ import annotations

import reprlib

_MOST_SHOWN = 160


class OATError(Exception):
    """Base of all errors raised on purpose by this project."""


class OperatingPointError(OATError, ValueError):
    """λ or width is out of range, or this bundle does not offer it."""


class InputError(OATError, ValueError):
    """An image, frame or batch has a wrong type, shape, range or encoding."""


class ConfigError(OATError, ValueError):
    """A configuration contradicts itself or the thing it configures."""


class DataError(OATError):
    """A data set is missing, damaged, or in a format that is not known."""


class FileReadError(DataError):
    """A file is missing, its disk failed or memory ran out: what may be another time, whatever the file holds."""


class BundleError(OATError):
    """A bundle is missing, truncated, tampered with, or of an unknown schema."""


class CheckpointError(OATError):
    """A training checkpoint is damaged or belongs to another configuration."""


class BackendError(OATError):
    """An inference engine is not installed or refused the network."""


def one_line(text: object, *, most: int = _MOST_SHOWN) -> str:
    """Return foreign text as one harmless line for a message: control characters escaped, and no more than its start.

    Args:
        text: text of any length, or anything that `str` turns into text (another library's error, say).
        most: characters that are shown; the count of all follows where there are more.
    """
    whole = text if isinstance(text, str) else str(text)
    shown = "".join(mark if mark.isprintable() else repr(mark)[1:-1] for mark in whole[:most])
    return shown if len(whole) <= most else f"{shown}... ({len(whole)} characters)"


def quoted(value: object) -> str:
    """Return a foreign value as `repr` writes it, in one line of bounded length; for text and bytes, only their start.

    Never fails, whatever the value's own `repr` does.
    """
    if isinstance(value, str | bytes) and len(value) > _MOST_SHOWN:
        unit = "characters" if isinstance(value, str) else "bytes"
        return f"{one_line(repr(value[:_MOST_SHOWN]), most=2 * _MOST_SHOWN)}... ({len(value)} {unit})"
    try:
        # The standard form is kept wherever it is short: `reprlib` leaves out the middle of short lists, too.
        text = reprlib.repr(value) if isinstance(value, list | tuple | dict | set | frozenset | int) else repr(value)
    except Exception:  # an integer of 5,000 digits has no repr, and a value's own may raise anything
        return f"<a value of type {type(value).__name__}>"
    return one_line(text)
