"""A file is written whole or not at all; what does not fit a model is said in one line."""

import os
from pathlib import Path

import pytest
from pydantic import BaseModel, Field

from oat_runtime.errors import ConfigError, DataError
from oat_runtime.files import read_model, write_whole


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
