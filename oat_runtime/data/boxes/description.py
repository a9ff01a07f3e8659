"""Read what a folder of frames says of itself: class names, splits, and which crops are made of the boxes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from oat_runtime.data.folders.layout import MOST_CHARACTERS, PARTS, Part, check_class_names
from oat_runtime.errors import DataError, one_line, quoted
from oat_runtime.extras import require
from oat_runtime.files import read_at_most, reason_of
from oat_runtime.operating_point import StrictModel

NAMES_FILES = ("data.yaml", "data.yml", "obj.names", "classes.txt")
"""Files in a folder's root that name its classes."""
BACKGROUND = "background"
_MOST_BYTES, _MOST_CLASSES = 2**20, 32_768


class CropRules(StrictModel):
    """Which crops are made of a frame; `crops:` in `data.yaml` sets them."""

    margin: float = Field(default=0.1, ge=0, le=1)
    """Share of a box's size that is added on each side; see `oat_runtime.image.enlarged`."""
    min_side_px: int = Field(default=16, ge=1, le=10_000)
    """Boxes whose longer side is shorter than this are left out."""
    backgrounds_per_frame: int = Field(default=2, ge=0, le=100)
    """Crops of the class `background`, drawn away from all boxes; 0 makes no such class."""


@dataclass(frozen=True, slots=True)
class Description:
    """What the files in a folder's root say.

    Attributes:
        names: of the classes, by the index that text files use; one name twice is one class.
        rules: which crops are made.
        base: a folder that `splits` may be relative to, beside the root.
        splits: folders, or text files with a list of images, of each split; empty where folders' names say it.
    """

    names: tuple[str, ...]
    rules: CropRules = field(default_factory=CropRules)
    base: str = ""
    splits: dict[Part, tuple[str, ...]] = field(default_factory=dict)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Each class once, in the order of the indices; `background` at the end, if there is to be one."""
        background = (BACKGROUND,) if self.rules.backgrounds_per_frame else ()
        return tuple(dict.fromkeys((*self.names, *background)))

    @property
    def labels(self) -> tuple[int, ...]:
        """The place in `class_names` of each index in text files."""
        return tuple(map(self.class_names.index, self.names))


def has_description(root: Path) -> bool:
    """Return whether a file in the folder names classes."""
    return any((root / name).is_file() for name in NAMES_FILES)


def read_description(root: Path) -> Description:
    """Read the file that names the classes. If there are several, they must name the same ones.

    Raises:
        DataError: there is none, it is damaged, or two of them differ.
        ConfigError: it is YAML, and PyYAML is not installed.
    """
    found = [root / name for name in NAMES_FILES if (root / name).is_file()]
    if not found:
        raise DataError(f"{root}: expected the names of its classes in one of {', '.join(NAMES_FILES)}: add it")
    read = [_of_yaml(path) if path.suffix in (".yaml", ".yml") else Description(_of_lines(path)) for path in found]
    for path, other in zip(found, read, strict=True):
        if other.names != read[0].names:
            raise DataError(f"{found[0]} and {path.name} name other classes: remove the one that is wrong")
    if len(read[0].class_names) < 2:
        raise DataError(f"{found[0]}: expected at least 2 classes, background among them, got {read[0].class_names[0]}")
    return read[0]


def check_names_file(path: Path, description: Description) -> None:
    """Refuse a list of classes in a folder of text files that calls their numbers otherwise. It may be shorter.

    LabelImg writes `classes.txt` beside the text files, by the order in which the classes were met.

    Raises:
        DataError: it names another class.
    """
    for index, (name, expected) in enumerate(zip(text_lines(path, _MOST_BYTES), description.names, strict=False)):
        if name != expected:
            raise DataError(
                f"{path} calls class {index} {quoted(name)}, and the folder's own list {quoted(expected)}: correct the "
                "wrong one, or remove this file if its text files go by the other"
            )


def text_of(path: Path, most_bytes: int) -> str:
    """Return what a UTF-8 text file holds.

    Raises:
        DataError: it cannot be read, is too large, or not UTF-8; the line is named.
    """
    try:
        content = read_at_most(path, most_bytes)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): replace or remove it") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(f"{path}:{line}: expected UTF-8 text, got other bytes: save it as UTF-8") from error


def text_lines(path: Path, most_bytes: int) -> list[str]:
    """Return the lines of a UTF-8 text file, without blanks around them; errors as in `text_of`."""
    return [line.strip() for line in text_of(path, most_bytes).splitlines()]


def _of_lines(path: Path) -> tuple[str, ...]:
    lines = text_lines(path, _MOST_BYTES)
    while lines and not lines[-1]:
        lines.pop()
    return _checked(path, lines)


def _of_yaml(path: Path) -> Description:
    require("yaml", extra="data", by=path.name)
    from oat_runtime.data.yaml_text import parse_yaml

    text = text_of(path, _MOST_BYTES)
    try:
        fields = parse_yaml(text, max_characters=_MOST_BYTES, max_depth=8, max_scalar=4096)
    except ValueError as error:
        raise DataError(f"{path} is not YAML ({one_line(error)}): correct it") from error
    if not isinstance(fields, dict) or "names" not in fields:
        raise DataError(f"{path}: expected `names`, a list of the classes' names: add it")
    try:
        rules = CropRules.model_validate({} if fields.get("crops") is None else fields["crops"])
    except ValidationError as error:
        raise DataError(f"{path}: crops: {reason_of(error)}") from error
    names = _names(path, fields["names"])
    if (num := fields.get("nc", len(names))) != len(names):
        raise DataError(f"{path}: nc says {quoted(num)} classes, names has {len(names)}: correct the wrong one")
    base = fields.get("path", "")
    splits: dict[Part, tuple[str, ...]] = {}
    for key, value in fields.items():
        if isinstance(key, str) and key in PARTS and value not in (None, "", []):
            if PARTS[key] in splits:
                raise DataError(f"{path}: {key} names the {PARTS[key]} split a second time: put its paths together")
            splits[PARTS[key]] = _paths(path, key, value)
    return Description(names, rules, base if isinstance(base, str) else "", splits)


def _names(path: Path, value: Any) -> tuple[str, ...]:
    if isinstance(value, dict):
        if not all(type(key) is int for key in value) or sorted(value) != list(range(len(value))):
            raise DataError(f"{path}: names: expected the indices 0 to {len(value) - 1}, got {quoted(list(value))}")
        value = [value[index] for index in range(len(value))]
    if not isinstance(value, list):
        raise DataError(f"{path}: names: expected a list, or names by index, got {quoted(value)}")
    return _checked(path, value)


def _paths(path: Path, key: str, value: Any) -> tuple[str, ...]:
    paths = value if isinstance(value, list) else [value]
    if not all(isinstance(one, str) and one and "\0" not in one for one in paths):
        raise DataError(f"{path}: {key}: expected a folder or a list of folders, got {quoted(value)}")
    return tuple(paths)


def _checked(path: Path, names: list[Any]) -> tuple[str, ...]:
    if not 0 < len(names) <= _MOST_CLASSES:
        raise DataError(f"{path}: expected 1 to {_MOST_CLASSES} names of classes, got {len(names)}")
    for index, name in enumerate(names):
        if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > MOST_CHARACTERS:
            quotes = "" if isinstance(name, str) else ": set it in quotes"
            raise DataError(
                f"{path}: expected the name of class {index}, at most {MOST_CHARACTERS} characters, got "
                f"{quoted(name)}{quotes}"
            )
    check_class_names(path, list(dict.fromkeys(names)))
    return tuple(names)
