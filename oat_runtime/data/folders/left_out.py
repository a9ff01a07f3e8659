"""Keep account of what a folder holds beside the pictures that are read, and show it as one table."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from oat_runtime.errors import DataError
from oat_runtime.text import plain, some

_LOG = logging.getLogger(__name__)
_MOST_NAMED = 20

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
    "image in no split",
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


def refuse_or_leave_out(
    wrong: Mapping[str, str], left_out: LeftOut, reason: Reason, *, refusal: str, skip_broken: bool
) -> None:
    """Log what is wrong with the first ones, and refuse all of them or leave them out.

    Args:
        wrong: name to what is wrong with it; nothing happens if it is empty.
        left_out: takes them.
        reason: under which it takes them.
        refusal: how the error begins: how many there are, and how to mend them.
        skip_broken: leave them out.

    Raises:
        DataError: there are some, and they are not to be left out.
    """
    for line in list(wrong.values())[:_MOST_NAMED]:
        _LOG.log(logging.WARNING if skip_broken else logging.ERROR, "%s", plain(line))
    if wrong and not skip_broken:
        names = some(list(wrong), _MOST_NAMED)
        raise DataError(f"{refusal}, or leave them out (oat-train --skip-broken): {names}")
    for name in wrong:
        left_out.add(reason, name)
