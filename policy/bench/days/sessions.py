"""Put sessions into venues, and venues into orders: what a robot meets one after the other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray

from oat_runtime.data import load_frames
from oat_runtime.data.boxes import BOX_SOURCES, BoxFrame, BoxIndex, frames_of_split
from oat_runtime.errors import DataError

_MOST_DAYS_APART = 3
"""Sessions of a tournament lie at most so many days apart; other events are weeks away."""
_ADVERSE = "-poor-light"
"""Behind a data set's name: another one, of sessions that are worse than those trained on."""


@dataclass(frozen=True, slots=True)
class Session:
    """Frames of one robot on one day, in their order of time.

    Attributes:
        name: of its folder.
        venue: of the event, shared by sessions of neighbouring days.
        is_adverse: it was set apart as worse than what the network was trained on.
        frames: as they were taken, seconds to minutes apart.
        index: what they are part of.
    """

    name: str
    venue: str
    is_adverse: bool
    frames: tuple[BoxFrame, ...]
    index: BoxIndex


def sessions_of(dataset: str, *, root: object = None, most_frames: int | None = None) -> list[Session]:
    """Return the test sessions of a data set, and those of its adverse part if it has one.

    Args:
        dataset: name or path, with or without `@SIDE`.
        root: folder that holds the data set.
        most_frames: of each session, evenly spread; None: all.

    Raises:
        DataError: the data set has no frames with boxes, or no test frames.
    """
    name = dataset.partition("@")[0]
    found = []
    for part, is_adverse in ((name, False), (name + _ADVERSE, True)):
        if is_adverse and part not in BOX_SOURCES:
            continue
        index = load_frames(part, root=root)  # type: ignore[arg-type]
        by_session: dict[str, list[BoxFrame]] = {}
        for frame in frames_of_split(index, "test"):
            if len(frame.labels_N):
                by_session.setdefault(frame.session, []).append(frame)
        found += [(session, is_adverse, frames, index) for session, frames in by_session.items()]
    if not found:
        raise DataError(f"{name}: no test frames with boxes: the days are played with frames of the test set")
    venues = venues_of([session for session, *_ in found])
    return [
        Session(session, venue, is_adverse, tuple(_spread(frames, most_frames)), index)
        for (session, is_adverse, frames, index), venue in zip(found, venues, strict=True)
    ]


def venues_of(names: Sequence[str]) -> list[str]:
    """Return the venue of each session: the first day of an event, for names that begin with YYYYMMDD.

    Sessions that name no day are venues of their own.
    """
    days = {name: _day(name) for name in names}
    venue: dict[str, str] = {}
    last: tuple[date, str] | None = None
    for name in sorted(names, key=lambda name: (days[name] or date.max, name)):
        day = days[name]
        if day is None:
            venue[name] = name
            continue
        near = last is not None and (day - last[0]).days <= _MOST_DAYS_APART
        venue[name] = last[1] if near and last is not None else day.isoformat()
        last = day, venue[name]
    return [venue[name] for name in names]


def orders_of(sessions: Sequence[Session], *, num: int) -> list[list[int]]:
    """Return orders of all sessions: venues shuffled, the sessions of each in their order of time."""
    rng = np.random.default_rng(0)
    venues = list(dict.fromkeys(session.venue for session in sessions))
    members = {
        venue: sorted((s for s, one in enumerate(sessions) if one.venue == venue), key=lambda s: sessions[s].name)
        for venue in venues
    }
    shuffled: list[NDArray[np.int64]] = [rng.permutation(len(venues)) for _ in range(num)]
    return [[s for v in order.tolist() for s in members[venues[v]]] for order in shuffled]


def _day(name: str) -> date | None:
    found = re.match(r"(\d{4})(\d{2})(\d{2})(?!\d)", name.rpartition("/")[2])
    try:
        return None if found is None else date(*map(int, found.groups()))
    except ValueError:
        return None


def _spread(frames: Sequence[BoxFrame], most: int | None) -> list[BoxFrame]:
    if most is None or len(frames) <= most:
        return list(frames)
    return [frames[at] for at in np.linspace(0, len(frames) - 1, most).round().astype(int)]
