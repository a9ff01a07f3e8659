"""Laws of every benchmark's report: the worst figure decides, and what was not measured is null and not ok."""

import json
import math
import sys

import numpy as np
import pytest

from oat_runtime.errors import DataError
from oat_runtime.report import Check, Report, print_json, text_table


def test_the_worst_value_decides() -> None:
    assert Check.at_most("slow", [0.9, 1.4], 1.1) == Check("slow", 1.4, 1.1, "", ok=False)
    assert Check.at_least("right", [0.9, 0.8], 0.8, "share") == Check("right", 0.8, 0.8, "share", ok=True)
    assert Check.at_most("lost", [np.float64(0.0)], 0.0).ok is True


@pytest.mark.parametrize("values", [[], [None], [1.0, None], [math.nan], [math.inf, 1.0]])
def test_what_was_not_measured_is_null_and_not_ok(values: list[float | None]) -> None:
    for check in (Check.at_most("a", values, 2.0), Check.at_least("a", values, 0.0)):
        assert check.as_json() == {"name": "a", "value": None, "limit": check.limit, "unit": "", "ok": False}


def test_a_strict_limit_itself_does_not_hold() -> None:
    assert [hold("a", [1.0], 1.0, strict=True).ok for hold in (Check.at_most, Check.at_least)] == [False, False]
    assert Check.at_least("a", [1.1], 1.0, strict=True).ok


def test_the_json_line_has_no_number_that_json_does_not_have(capsys: pytest.CaptureFixture[str]) -> None:
    check = Check("a", 1.0, 2.0, "ms", ok=True, details={"by_seed": [1.0, 1.0]})
    print_json("b", machine={}, rows=[{"delay": math.inf, "share": math.nan, "name": "x"}], checks=[check], more=1)
    assert json.loads(capsys.readouterr().out) == {
        "name": "b",
        "machine": {},
        "rows": [{"delay": None, "share": None, "name": "x"}],
        "checks": [{"name": "a", "value": 1.0, "limit": 2.0, "unit": "ms", "ok": True, "by_seed": [1.0, 1.0]}],
        "more": 1,
    }


def test_a_terminal_gets_no_json_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_json("b", machine={}, rows=[], checks=[])
    assert capsys.readouterr().out == ""


def test_a_part_that_fails_leaves_the_others_standing_and_ends_in_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> None:
        raise DataError("no [images] here")

    report = Report("trial")
    assert report.measure("first", lambda: [{"figure": 1.0}])
    assert not report.measure("second", broken)
    assert report.measure("third", lambda: None)
    report.num_left_out = 3
    assert report.finish({"cores": 2}, text_table("Figures", ("figure",), [(1.0,)])) == 2
    out = capsys.readouterr().out
    assert "second: not measured: no [images] here" in out
    assert "3 checks are left to the full run" in out
    last = json.loads(out.splitlines()[-1])
    assert last["rows"] == [{"figure": 1.0}, {"part": "second", "not_measured": "no [images] here"}]


def test_the_status_says_whether_every_check_holds(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("trial")
    report.checks = [Check.at_most("a", [1.0], 2.0)]
    assert report.finish({}) == 0
    report.checks.append(Check.at_most("b", [None], 2.0))
    assert report.finish({}) == 1
    assert "not measured" in capsys.readouterr().out
