"""Hostile names of attacks, machines, commands and kinds: the page and the published Markdown print them harmlessly."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from oat_runtime.report import Check
from tests.oat_runtime.hostile import HOSTILE, MOVES
from training.evaluation.documents import Document
from training.evaluation.page import write_page
from training.evaluation.results_page import _section
from training.evaluation.suite import Job
from training.evaluation.text_table import markdown, new_table

SHORT = {name: text[:300] for name, text in HOSTILE.items() if name != "half a character"}  # no JSON file has one
OWN = {"lang", "charset", "name", "content", "class", "style", "alt", "src"}
FOREIGN = {"script", "a", "i", "b"}


def _document(documents: dict[str, Document], text: str) -> Document:
    """What a suite wrote, with `text` wherever a file may hold any."""
    found = documents["attacks"]
    rows = [row | {"condition": text + row["condition"]} if row["condition"] != "clean" else row for row in found.rows]
    return found.model_copy(
        update={
            "rows": rows,
            "attacks": tuple(attack.model_copy(update={"name": text + attack.name}) for attack in found.attacks),
            "checks": (Check(text, 1.0, 2.0, text, ok=True),),
            "warnings": ({"lambda": 0.3, "width": 0.5, "text": text},),
            "machine": {"processor": text, "threads": 1},
            "command": text,
        }
    )


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


@pytest.mark.parametrize("name", SHORT)
def test_a_name_is_one_cell_of_a_markdown_table(name: str) -> None:
    table = new_table("a", SHORT[name])
    table.add_row(SHORT[name], "1")
    shown = markdown(table)
    tokens = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable(["table"]).parse(shown)
    assert [token.type for token in tokens].count("td_open") == [token.type for token in tokens].count("th_open") == 2
    inside = {child.type for token in tokens for child in token.children or ()}
    assert inside <= {"text", "text_special"} and not MOVES.search(shown)


def test_the_page_and_the_published_tables_hold_text_and_nothing_else(
    job: Job, documents: dict[str, Document], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    for name in ("colour", "html", "attribute", "mathtext", "lines", "right to left", "table", "rich"):
        folder = tmp_path / name.replace(" ", "-")
        folder.mkdir()
        document = _document(documents, SHORT[name])
        (folder / "attacks.json").write_text(json.dumps(document.model_dump()))
        page = write_page(job.judged, folder, folder / "plots").read_text()
        reader = _Tags()
        reader.feed(page)
        assert not reader.tags & FOREIGN and reader.attributes <= OWN, name
        assert not MOVES.search(page), name


@pytest.mark.parametrize("name", SHORT)
def test_a_published_section_holds_text_and_tables_and_nothing_else(name: str, documents: dict[str, Document]) -> None:
    text = "\n\n".join(_section("attacks", _document(documents, SHORT[name])))
    assert not MOVES.search(text)
    tokens = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable(["table"]).parse(text)
    assert {child.type for token in tokens for child in token.children or ()} <= {"text", "text_special", "softbreak"}
    kinds = [token.type for token in tokens]
    assert "html_block" not in kinds and kinds.count("heading_open") == kinds.count("fence") == 1
