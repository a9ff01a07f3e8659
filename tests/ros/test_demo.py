"""The demos, as far as they can say no. That they run to their ends is seen by running them: `make demo`."""

from __future__ import annotations

from pathlib import Path

import pytest
from oat_perception.demo import __main__ as demo
from oat_perception.demo import days
from oat_perception.demo.__main__ import main

from oat_runtime.errors import DataError


@pytest.mark.parametrize(
    ("options", "says"),
    [([], "CIFAR-10 test images, and tiny was trained on none"), (["--robot"], "Middle Size League")],
)
def test_a_network_of_other_images_is_refused_and_nothing_is_lost(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    report = tmp_path / "report.html"
    report.write_text("of an earlier day")
    assert main([*options, "--bundle", str(bundle), "--output", str(tmp_path)]) == 2
    assert says in capsys.readouterr().err
    assert report.read_text() == "of an earlier day"


def test_without_the_bundle_of_robots_one_line_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "shipped_bundles", lambda: ("cifar10-wrn-16-4",))
    assert main(["--robot", "--output", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "robocup-wrn-16-2" in line and "--bundle" in line
    assert not (tmp_path / "out").exists()


def test_without_frames_one_line_says_so_and_nothing_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, bundle: Path
) -> None:
    def nowhere(*_: object, **__: object) -> Path:
        raise DataError("no frames of robots here: set OAT_DATA to the folder that holds it")

    report = tmp_path / "report.html"
    report.write_text("of an earlier day")
    monkeypatch.setattr(days, "find_robocup", nowhere)
    monkeypatch.setattr("oat_perception.demo.run._check", lambda options: ())
    assert main(["--robot", "--bundle", str(bundle), "--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("set OAT_DATA to the folder that holds it")
    assert report.read_text() == "of an earlier day"
