"""Lay out counts as tables of text, for a terminal or as Markdown."""

from __future__ import annotations

import io
from typing import Any

from rich import box
from rich.table import Column, Table
from rich.text import Text

from oat_runtime.operating_point import Proportion
from oat_runtime.report import Row
from oat_runtime.text import PlainConsole, markdown_text


def new_table(*columns: str) -> Table:
    """Return an empty table with right-aligned cells."""
    return Table(*(Column(name, justify="right", overflow="fold") for name in columns))


def by_condition(rows: list[Row]) -> Table:
    """Return a line for each operating point, with a column for each condition."""
    conditions = list(dict.fromkeys(row["condition"] for row in rows))
    table = new_table("width", "λ", *conditions)
    points: dict[tuple[Any, Any], dict[str, str]] = {}
    for row in rows:
        points.setdefault((row["width"], row["lambda"]), {})[row["condition"]] = share_of(row)
    for point, cells in points.items():
        at = ("any" if value is None else f"{value:g}" for value in point)
        table.add_row(*at, *(cells.get(condition, "") for condition in conditions))
    return table


def share_of(row: Row) -> str:
    """Return the share of a counted row, as `share`."""
    return share(Proportion(row["num_correct"], row["num_total"]))


def share(count: Proportion) -> str:
    """Return per cent ± the distance to the interval's farther end, without blanks, so that no table splits it."""
    low, high = count.interval()
    return f"{100 * count.rate:.1f}±{100 * max(high - count.rate, count.rate - low):.1f}"


class _MarkdownConsole(PlainConsole):
    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(markdown_text(text), **options)


def markdown(table: Table) -> str:
    """Return the table as Markdown, whose cells mean nothing but themselves."""
    table.box = box.MARKDOWN
    text = io.StringIO()
    _MarkdownConsole(file=text, width=1000, color_system=None).print(table)
    return "\n".join(line.strip() for line in text.getvalue().strip().splitlines())
