"""Text that attacks: hostile names against everything that prints them. Each prints harmlessly, and stays readable."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich import box
from rich.table import Table

from oat_runtime.report import Check, checks_table, text_table
from oat_runtime.text import PlainConsole, html_text, markdown_code, markdown_text, plain
from tests.oat_runtime.hostile import HOSTILE, MOVES

ROOT = Path(__file__).parents[2]


def printed(*things: object) -> str:
    file = io.StringIO()
    PlainConsole(file=file, width=200, force_terminal=False, color_system=None).print(*things)
    return file.getvalue()


def row(name: str) -> str:
    return printed(text_table(name, (name, "b"), [(name, 1.0)]))


SINKS: dict[str, Callable[[str], str]] = {
    "plain": plain,
    "console": printed,
    "console table": row,
    "console checks": lambda name: printed(checks_table([Check(name, 1.0, 2.0, name, ok=True)])),
    "html": html_text,
    "markdown": markdown_text,
    "markdown code": markdown_code,
}


@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize("name", HOSTILE)
def test_no_sink_passes_on_what_a_terminal_obeys(name: str, sink: str) -> None:
    shown = SINKS[sink](HOSTILE[name])
    assert not MOVES.search(shown)
    assert shown.encode()
    if not sink.startswith("console"):
        assert "\n" not in shown


@pytest.mark.parametrize("name", ["rich", "markdown", "html", "table", "mathtext"])
def test_what_is_only_text_stays_as_it_is_in_a_terminal(name: str) -> None:
    assert plain(HOSTILE[name]) == HOSTILE[name]
    assert printed(HOSTILE[name]).strip() == HOSTILE[name]
    assert HOSTILE[name] in row(HOSTILE[name])


def test_text_in_any_script_stays_as_it_is() -> None:
    for text in ("λ = 0.4, ε = 8/255", "Überholverbot", "停", "قف", "ok 👍", "no passing for trucks"):
        assert plain(text) == text
        assert html_text(text) == text
        assert markdown_text(text) == text


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, list[str]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, [name for name, _ in attrs]))

    def handle_data(self, data: str) -> None:
        self.text += data


@given(st.sampled_from(sorted(HOSTILE.values())) | st.text())
def test_html_has_no_tag_and_no_attribute_that_came_from_elsewhere(name: str) -> None:
    reader = _Reader()
    reader.feed(f"<p title='{html_text(name)}'>{html_text(name)}</p><i title=\"{html_text(name)}\">")
    assert reader.tags == [("p", ["title"]), ("i", ["title"])]
    assert reader.text == plain(name)


def _markdown() -> Any:
    return pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable(["table", "strikethrough"])


def test_markdown_holds_nothing_that_github_makes_a_link_of() -> None:
    shown = markdown_text(HOSTILE["bare links"])
    assert shown == r"http\://a.b www\.a.b a\@b.c"


@given(st.sampled_from(sorted(HOSTILE.values())) | st.text(max_size=60) | st.text("_0 a.", max_size=8))
@example("__0__")
def test_markdown_makes_one_paragraph_of_plain_text_of_it(name: str) -> None:
    tokens = _markdown().parse(f"Name: {markdown_text(name)}.")
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    pieces = tokens[1].children
    assert {piece.type for piece in pieces} <= {"text", "text_special"}
    assert "".join(piece.content for piece in pieces) == f"Name: {plain(name)}."


def test_a_table_with_styled_cells_keeps_them() -> None:
    table = Table("a", box=box.ASCII)
    file = io.StringIO()
    PlainConsole(file=file, width=60, force_terminal=True, color_system="standard").print(
        checks_table([Check("slow", 3.0, 2.0, "ms", ok=False)]), table
    )
    assert "\x1b[1;31mNOT MET" in file.getvalue()


def test_every_console_of_ours_prints_plain_text() -> None:
    """A new command that makes its own rich console would read markup in whatever it prints."""
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for package in ("oat_runtime", "policy", "training", "ros2_ws/src/oat_perception", "examples", "tools")
        for path in (ROOT / package).rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"(?<![A-Za-z])Console\(", line) and "class PlainConsole" not in line
    ]
    assert found == []
