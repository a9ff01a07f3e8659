"""A command ends in one line and a status, whatever ends it; only a bug keeps its traceback."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from oat_runtime.commands import a_count, a_path, command, held_back, output_file, output_folder, real
from oat_runtime.errors import DataError
from oat_runtime.files import held, write_whole

ROOT = Path(__file__).resolve().parents[2]


def _raising(error: BaseException) -> Callable[[], int]:
    @command("oat-some")
    def main() -> int:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (DataError("no data at X"), 2, "oat-some: no data at X"),
        (DataError("\x1b[2J two\nlines"), 2, r"oat-some: \x1b[2J two\nlines"),
        (KeyboardInterrupt(), 130, "oat-some: interrupted"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 2, "oat-some: /x: Permission denied"),
        (OSError(errno.ENOSPC, "No space left", "/x/y"), 2, "oat-some: disk full: /x/y could not be written"),
        (OSError(errno.EDQUOT, "Quota exceeded"), 2, "oat-some: disk full: a file could not be written"),
    ],
)
def test_what_people_can_put_right_is_one_line(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _raising(error)() == status
    assert capsys.readouterr().err == line + "\n"


def test_a_message_of_ten_megabytes_is_one_short_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert _raising(DataError("x" * 10**7))() == 2
    assert len(capsys.readouterr().err) < 1200


def test_what_the_output_has_no_letter_for_is_an_escape_and_no_error() -> None:
    """Regression: λ ended several commands in a UnicodeEncodeError where stdout took ASCII alone."""
    script = (
        "from oat_runtime.commands import command\n@command('some')\ndef main():\n print('λ = 1')\n return 0\nmain()"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "\\u03bb = 1\n"), ended.stderr


@pytest.mark.parametrize("bug", [ZeroDivisionError(), ConnectionError("gone"), AssertionError()], ids=repr)
def test_a_bug_keeps_its_traceback(bug: Exception) -> None:
    with pytest.raises(type(bug)):
        _raising(bug)()


_SCRIPT = """
import sys, time
from oat_runtime.commands import command
@command("oat-some")
def main():
    try:
        print("there", flush=True)
        {body}
    finally:
        print("closed", file=sys.stderr)
sys.exit(main())
"""


def _start(body: str) -> subprocess.Popen[str]:
    script = _SCRIPT.format(body=body)
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "there\n"
    return process


@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_signal_closes_what_is_open_and_is_one_line(number: int, status: int, word: str) -> None:
    process = _start("time.sleep(60)")
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (status, f"closed\noat-some: {word}\n")


def test_a_reader_that_went_away_is_no_error() -> None:
    process = _start("[print('x' * 10000) for _ in range(1000)]")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert (process.stderr.read(), process.wait(timeout=60)) == ("closed\n", 141)
    process.stderr.close()


def test_the_home_folder_is_meant_where_no_shell_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert a_path("~/x") == output_file()("~/x") == tmp_path / "x"
    assert output_folder("~/a/b") == tmp_path / "a" / "b"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (a_path, ""), (a_path, "a\0b"), (output_file(), "/"), (output_file(".png"), "x.txt"),
        (output_folder, "/dev/null/x"), (a_count, "0"), (a_count, "1.5"), (a_count, "9" * 6000), (real(above=0.0), "0"),
        (real(), "nan"), (real(), "inf"), (real(least=0.0, most=1.0), "1.5"), (real(), "x"),
    ],
)  # fmt: skip
def test_arguments_that_cannot_be_meant_are_refused(kind: Callable[[str], object], text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as refused:
        kind(text)
    assert len(str(refused.value)) < 500


def test_what_is_no_regular_file_is_never_an_output(tmp_path: Path) -> None:
    """Regression: as root, `--output /dev/null` put a file in the place of the device."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(os.devnull)
    for path in (os.devnull, str(tmp_path / "pipe"), str(tmp_path / "link")):
        with pytest.raises(argparse.ArgumentTypeError, match="no regular file: name a file"):
            output_file()(path)
    (tmp_path / "file").touch()
    (tmp_path / "to_file").symlink_to("file")
    (tmp_path / "to_new").symlink_to("new")
    for name in ("file", "to_file", "to_new", "new"):
        assert output_file()(str(tmp_path / name)) == tmp_path / name


@pytest.mark.parametrize("kind", [output_file(".json"), output_folder])
def test_a_folder_that_this_user_may_not_write_is_no_place_for_an_output(
    kind: Callable[[str], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who runs the tests as root may write everywhere."""
    monkeypatch.setattr(os, "access", lambda place, _: Path(place) != tmp_path)
    for name in ("new.json", "deep/new.json"):
        with pytest.raises(argparse.ArgumentTypeError, match=f"cannot be written: no permission in {tmp_path}$"):
            kind(str(tmp_path / name))
    (tmp_path / "open").mkdir()
    kind(str(tmp_path / "open" / "new.json"))


def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "kept.json"
    target.write_text("old")
    script = (
        "import resource, sys\nfrom oat_runtime.files import write_whole\n"
        "from oat_runtime.commands import command\nresource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "@command('oat-some')\ndef main():\n    write_whole(sys.argv[1], b'x' * 5000)\n    return 0\nsys.exit(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(target)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (2, f"oat-some: disk full: {target} could not be written\n")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_is_held_by_one_process_and_a_kill_lets_go_of_it(tmp_path: Path) -> None:
    holder = _start(
        f"import pathlib; from oat_runtime.files import held; it = held(pathlib.Path({str(tmp_path)!r}), by='x')\n"
        "        it.__enter__(); print('held', flush=True); time.sleep(60)"
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    second = (
        "import pathlib, sys\nfrom oat_runtime.files import held\nfrom oat_runtime.commands import command\n"
        "@command('oat-some')\ndef main():\n"
        "    with held(pathlib.Path(sys.argv[1]), by='training'):\n        return 0\n"
        "sys.exit(main())\n"
    )

    def ask() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", second, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
        )

    refused = ask()
    assert (refused.returncode, refused.stderr) == (
        2,
        f"oat-some: another training is at work in {tmp_path}: wait for its end, or name another folder\n",
    )
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    assert ask().returncode == 0
    with held(tmp_path, by="training"):
        write_whole(tmp_path / "x", "while it is held")


def test_signals_are_held_back_until_the_work_is_whole_and_then_act_with_a_note(tmp_path: Path) -> None:
    file = tmp_path / "whole"
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt, match="saved"), held_back() as stop:
        assert not stop.came()
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
            write_whole(file, "all of it")
        assert stop.came()
        stop.note = "saved"
    assert file.read_text() == "all of it"
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    with held_back():  # nothing comes, nothing happens
        pass


def test_an_error_counts_more_than_a_signal_that_is_held_back() -> None:
    with pytest.raises(ValueError, match="disk"), held_back():
        os.kill(os.getpid(), signal.SIGINT)
        raise ValueError("disk")


def test_a_signal_that_is_ignored_stays_so() -> None:
    """A command in the background of a shell does not end on Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with held_back() as stop:
            os.kill(os.getpid(), signal.SIGINT)
        assert not stop.came()
    finally:
        signal.signal(signal.SIGINT, before)
