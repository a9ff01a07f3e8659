"""Reads the commands out of the project's pages: every line of their shell blocks, as a person copies it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
# The log is left out: an entry names the command that was run on its day, and is not mended when a command changes.
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs/results").glob("*.md")),
    *sorted((ROOT / "ros2_ws/src").glob("*/*.md")),
]
SHELLS = {"bash", "sh", "shell", "console"}
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_BEFORE_COMMENT = re.compile(r"""(?:"[^"]*"|'[^']*'|(?<=\S)#|[^"'#])*""")
_CONTINUED = re.compile(r"\s*\\\n\s*")
_PROGRAM = re.compile(r"(\.venv\S*/bin/)?(python3?|torchrun|oat-\w+|make|pip|ros2|sudo|source|\.) ")
_WHOLE = re.compile(r"(\.venv\S*/bin/)?(python3? -m|torchrun|oat-\w+|ros2 \w+|pip \w+) ?\S*.* ([^-\s]\S*|--list)$")


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a page.

    Attributes:
        page: its path from the project's root.
        line: where it begins.
        text: as it is typed, in one line and without its comment.
    """

    page: str
    line: int
    text: str

    def __str__(self) -> str:
        """Return where it stands and what it is."""
        return f"{self.page}:{self.line} {self.text}"


def _split(typed: str) -> tuple[str, str]:
    """Return a line's command and its comment."""
    before = _BEFORE_COMMENT.match(typed)
    end = before.end() if before is not None else 0
    return typed[:end].strip(), typed[end:]


def commands_of(page: str, text: str) -> list[Command]:
    """Return the commands in the shell blocks of a page, and those whole ones that stand in its sentences, in order."""
    found, sentences = [], text
    for block in _FENCE.finditer(text):
        sentences = sentences.replace(block[0], "\n" * block[0].count("\n"), 1)
        if block[1] in SHELLS or (not block[1] and _PROGRAM.match(block[2])):
            joined = _CONTINUED.sub(lambda end: " " + "\0" * end[0].count("\n"), block[2])
            line = text.count("\n", 0, block.start(2)) + 1
            for typed in joined.splitlines():
                command, comment = _split(typed.replace("\0", ""))
                if comment and not comment.startswith("#"):
                    raise ValueError(f"{page}:{line}: a quote does not close")
                found += [Command(page, line, command)] if command else []
                line += 1 + typed.count("\0")
    for span in _INLINE.finditer(sentences):
        command = " ".join(span[1].split())
        if _WHOLE.match(command) and not re.search(r"[A-Z]{3,}|\.\.\.|<\w+>", command):
            found.append(Command(page, sentences.count("\n", 0, span.start()) + 1, command))
    return sorted(found, key=lambda command: command.line)


def documented() -> list[Command]:
    """Return every command of every page."""
    return [
        command
        for path in PAGES
        for command in commands_of(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"))
    ]


if __name__ == "__main__":
    print(*documented(), sep="\n")
