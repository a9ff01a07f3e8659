"""Where tables for people go."""

from __future__ import annotations

import sys

from rich.console import Console


def wide_console(*, columns: int = 110) -> Console:
    """The standard output, as wide as its terminal; `columns` wide in a file or a pipe, where Rich would take 80."""
    return Console(width=None if sys.stdout.isatty() else columns)
