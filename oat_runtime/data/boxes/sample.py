"""Fetch a few sessions of `robocup` from their source, each file checked by its hash: what the robot's demo plays.

`robocup_sample.txt` lists them. A line of four words opens a session: its name, its group, the source's commit, and how
many frames follow. A line of three words is a frame: its name, and the SHA-256 of its JPEG and of its text file.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from oat_runtime.errors import DataError
from oat_runtime.extras import require
from oat_runtime.files import write_whole

_URL = "https://raw.githubusercontent.com/andrepool/robocup_ml"
_LIST = Path(__file__).with_name("robocup_sample.txt")


@dataclass(frozen=True, slots=True)
class SampleSession:
    """One session of the sample.

    Attributes:
        name: as `sessions.csv` has it, such as 20260502_r5.
        group: as `sessions.csv` has it.
        commit: of the source that holds its files.
        frames: name and the two hashes of each frame, in their order of time.
    """

    name: str
    group: str
    commit: str
    frames: tuple[tuple[str, str, str], ...]

    @property
    def url(self) -> str:
        """Where its files lie: the source has a folder for each day, and in it one for each robot."""
        return f"{_URL}/{self.commit}/{self.name.replace('_', '/', 1)}"


def sample_sessions() -> tuple[SampleSession, ...]:
    """Return the sessions that the sample holds."""
    lines = iter(_LIST.read_text().splitlines())
    sessions = []
    for line in lines:
        name, group, commit, num = line.split()
        frames = [next(lines).split() for _ in range(int(num))]
        sessions.append(SampleSession(name, group, commit, tuple((a, b, c) for a, b, c in frames)))
    return tuple(sessions)


def fetch_sample(root: Path, *, timeout_s: float = 30.0, progress: Callable[[int, int], None] | None = None) -> None:
    """Fetch the sample to `root`/robocup. What an interrupted call left is not fetched again.

    Args:
        root: becomes a data root that holds a `robocup` of these sessions alone, so nothing else should look there.
        timeout_s: how long the server may stay silent.
        progress: told how many frames of how many are there.

    Raises:
        DataError: a file could not be fetched, or is not what it should be.
        ConfigError: pooch is not installed.
    """
    require("pooch", extra="data", by="a download")
    import pooch

    sessions, folder, done = sample_sessions(), root / "robocup", 0
    total = sum(len(session.frames) for session in sessions)
    pooch.get_logger().setLevel(logging.WARNING)  # it would name each of the files
    for session in sessions:
        for name, *hashes in session.frames:
            for suffix, digest in zip((".jpg", ".txt"), hashes, strict=True):
                try:
                    pooch.retrieve(
                        f"{session.url}/{name}{suffix}",
                        known_hash=f"sha256:{digest}",
                        path=folder / session.name,
                        fname=f"{name}{suffix}",
                        downloader=pooch.HTTPDownloader(timeout=timeout_s),
                    )
                except (OSError, ValueError) as error:
                    raise DataError(f"{session.name}/{name}{suffix} could not be downloaded ({error})") from error
            done += 1
            if progress:
                progress(done, total)
    rows = [f"{session.name},{session.group},{len(session.frames)}" for session in sessions]
    write_whole(folder / "sessions.csv", "\n".join(["session,group,num_frames", *rows, ""]))
