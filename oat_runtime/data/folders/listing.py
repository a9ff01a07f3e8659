"""List the pictures below a class's folder. What systems and programs leave behind is left out and counted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from oat_runtime.data.folders.left_out import LeftOut
from oat_runtime.data.image_files import in_frame_order, is_picture
from oat_runtime.errors import DataError

SYSTEM_FOLDERS = frozenset(
    {
        *("@eadir", "@recently-snapshot", "@tmp", "#recycle", "#snapshot", "network trash folder", "temporary items"),
        *("$recycle.bin", "recycler", "recycled", "system volume information", "found.000"),
        *("__macosx", "lost+found", "__pycache__"),
    }
)
"""Folders of NAS boxes, archivers and operating systems; compared without regard to case."""
SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r"})


@dataclass(frozen=True, slots=True)
class Found:
    """A picture.

    Attributes:
        path: of the file.
        name: below the data set's folder, with `/`, in characters that can be written anywhere.
        place: the folder that it lies in, below the data set's folder; empty directly in its class's.
    """

    path: Path
    name: str
    place: str


class Listing:
    """Walk through folders of one data set, each of them once: links are followed where they lead out of it."""

    def __init__(self, root: Path, left_out: LeftOut) -> None:
        """Take note of all folders that are there without a link.

        Args:
            root: folder of the data set.
            left_out: where it says what it leaves out.
        """
        self.root, self.left_out = root, left_out
        self._around = {_identity(folder) for folder in (root.resolve(), *root.resolve().parents)}
        self._own = {_identity(Path(folder)) for folder, _, _ in os.walk(root)}
        self._followed: set[tuple[int, int]] = set()

    def folders(self, folder: Path) -> list[Path]:
        """Return the folders in `folder` that are no system's; files in it are left out."""
        folders = []
        for path, is_folder in self._visible(folder):
            if is_folder:
                folders.append(path)
            elif is_picture(path):
                self.left_out.add("image outside the class folders", self.name(path))
            else:
                self.left_out.add("not an image", self.name(path))
        return folders

    def images(self, folder: Path) -> list[Found]:
        """Return the pictures in `folder` and below it, in the order of frames.

        Those in a format that is not read are among them.
        """
        paths = []
        for path in self.files(folder):
            if is_picture(path):
                paths.append(path)
            else:
                self.left_out.add("not an image", self.name(path))
        return [
            Found(path, self.name(path), "" if path.parent == folder else self.name(path.parent))
            for path in in_frame_order(paths)
        ]

    def files(self, folder: Path) -> Iterator[Path]:
        """Yield the files in `folder` and below it that no system has left behind."""
        waiting = [folder]
        while waiting:
            for path, is_folder in self._visible(waiting.pop()):
                if is_folder:
                    waiting.append(path)
                else:
                    yield path

    def name(self, path: Path) -> str:
        """Return a path below the data set's folder as text."""
        return os.fsencode(path.relative_to(self.root).as_posix()).decode("utf-8", "backslashreplace")

    def _visible(self, folder: Path) -> Iterator[tuple[Path, bool]]:
        """Yield (path, whether it is a folder) of what no system has left behind."""
        try:
            paths = sorted(folder.iterdir())
        except OSError as error:
            raise DataError(
                f"{folder} cannot be listed ({error.strerror}): give yourself the right to read it"
            ) from error
        for path in paths:
            if path.is_dir():
                if self._is_wanted(path):
                    yield path, True
                continue
            if path.name.startswith("."):
                self.left_out.add("hidden file", self.name(path))
            elif path.name.lower() in SYSTEM_FILES:
                self.left_out.add("system file", self.name(path))
            elif path.is_symlink() and not path.exists():
                self.left_out.add("link to nothing", self.name(path))
            elif not path.is_file():
                self.left_out.add("not a file", self.name(path))
            else:
                yield path, False

    def _is_wanted(self, folder: Path) -> bool:
        name = f"{self.name(folder)}/"
        if folder.name.startswith("."):
            self.left_out.add("hidden folder", name)
        elif folder.name.lower() in SYSTEM_FOLDERS:
            self.left_out.add("system folder", name)
        elif _identity(folder) in self._around:
            self.left_out.add("link to a folder around this one", name)
        elif _identity(folder) in self._followed or (folder.is_symlink() and _identity(folder) in self._own):
            self.left_out.add("link to a folder that is read already", name)
        else:
            if folder.is_symlink() or _identity(folder) not in self._own:
                self._followed.add(_identity(folder))
            return True
        return False


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
