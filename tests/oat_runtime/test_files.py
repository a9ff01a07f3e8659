"""A file is written whole or not at all; what does not fit a model is said in one line."""

import json
import os
from pathlib import Path

import pytest
from pydantic import BaseModel, Field

from oat_runtime.errors import ConfigError, DataError, one_line, quoted
from oat_runtime.files import MAX_JSON_BYTES, parse_json, read_model, write_whole
from tests.little_work import little_work


class Limits(BaseModel):
    low: int = Field(ge=0)
    high: int
    names: tuple[str, ...] = ()


def test_a_file_is_replaced_and_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.json"
    for content in ("first", b"second", "λ"):
        write_whole(path, content)
        assert path.read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert [entry.name for entry in path.parent.iterdir()] == ["file.json"]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("failing", ["fsync", "replace", "chmod"])
def test_what_cannot_be_written_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "file.json"
    write_whole(path, "old")

    def fail(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.json"]


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_the_file_that_it_names_is_written(tmp_path: Path, exists: bool) -> None:
    file, link = tmp_path / "data" / "file.json", tmp_path / "link.json"
    if exists:
        write_whole(file, "old")
    link.symlink_to("data/file.json")
    write_whole(link, "new")
    assert link.is_symlink() and file.read_text() == "new"
    assert [entry.name for entry in file.parent.iterdir()] == ["file.json"]


def test_a_model_comes_back(tmp_path: Path) -> None:
    write_whole(tmp_path / "limits.json", Limits(low=1, high=2).model_dump_json())
    assert read_model(Limits, tmp_path / "limits.json", what="limits") == Limits(low=1, high=2)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, r"cannot be read as limits \(No such file or directory\): write them$"),
        ("", r"is not limits \(Invalid JSON.*\): write them$"),
        ('{"low": -1, "high": "x"}', r"is not limits \(low: .*; high: .*\): write them$"),
        ('{"low": -1, "high": "x", "names": [1, 2]}', r"; names.0: .*; and 1 more\): write them$"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, content: str | None, says: str) -> None:
    path = tmp_path / "limits.json"
    if content is not None:
        path.write_text(content)
    for error in (ConfigError, DataError):
        with pytest.raises(error, match=says) as caught:
            read_model(Limits, path, what="limits", remedy="write them", error=error)
        assert "\n" not in str(caught.value)


LARGEST = "1" * 100
MANY_NAMES = "{" + ",".join(f'"{n % 90_000}": 0' for n in range(95_000)) + "}"
HOSTILE = {
    "nothing": ("", "Invalid JSON"),
    "deep lists": ("[" * 100_000 + "]" * 100_000, "32 deep"),
    "deep objects": ('{"a":' * 1_000 + "1" + "}" * 1_000, "32 deep"),
    "a list that never ends": ("[" * 1_000_000, "at most 200000"),
    "too many values": (f"[{'1,' * 200_000}1]", "about 200002"),
    "a long integer": ("1" * 5_000, "100 digits"),
    "a long fraction": (f"0.{LARGEST}1", "100 digits"),
    "long numbers": (f"{LARGEST} " * 80_000, "Extra data"),
    "not a number": ('{"low": NaN}', "finite, got NaN"),
    "infinity": ("[-Infinity]", "finite, got -Infinity"),
    "a number beyond floats": ("[1e999]", "finite, got 1e999"),
    "a name twice": ('{"low": 1, "low": 2}', "'low' occurs twice"),
    "a long name twice": ('{"%s": 1, "%s": 2}' % (("n" * 1_000_000,) * 2), "occurs twice"),
    "many names, two of them twice": (MANY_NAMES, "'0' occurs"),
    "half a character": (r'["\ud800"]', "UTF-8"),
    "a string that never ends": ('"' + r"\"" * 2_000_000, "more texts"),
    "quotation marks": ('"' * 4_000_000, "more texts"),
    "another encoding": ('{"low": 1}'.encode("utf-16"), "UTF-8"),
    "more bytes than are read": (b" " * (MAX_JSON_BYTES + 1), "bytes, at most"),
    "two documents": ("{}{}", "Extra data"),
}


def test_a_reader_may_take_more_values_than_usual() -> None:
    content = json.dumps(["name"] * 250_000)
    with pytest.raises(ValueError, match="it has about 250001 values, at most 200000 are read"):
        parse_json(content)
    assert len(parse_json(content, max_values=300_000)) == 250_000


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_text_is_refused_in_one_short_line_with_little_work(case: str) -> None:
    content, says = HOSTILE[case]
    with little_work(), pytest.raises(ValueError, match=says) as caught:
        parse_json(content)  # a search for repeated names once took 100 s
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "value", [[], {}, "λ \U0001f600", {"a": [1, -2.5, True, None]}, int(LARGEST), "\x1b[31m", "]" * 99]
)
def test_what_json_can_say_comes_back(value: object) -> None:
    for ascii_only in (True, False):
        assert parse_json(json.dumps(value, ensure_ascii=ascii_only)) == value


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_not_a_model(tmp_path: Path, case: str) -> None:
    path, content = tmp_path / "limits.json", HOSTILE[case][0]
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as caught:
        read_model(Limits, path, what="limits", error=DataError)
    assert len(str(caught.value)) < 600
    assert str(caught.value).isprintable()


def test_a_file_that_never_ends_is_not_read_to_its_end() -> None:
    with pytest.raises(ConfigError, match="larger than"):
        read_model(Limits, "/dev/zero", what="limits")


LARGE = {
    "text": "x" * 10_000_000,
    "bytes": b"x" * 10_000_000,
    "integer": 10**5_000,
    "list": [0] * 10**6,
    "escapes": "\x1b[31m\n",
    "key": {"k" * 10**6: 1},
}


@pytest.mark.parametrize("value", LARGE.values(), ids=list(LARGE))
def test_a_foreign_value_is_shown_in_one_short_harmless_line(value: object) -> None:
    assert len(quoted(value)) < 400
    assert quoted(value).isprintable()


@pytest.mark.parametrize("value", ["tiny", b"x", 3, 1.5, None, [1, 2], (1,), {"a": 1}, True])
def test_a_short_value_is_shown_as_it_is(value: object) -> None:
    assert quoted(value) == repr(value)


def test_foreign_text_is_shown_without_what_steers_a_terminal() -> None:
    assert one_line("a\nb\x1b[0m\u202e λ") == r"a\nb\x1b[0m\u202e λ"
    assert one_line("x" * 10**7, most=3) == "xxx... (10000000 characters)"
