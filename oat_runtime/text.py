"""Text that came from elsewhere, made harmless for people: in a terminal or a log, in HTML, and in Markdown.

Names of classes, phases, attacks and bundles, reasons and file names are data. Whatever they hold, they move no cursor,
reverse no line, colour nothing, and add no link, no script, no row and no column.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from oat_runtime.errors import one_line

_MARKDOWN = re.compile(
    r"[\\`*\[\]<>|~&@]|(?<![^\W_])_|_(?![^\W_])"  # what means something anywhere; one `_` in a word does not
    r"|:(?=//)|(?<=www)\."  # what GitHub makes a link of
    r"|^#+(?=\s|$)|^[-+](?=\s|$)|^[0-9]+(?=[.)](?:\s|$))|^[-=]+$",  # what begins a block
    re.IGNORECASE,
)
_BACKTICKS = re.compile("`+")


def plain(text: object) -> str:
    """Return text for a terminal, a log or a figure: one line, where a character that does not print is its escape.

    Those are control characters, line ends, marks of direction, and halves of characters.
    """
    whole = text if isinstance(text, str) else str(text)
    return whole if whole.isprintable() else one_line(whole, most=len(whole))


def count_of(num: object, noun: str) -> str:
    """Return `1 picture`, `2 pictures`."""
    return f"{num} {noun}" + ("" if str(num) == "1" else "s")


def some(names: Sequence[str], most: int = 3) -> str:
    """Return the first names, and how many there are besides."""
    more = len(names) - most
    return ", ".join(plain(name) for name in names[:most]) + (f" and {more} more" if more > 0 else "")


def changed_names(before: Sequence[str], now: Sequence[str]) -> str:
    """Return `stop became halt`: the names that went and those that came; or that they stand in another order."""
    gone = [name for name in before if name not in now]
    new = [name for name in now if name not in before]
    return f"{some(gone) or 'none'} became {some(new) or 'none'}" if gone or new else "another order"


def html_text(text: object) -> str:
    """Return text for HTML, between tags or within a quoted attribute."""
    return html.escape(plain(text))


def markdown_text(text: object) -> str:
    """Return text for a sentence, a heading or a cell of Markdown, where it means nothing but itself."""
    return _MARKDOWN.sub(_escaped, plain(text))


def _escaped(found: re.Match[str]) -> str:
    first, rest = found[0][0], found[0][1:]
    if first in "<>&":
        return html.escape(first)
    return f"&#{ord(first)};{rest}" if first.isdigit() else f"\\{first}{rest}"


def markdown_code(text: object) -> str:
    """Return text as a span of code in Markdown."""
    return f"`{_BACKTICKS.sub(_quotes, plain(text)) or ' '}`"


def markdown_block(text: object) -> str:
    """Return text as a block of code in Markdown."""
    return f"```\n{plain(text).replace('```', 3 * chr(39))}\n```"


def _quotes(found: re.Match[str]) -> str:
    return "'" * len(found[0])


class PlainConsole(Console):
    """A console for text that came from elsewhere: it reads no markup in it, and prints it as `plain` does.

    Line ends stay. Style comes from `rich.text.Text` alone, whose content is the caller's to make plain.
    """

    def __init__(self, **options: Any) -> None:
        """Take the options of `rich.console.Console`, but for `markup` and `emoji`."""
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a string as it is printed: cells of tables, titles, arguments of `print`."""
        return super().render_str("\n".join(map(plain, text.split("\n"))), **options)
