"""Every link in Markdown, and every page that code names, leads somewhere; the bounds that a page names hold."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from oat_runtime import files
from oat_runtime.bundle import tensor_files
from oat_runtime.data.folders import decode_cache

ROOT = Path(__file__).parents[1]
CODE = ("oat_runtime", "policy", "training", "ros2_ws/src", "tests", "tools", "examples")
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "ros2_ws/src").rglob("*.md")]


def _anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_to_a_file_and_a_heading_that_exist() -> None:
    broken = []
    for page in PAGES:
        for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
            name, _, anchor = link.partition("#")
            target = (page.parent / name).resolve() if name else page
            if not target.exists() or (anchor and anchor not in _anchors(target)):
                broken.append(f"{page.relative_to(ROOT)}: {link}")
    assert not broken


def test_pages_that_code_names_exist() -> None:
    missing = []
    for file in (file for folder in CODE for file in (ROOT / folder).rglob("*.*")):
        if file.suffix in {".py", ".sh", ".yaml"}:
            names = re.findall(r"\bdocs/[\w/-]+\.md\b", file.read_text(encoding="utf-8"))
            missing += [f"{file.relative_to(ROOT)}: {name}" for name in names if not (ROOT / name).exists()]
    assert not missing


def test_every_test_that_the_security_page_names_exists() -> None:
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[a-z_/]+\.py)`", page)
    assert len(named) > 15
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_the_security_page_names_the_bounds_of_json_that_hold() -> None:
    pytest.importorskip("torch")
    from training import split

    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    (row,) = (line for line in page.splitlines() if line.startswith("| JSON |"))
    mib = 2**20
    for bound in (
        f"{files.MAX_JSON_BYTES // mib} MiB",
        f"the header of a file of tensors: {tensor_files.MAX_HEADER_BYTES // mib};",
        f"the record of a folder's decoded pictures: {decode_cache._MOST_BYTES // mib};",
        f"a run's data record: {split._MOST_BYTES // mib})",
        f"{files.MAX_JSON_VALUES:,} values",
        f"a run's data record: {split._MOST_VALUES:,})",
        f"{files.MAX_JSON_DEPTH} levels",
        f"{files._MAX_DIGITS} digits",
    ):
        assert bound in row
