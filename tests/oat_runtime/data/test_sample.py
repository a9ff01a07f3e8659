"""What the robot's demo fetches is what the source holds, or is refused; and it is a data set like the whole one."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest

from oat_runtime.data import load_frames
from oat_runtime.data.boxes import frames_of_split, sample
from oat_runtime.data.boxes.sample import fetch_sample, sample_sessions
from oat_runtime.errors import DataError

pytest.importorskip("pooch")
BOX = b"0 0.25 0.5 0.25 0.5\n"
SESSIONS = {"20260502_r5": "main", "20190707_r3": "poor_light"}
COMMIT = "0" * 40


class _Quiet(SimpleHTTPRequestHandler):
    asked: list[str]

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, list[str]]]:
    """(folder of a source on this machine with two sessions of two frames, the paths that it was asked for)."""
    served, lines, asked = tmp_path / "served", [], []
    for at, (name, group) in enumerate(SESSIONS.items()):
        folder = served / COMMIT / name.replace("_", "/", 1)
        folder.mkdir(parents=True)
        lines.append(f"{name} {group} {COMMIT} 2")
        for number in range(2):
            image_HWC = np.full((32, 48, 3), 40 * at + 20 * number, np.uint8)
            cv2.imwrite(str(folder / f"cam{number}.jpg"), image_HWC)
            (folder / f"cam{number}.txt").write_bytes(BOX)
            hashes = (
                hashlib.sha256((folder / f"cam{number}{end}").read_bytes()).hexdigest() for end in (".jpg", ".txt")
            )
            lines.append(" ".join((f"cam{number}", *hashes)))
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join(lines) + "\n")
    handler = type("_Handler", (_Quiet,), {"asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(served)))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    monkeypatch.setattr(sample, "_LIST", listed)
    monkeypatch.setattr(sample, "_URL", f"http://127.0.0.1:{server.server_port}")
    yield served / COMMIT, asked
    server.shutdown()
    server.server_close()
    thread.join()


def test_what_is_fetched_is_read_as_the_sessions_that_it_is(tmp_path, source) -> None:
    told: list[tuple[int, int]] = []
    fetch_sample(tmp_path / "root", progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    for name, session in (("robocup", "20260502_r5"), ("robocup-poor-light", "20190707_r3")):
        frames = frames_of_split(load_frames(name, root=tmp_path / "root"), "test")
        assert [frame.name for frame in frames] == [f"{session}/cam0.jpg", f"{session}/cam1.jpg"]
        assert frames[0].labels_N.tolist() == [0] and frames[0].read().shape == (32, 48, 3)


def test_a_file_that_is_not_what_it_should_be_is_refused_and_nothing_counts_as_fetched(tmp_path, source) -> None:
    served, _ = source
    (served / "20190707" / "r3" / "cam1.txt").write_bytes(BOX + BOX)
    with pytest.raises(DataError, match=r"20190707_r3/cam1\.txt could not be downloaded"):
        fetch_sample(tmp_path / "root")
    assert not (tmp_path / "root" / "robocup" / "sessions.csv").exists()


def test_an_interrupted_download_goes_on_where_it_stopped(tmp_path, source) -> None:
    served, asked = source
    lost = served / "20190707" / "r3" / "cam0.jpg"
    content = lost.read_bytes()
    lost.unlink()
    with pytest.raises(DataError, match="could not be downloaded"):
        fetch_sample(tmp_path / "root")
    lost.write_bytes(content)
    asked.clear()
    fetch_sample(tmp_path / "root")
    assert len(asked) == 4 and all("20190707" in path for path in asked)


def test_the_shipped_list_names_each_file_once() -> None:
    sessions = sample_sessions()
    for session in sessions:
        assert session.group in ("main", "poor_light") and len(session.commit) == 40
        names, pictures, _ = zip(*session.frames, strict=True)
        assert list(names) == sorted(set(names)) and len(set(pictures)) == len(pictures)
        assert all(len(digest) == 64 for frame in session.frames for digest in frame[1:])
    assert sum(len(session.frames) for session in sessions) > 200
