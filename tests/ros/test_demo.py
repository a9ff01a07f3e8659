"""The demo, as far as it can say no. That it runs to its end is seen by running it: `make demo`."""

from __future__ import annotations

from pathlib import Path

import pytest
from oat_perception.demo.__main__ import main


def test_a_network_of_other_images_is_refused_and_nothing_is_lost(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.html"
    report.write_text("of an earlier day")
    assert main(["--bundle", str(bundle), "--output", str(tmp_path)]) == 2
    assert "CIFAR-10, and tiny was trained on none" in capsys.readouterr().err
    assert report.read_text() == "of an earlier day"
