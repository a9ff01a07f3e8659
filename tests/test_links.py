"""Every link in Markdown, and every page that code names, leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

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
