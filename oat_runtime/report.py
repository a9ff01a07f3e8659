"""Report long work: a bar, checks, the machine, tables for people, and one JSON line for programs."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn, track
from rich.table import Table
from rich.text import Text

from oat_runtime.errors import OATError
from oat_runtime.text import PlainConsole, plain

Item = TypeVar("Item")
Row = dict[str, Any]
"""Figures of one comparison, as the JSON line holds them; what was not measured is None."""


@dataclass(frozen=True, slots=True)
class Check:
    """One figure that is compared with a limit.

    Attributes:
        name: the meaning of the figure.
        value: the figure; None if it was not measured.
        limit: its limit.
        unit: unit of both, for people.
        ok: whether it is within the limit; False if it was not measured.
        details: further values of the check in JSON.
    """

    name: str
    value: float | None
    limit: float
    unit: str
    ok: bool
    details: Row = field(default_factory=dict)

    @classmethod
    def at_most(
        cls, name: str, values: Iterable[float | None], limit: float, unit: str = "", *, strict: bool = False
    ) -> Check:
        """Check that the largest of `values` is at most `limit`, or less than that if `strict`.

        If there is no value, or one of them is None, NaN or infinite, the check counts as not measured.
        """
        value = _worst(max, values)
        return cls(name, value, limit, unit, value is not None and bool(value < limit if strict else value <= limit))

    @classmethod
    def at_least(
        cls, name: str, values: Iterable[float | None], limit: float, unit: str = "", *, strict: bool = False
    ) -> Check:
        """Check that the smallest of `values` is at least `limit`, or more than that if `strict`; see `at_most`."""
        value = _worst(min, values)
        return cls(name, value, limit, unit, value is not None and bool(value > limit if strict else value >= limit))

    def as_json(self) -> Row:
        """Return the check as the JSON line holds it."""
        row = asdict(self)
        details: Row = row.pop("details")
        return row | details


def _worst(choose: Callable[[Iterable[float]], float], values: Iterable[float | None]) -> float | None:
    found = [None if value is None or not math.isfinite(value) else value for value in values]
    return choose(value for value in found if value is not None) if found and None not in found else None


def checks_of(rows: Iterable[Row], limits: Mapping[str, tuple[float, str]]) -> list[Check]:
    """Return one check for each comparison: its worst row, at least the limit if the unit says so, else at most."""
    values: dict[str, list[float | None]] = {name: [] for name in limits}
    for row in rows:
        values.get(row.get("comparison", ""), []).append(row.get("value"))
    return [
        (Check.at_least if "at least" in unit else Check.at_most)(name, values[name], limit, unit)
        for name, (limit, unit) in limits.items()
    ]


class Report:
    """Collect the results of one benchmark run: `rows`, `checks`, and why each part that `failed` did."""

    def __init__(self, name: str) -> None:
        """Start empty; `name` is the benchmark's in its JSON line."""
        self.name = name
        self.rows: list[Row] = []
        self.checks: list[Check] = []
        self.failed: dict[str, str] = {}
        self.num_left_out = 0
        """Checks that so small a sample cannot decide."""

    def check(
        self, name: str, value: float | None, limit: float, unit: str, *, least: bool = False, strict: bool = False
    ) -> None:
        """Check a figure against its limit: at most that, or at least that if `least`; see `Check.at_most`."""
        hold, word = (Check.at_least, "at least") if least else (Check.at_most, "at most")
        self.checks.append(hold(name, [value], limit, f"{unit}, {word}", strict=strict))

    def measure(self, part: str, run: Callable[[], Iterable[Row] | None]) -> bool:
        """Run one part, add the rows that it returns and say how long it took.

        One of our errors ends this part and no other: its reason becomes a row.

        Returns:
            Whether the part ran to its end.
        """
        console, started_s = PlainConsole(stderr=True), time.monotonic()
        try:
            with console.status(part):
                self.rows += run() or ()
        except OATError as error:
            self.failed[part] = str(error)
            self.rows.append({"part": part, "not_measured": str(error)})
        console.print(f"{part}: {time.monotonic() - started_s:.1f} s", style="dim", highlight=False)
        return part not in self.failed

    def finish(self, machine: Row, *tables: Table, columns: int = 110, **more: object) -> int:
        """Print the tables, the checks and, as the last line for programs, all of it as JSON.

        Args:
            machine: the machine that the figures belong to.
            tables: the benchmark's own tables, for people.
            columns: width of what is printed to a file or a pipe.
            more: further values of the JSON line.

        Returns:
            Exit status: 2 if a part could not be measured, otherwise 1 if a check fails, otherwise 0.
        """
        console = wide_console(columns=columns)
        for table in tables:
            console.print(table)
        if self.checks:
            console.print(checks_table(self.checks))
        for row in self.rows:
            if "not_measured" in row:
                console.print(f"{next(iter(row.values()))}: not measured: {row['not_measured']}")
        if self.num_left_out:
            print(f"{self.num_left_out} checks are left to the full run: a sample of this size cannot decide them.")
        print_json(self.name, machine=machine, rows=self.rows, checks=self.checks, **more)
        return 2 if self.failed else int(not all(check.ok for check in self.checks))


def print_json(name: str, *, machine: Row, rows: Iterable[Row], checks: Iterable[Check], **more: object) -> None:
    """Print the last line of a benchmark, for programs: a terminal, where people have just read the tables, gets none.

    JSON has no NaN and no infinity, so figures that are neither are null.
    """
    if sys.stdout is not None and sys.stdout.isatty():
        return
    plain = [{key: _number(value) for key, value in row.items()} for row in rows]
    found = [check.as_json() for check in checks]
    print(json.dumps({"name": name, "machine": machine, "rows": plain, "checks": found, **more}))


def _number(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def checks_table(checks: Iterable[Check]) -> Table:
    """Return the checks as a table for people."""
    verdicts = {True: Text("ok", "green"), False: Text("NOT MET", "bold red")}
    lines = [
        (
            check.name,
            "not measured" if check.value is None else check.value,
            check.limit,
            check.unit,
            verdicts[check.ok],
        )
        for check in checks
    ]
    return text_table("Checks", ("check", "value", "limit", "unit", ""), lines)


def text_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """Return figures as a table: right-aligned numbers of four digits, with a dash for what was not measured."""
    table = Table(title=title)
    for number, column in enumerate(columns):
        has_words = any(isinstance(row[number], str | Text) and row[number] for row in rows)
        table.add_column(column, justify="left" if has_words else "right")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else figure_text(cell) for cell in row))
    return table


def figure_text(value: object) -> str:
    """Return a figure in four digits, and a dash for what was not measured."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def wide_console(*, columns: int = 110) -> Console:
    """Return the standard output: as wide as its terminal, or `columns` wide in a file or a pipe."""
    return PlainConsole(width=None if sys.stdout is not None and sys.stdout.isatty() else columns)


def progress(items: Iterable[Item], title: str, *, total: int | None = None) -> Iterator[Item]:
    """Yield `items`, with a bar on the standard error; a title may hold foreign text."""
    return iter(track(items, description=escape(plain(title)), total=total, console=PlainConsole(stderr=True)))


def progress_bar() -> Progress:
    """Return a bar on the standard error, to which log lines go as well; without a terminal it shows nothing."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=PlainConsole(stderr=True), disable=not sys.stderr.isatty())
