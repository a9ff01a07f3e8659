"""Tell how a folder of pictures is laid out, by names alone: which are its splits, its classes, its groups.

```text
FOLDER/CLASS/...                  one folder of classes; a fifth of each class is the test set
FOLDER/{train,test}/CLASS/...     also training/testing, in any case
FOLDER/{train,val}/CLASS/...      also valid, validation; a fifth of train/ is the test set
FOLDER/{train,val,test}/CLASS/...
```

What could be read in two ways is refused by name.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from oat_runtime.data.folders.left_out import LeftOut
from oat_runtime.data.folders.listing import Found, Listing
from oat_runtime.data.image_files import IMAGE_SUFFIXES
from oat_runtime.errors import DataError, quoted
from oat_runtime.text import some

Part = Literal["train", "validation", "test"]
PARTS: dict[str, Part] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
"""Names of folders that are splits, in any case."""
MOST_CHARACTERS = 200
"""Of a class's name, in a bundle too."""
_NOT_UTF_8 = re.compile(r"[\ud800-\udfff]")
_LIKE_A_SPLIT = re.compile(
    r"(?<![a-z])(train(?:ing)?|val(?:id(?:ation)?)?|test(?:ing)?)(?=[^a-z]|set|data|images?|$)", re.IGNORECASE
)
_EXPECTED = "expected FOLDER/CLASS/..., or FOLDER/train/CLASS/... with val/ or test/ or both beside train/"


@dataclass(frozen=True, slots=True)
class Entry:
    """A picture and its place.

    Attributes:
        path: of the file.
        name: below the folder.
        label: index of its class.
        group: the subfolder of its class that it lies in; empty where all the class's pictures lie in one place.
        part: the split that its folder names; `train` where the folder has no splits.
    """

    path: Path
    name: str
    label: int
    group: str
    part: Part


@dataclass(frozen=True, slots=True)
class FolderIndex:
    """All pictures of a folder by name; none was opened.

    Attributes:
        root: the folder.
        class_names: in alphabetical order.
        entries: by class, then split, then in the order of frames.
        parts: splits that the folder names; empty for one folder of classes.
        left_out: what is no picture of a class.
    """

    root: Path
    class_names: tuple[str, ...]
    entries: tuple[Entry, ...]
    parts: tuple[Part, ...]
    left_out: LeftOut = field(default_factory=LeftOut)


def index_folder(root: Path) -> FolderIndex:
    """Read the names in a folder of pictures.

    Raises:
        DataError: no such folder, no splits and classes that can be told apart, classes that differ between splits,
            fewer than two classes, or classes without pictures.
    """
    if not root.is_dir():
        raise DataError(f"no folder {root}: {_EXPECTED}")
    left_out = LeftOut()
    listing = Listing(root, left_out)
    inside = listing.folders(root)
    splits = _splits(root, inside)
    classes: dict[Part, list[Path]] = {part: listing.folders(folder) for part, folder in splits.items()}
    if not splits:
        classes["train"] = inside
    class_names = _class_names(root, {part: [path.name for path in paths] for part, paths in classes.items()})
    found = {(path.name, part): listing.images(path) for part, paths in classes.items() for path in paths}
    empty = [listing.name(path) for part, paths in classes.items() for path in paths if not found[path.name, part]]
    if empty:
        raise DataError(
            f"{root}: expected images ({', '.join(IMAGE_SUFFIXES)}), found none in {some(empty, 10)}: add some, or "
            "remove the folders of that class"
        )
    entries = [
        Entry(picture.path, picture.name, label, group, part)
        for label, name in enumerate(class_names)
        for part in classes
        for picture, group in _grouped(found[name, part])
    ]
    return FolderIndex(root, class_names, tuple(entries), tuple(splits), left_out)


def _splits(root: Path, inside: list[Path]) -> dict[Part, Path]:
    """The folders that are splits, training first; none where all are classes."""
    named = [path for path in inside if path.name.lower() in PARTS]
    others = [path.name for path in inside if path not in named]
    if not named:
        refuse_like_splits(root, [path.name for path in inside])
        return {}
    names = ", ".join(path.name for path in named)
    if others:
        raise DataError(
            f"{root}: {names} {'is the name of a split' if len(named) == 1 else 'are names of splits'}, but "
            f"{some(others)} beside {'it' if len(named) == 1 else 'them'} {'is' if len(others) == 1 else 'are'} not: "
            "rename a class that is called so, or move all other folders away"
        )
    splits: dict[Part, Path] = {}
    for path in sorted(named, key=lambda path: tuple(PARTS.values()).index(PARTS[path.name.lower()])):
        part = PARTS[path.name.lower()]
        if part in splits:
            raise DataError(
                f"{root}: {splits[part].name} and {path.name} both name the {part} split: put their images together"
            )
        splits[part] = path
    if "train" not in splits:
        raise DataError(f"{root}: {names} without a folder train/: {_EXPECTED}")
    return splits


def refuse_like_splits(root: Path, folders: Sequence[str]) -> None:
    """Refuse folders that are called nearly as splits are: read as classes or sessions, they would mean nothing.

    Raises:
        DataError: one is like `train` and another like `val` or `test`, as training_set and test_set are.
    """
    like = {name: PARTS[found[1].lower()] for name in folders if (found := _LIKE_A_SPLIT.search(name))}
    if "train" in like.values() and len(set(like.values())) > 1:
        raise DataError(
            f"{root}: {some(sorted(like))} look like splits, which are called train, val and test: rename them so, or, "
            "if they are none, to what they are"
        )


def check_class_names(where: Path, names: Sequence[str]) -> None:
    """Refuse names of classes that no bundle can hold, or that nobody can tell apart.

    Args:
        where: the folder or file that they are from, for the error.
        names: each once.

    Raises:
        DataError: one is not UTF-8 or too long, or two differ in their Unicode form alone.
    """
    known: dict[str, str] = {}
    for name in names:
        if len(name) > MOST_CHARACTERS or _NOT_UTF_8.search(name):
            raise DataError(
                f"{where}: expected names of classes in UTF-8, of at most {MOST_CHARACTERS} characters, got "
                f"{quoted(name)}: rename it"
            )
        other = known.setdefault(unicodedata.normalize("NFC", name), name)
        if other != name:
            raise DataError(
                f"{where}: {other!a} and {name!a} are one name in two forms of Unicode: rename one as the "
                "other, and put the images of one class together"
            )


def _class_names(root: Path, names: dict[Part, list[str]]) -> tuple[str, ...]:
    held_by = Counter(name for of_part in names.values() for name in of_part)
    check_class_names(root, sorted(held_by))
    differing = [
        f"{name} is missing in {part}" for name in sorted(held_by) for part in names if name not in names[part]
    ]
    if differing:
        raise DataError(
            f"{root}: expected the same classes in each split, but {some(differing, 10)}: add or rename folders"
        )
    if len(held_by) < 2:
        found = some(sorted(held_by)) or "none"
        raise DataError(f"{root}: expected a folder for each of at least 2 classes, got {found}: {_EXPECTED}")
    return tuple(sorted(held_by))


def _grouped(pictures: list[Found]) -> list[tuple[Found, str]]:
    """Each picture with its group: its subfolder, where a class has pictures in several places."""
    several = len({picture.place for picture in pictures}) > 1
    return [(picture, picture.place if several else "") for picture in pictures]
