"""Keep account of what a folder holds beside the pictures that are read, and show it as one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from oat_runtime.text import some

Reason = Literal[
    "hidden folder",
    "hidden file",
    "system folder",
    "system file",
    "link to a folder that is read already",
    "link to a folder around this one",
    "link to nothing",
    "not an image",
    "not a file",
    "image outside the class folders",
    "broken image",
    "image without a text file",
    "image in no split of data.yaml",
    "wrong text file",
    "box that occurs twice",
    "box that is too small",
    "background crop without room",
]


@dataclass
class LeftOut:
    """What was left out, by reason: names below the folder, in the order in which they were met.

    Attributes:
        names: reason to names.
    """

    names: dict[Reason, list[str]] = field(default_factory=dict)

    def add(self, reason: Reason, name: str) -> None:
        """Leave one thing out. A folder counts once, however much it holds."""
        self.names.setdefault(reason, []).append(name)

    def counts(self) -> Mapping[Reason, int]:
        """Return how many there are of each reason."""
        return {reason: len(self.names[reason]) for reason in get_args(Reason) if reason in self.names}

    def rows(self) -> list[str]:
        """Return a line a reason: how many, why, and the first names."""
        return [
            f"{count:8d} left out: {reason} ({some(self.names[reason])})" for reason, count in self.counts().items()
        ]
