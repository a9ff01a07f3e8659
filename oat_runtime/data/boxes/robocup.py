"""Know `robocup`: what robots of RoboCup's Middle Size League saw, with boxes drawn by hand, one folder a session.

The frames come from github.com/andrepool/robocup_ml (Apache-2.0), reduced to 456 × 600 pixels. `sessions.csv` beside
the sessions says how many frames each has, and in which light they were taken. Crops are of balls, robots (parked ones
too), humans, goal posts and background.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from oat_runtime.data.boxes.description import BACKGROUND, CropRules, Description, text_of
from oat_runtime.data.boxes.index import BoxIndex, index_boxes
from oat_runtime.data.folders.layout import Part
from oat_runtime.errors import DataError

_TABLE = "sessions.csv"
_FIRST_TEST_DAY = "20260312"
_VALIDATION_EVERY = 6
"""Every sixth training session in their order of time: a single one, drawn by chance, says little about the others."""


@dataclass(frozen=True, slots=True)
class Session:
    """A row of `sessions.csv`."""

    name: str
    group: str
    num_frames: int


@dataclass(frozen=True, slots=True)
class BoxSource:
    """Frames with boxes that are known by name.

    Attributes:
        title: for people.
        folder: that holds the sessions and their table, below a data root.
        description: class names and crops.
        part_of: the split of a session; None where it is of none. Some training sessions then become validation.
        mirrors: whether a mirror image keeps its class.
    """

    title: str
    folder: str
    description: Description
    part_of: Callable[[Session], Part | None]
    mirrors: bool = True

    def index(self, roots: tuple[Path, ...]) -> BoxIndex:
        """Return the frames of all splits from the first data root that holds them.

        Raises:
            DataError: none does, or the copy is damaged or incomplete.
        """
        root = next((place / self.folder for place in roots if (place / self.folder / _TABLE).is_file()), None)
        if root is None:
            raise DataError(
                f"no {self.title} under {' or '.join(map(str, roots))}: expected {self.folder}/{_TABLE} and a folder "
                "for each session; name the folder that holds it, or set OAT_DATA to it"
            )
        index = index_boxes(root, description=self.description)
        sessions = _sessions(root / _TABLE)
        found = Counter(frame.session for frame in index.frames)
        for name, session in sessions.items():
            if found.pop(name, 0) != session.num_frames:
                raise DataError(
                    f"{root / name}: expected {session.num_frames} frames, as in {_TABLE}: the copy differs"
                )
        if found:
            raise DataError(f"{root}: {min(found)} is not in {_TABLE}: remove the folder")
        part_of = {name: part for name, session in sessions.items() if (part := self.part_of(session)) is not None}
        training = sorted(name for name, part in part_of.items() if part == "train")
        part_of |= dict.fromkeys(training[_VALIDATION_EVERY - 1 :: _VALIDATION_EVERY], "validation")
        frames = tuple(
            replace(frame, part=part_of[frame.session]) for frame in index.frames if frame.session in part_of
        )
        parts: tuple[Part, ...] = ("train", "validation", "test")
        found_parts = {frame.part for frame in frames} | {"test"}
        return replace(index, frames=frames, parts=tuple(part for part in parts if part in found_parts))


def _sessions(table: Path) -> dict[str, Session]:
    try:
        rows = list(csv.DictReader(io.StringIO(text_of(table, 2**20))))
        sessions = [Session(row["session"], row["group"], int(row["num_frames"])) for row in rows]
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise DataError(f"{table} is damaged (expected session, group, num_frames): copy the data set again") from error
    return {session.name: session for session in sessions}


def _by_day(session: Session) -> Part | None:
    if session.group != "main":
        return None
    return "test" if session.name >= _FIRST_TEST_DAY else "train"


def _poor_light(session: Session) -> Part | None:
    return "test" if session.group == "poor_light" else None


_NAMES = ("ball", "robot", "human", "robot", "goal post")
_TITLE = "frames of RoboCup's Middle Size League"

BOX_SOURCES: dict[str, BoxSource] = {
    "robocup": BoxSource(_TITLE, "robocup", Description(_NAMES), _by_day),
    "robocup-poor-light": BoxSource(
        _TITLE, "robocup", Description((*_NAMES, BACKGROUND), CropRules(backgrounds_per_frame=0)), _poor_light
    ),
}
"""`robocup`: sessions in usable light. Those from 12 March 2026 on are the test set, every sixth before is validation.
`robocup-poor-light`: the others, a test set alone. Its labels are incomplete, so it has no background crops."""
