"""Laws of downloads: a set of which files are missing is fetched, and what a kill leaves is never taken for whole."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oat_runtime.data import SOURCES, Split, cifar, load_dataset, sources
from oat_runtime.errors import DataError

pooch = pytest.importorskip("pooch")
NUM = 10
PLACES = {
    "cifar10": "cifar-10-batches-bin/test_batch.bin",
    "cifar100": "cifar-100-binary/train.bin.part",
    "fashion-mnist": "fashion-mnist/train-images-idx3-ubyte.gz",
    "gtsrb": "GTSRB/Final_Training/Images/00000/GT-00000.csv",
    "stl10": "stl10_binary/train_X.bin",
    "svhn": "svhn/tmp",
}
"""A file that each may have after a download that was stopped."""


@pytest.mark.parametrize("name", sorted(PLACES))
def test_after_a_download_that_was_stopped_the_rest_is_fetched(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: a folder that a failed download had made was taken for the data set, which was never fetched."""
    asked: list[str] = []

    def no_network(url: str, **_: object) -> None:
        asked.append(url)
        raise OSError("no network")

    monkeypatch.setattr(pooch, "retrieve", no_network)
    (tmp_path / PLACES[name]).parent.mkdir(parents=True)
    (tmp_path / PLACES[name]).touch()
    splits: list[Split] = ["train"] if name == "cifar10" else ["train", "test"]
    for split in splits:
        with pytest.raises(DataError, match=r"could not be downloaded \(no network\)"):
            load_dataset(name, split, root=tmp_path, download=True)
        with pytest.raises(DataError, match=re.escape(str(tmp_path))):
            load_dataset(name, split, root=tmp_path)
    assert asked == [SOURCES[name].archives[0].url] * len(splits)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small CIFAR-100 in its archive, which is fetched in place of the official one; returns the root."""
    num: dict[Split, int] = {"train": NUM, "test": NUM}
    source = SOURCES["cifar100"]
    locations = (replace(source.locations[0], num_images=num),)
    monkeypatch.setitem(SOURCES, "cifar100", replace(source, locations=locations))
    monkeypatch.setattr(cifar, "_NUM", num)
    folder = tmp_path / "served" / "cifar-100-binary"
    folder.mkdir(parents=True)
    for split in num:
        (folder / f"{split}.bin").write_bytes(np.zeros((NUM, 2 + 3 * 32 * 32), np.uint8).tobytes())
    packed = tmp_path / source.archives[0].file_name
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(folder, folder.name)

    def retrieve(url: str, *, path: Path, fname: str, processor: Callable[..., object], **_: object) -> None:
        path.mkdir(parents=True, exist_ok=True)
        action = "fetch" if (path / fname).exists() else "download"
        shutil.copy(packed, path / fname)
        processor(str(path / fname), action, None)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    return tmp_path / "root"


def download_after_a_kill(
    root: Path, monkeypatch: pytest.MonkeyPatch, where: Any, name: str, killed: Callable[..., None]
) -> None:
    """Download once with a step that is killed, and once more, which must bring both splits whole."""
    with monkeypatch.context() as patch:
        patch.setattr(where, name, killed)
        with pytest.raises(KeyboardInterrupt):
            load_dataset("cifar100", "test", root=root, download=True)
    for split in ("train", "test"):
        assert len(load_dataset("cifar100", split, root=root, download=True)) == NUM  # type: ignore[arg-type]


def test_a_kill_while_an_archive_is_unpacked_leaves_no_file_that_is_cut_off(
    served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: pooch unpacks again only what does not exist, so the file that was being written stayed cut off."""

    def killed(unpack: object, file_name: str, folder: str) -> None:
        for split in ("train", "test"):
            place = Path(folder) / "cifar-100-binary" / f"{split}.bin"
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(b"half")
        raise KeyboardInterrupt

    download_after_a_kill(served, monkeypatch, pooch.Untar, "_extract_file", killed)
    assert sorted(path.name for path in served.iterdir()) == [".lock", "cifar-100-binary", "cifar-100-binary.tar.gz"]


def test_a_kill_while_files_move_to_their_place_is_mended(served: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, moved = sources.os.replace, list[Any]()

    def killed(source: Any, place: Any) -> None:
        if moved:
            raise KeyboardInterrupt
        moved.append(place)
        real(source, place)

    download_after_a_kill(served, monkeypatch, sources.os, "replace", killed)


UNPACKS = """
import sys, time
import pooch
from oat_runtime.data import sources

def halfway(unpack, file_name, folder):
    print(folder, flush=True)
    sys.stdin.readline()

pooch.Untar._extract_file = halfway
sources._unpack(sys.argv[1], "download", None)
"""


@pytest.fixture
def unpacking(tmp_path: Path) -> Iterator[Callable[[], tuple[Any, Path]]]:
    """Start a process that stands still while it unpacks an archive in tmp_path; returns it and its hidden folder."""
    started: list[subprocess.Popen[str]] = []
    with tarfile.open(tmp_path / "some.tar.gz", "w:gz"):
        pass

    def start() -> tuple[Any, Path]:
        command = [sys.executable, "-c", UNPACKS, str(tmp_path / "some.tar.gz")]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        stdout = started[-1].stdout
        assert stdout is not None
        return started[-1], Path(stdout.readline().strip())

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_what_a_killed_process_had_unpacked_goes_at_the_next_start(
    tmp_path: Path, unpacking: Callable[[], tuple[Any, Path]]
) -> None:
    """Regression: SIGKILL left a hidden folder as large as the data set beside it, for good."""
    process, folder = unpacking()
    (folder / "large").touch()
    process.kill()
    process.wait()
    assert folder.is_dir() and folder.parent == tmp_path
    sources._unpack(str(tmp_path / "some.tar.gz"), "download", None)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "some.tar.gz"]


def test_what_a_living_process_unpacks_stays(
    tmp_path: Path, unpacking: Callable[[], tuple[Any, Path]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    process, folder = unpacking()
    second = threading.Thread(target=sources._unpack, args=(str(tmp_path / "some.tar.gz"), "download", None))
    second.start()
    while "waiting for another unpacking" not in caplog.text:
        assert second.is_alive()
        time.sleep(0.01)
    assert folder.is_dir()
    process.communicate("\n")
    second.join()
    assert not folder.exists()


def test_a_zip_is_unpacked_beside_what_is_there_and_its_tables_come_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        for name in ("GTSRB/a.csv", "GTSRB/b/c.ppm", "GTSRB/z.ppm"):
            archive.writestr(name, name)
    (tmp_path / "GTSRB").mkdir()
    (tmp_path / "GTSRB" / "here").touch()
    real, order = sources.os.replace, list[str]()
    monkeypatch.setattr(sources.os, "replace", lambda at, to: (order.append(to.name), real(at, to)))
    sources._unpack(str(tmp_path / "some.zip"), "download", None)
    assert order[-1] == "a.csv" and len(order) == 3
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {".lock", "some.zip", "GTSRB/a.csv", "GTSRB/b/c.ppm", "GTSRB/z.ppm", "GTSRB/here"}
