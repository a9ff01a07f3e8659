"""The benchmark of the node ends with a status that says what failed, and with the reason of each missing figure."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from oat_perception.bench import __main__ as bench

from oat_runtime.errors import OATError
from oat_runtime.report import Report
from tests.oat_perception.bench.test_checks import CONTROL, START, VGA


class Here:
    """Calls in this process what the benchmark would call in another."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: Any) -> None: ...

    def submit(self, call: Any, *arguments: Any) -> SimpleNamespace:
        return SimpleNamespace(result=lambda: call(*arguments))


def _fail(*_: Any) -> None:
    raise OATError("no answer within 120 s")


@pytest.mark.parametrize(
    ("changed", "status", "missing"),
    [
        ({}, 0, []),
        ({"measure_sizes": lambda *_: [replace(VGA, lost=0.5)]}, 1, []),
        ({"measure_starts": _fail}, 2, ["starts"]),
        ({"measure_sizes": _fail}, 2, ["images under the shipped profile"]),
    ],
)
def test_the_status_says_whether_a_check_failed_or_a_part_was_not_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], changed: Any, status: int, missing: list[str]
) -> None:
    """Regression: a check that failed ended with status 0."""
    for name in ("ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_DOMAIN_ID"):
        monkeypatch.setenv(name, "LOCALHOST" if name.endswith("RANGE") else "1")
    measured = {
        "measure_sizes": lambda *_: [VGA],
        "measure_control": lambda *_: (CONTROL, Report("")),
        "measure_starts": lambda *_: START,
    }
    for name, measure in {**measured, **changed, "ProcessPoolExecutor": Here}.items():
        monkeypatch.setattr(bench, name, measure)
    assert bench.main(["--quick"]) == status
    out = capsys.readouterr().out
    document = json.loads(out.splitlines()[-1])
    assert [row["part"] for row in document["rows"] if "not_measured" in row] == missing
    assert all(f"{part}: not measured: no answer within 120 s" in out for part in missing)


def test_what_fails_in_the_other_process_is_told_as_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_DOMAIN_ID"):
        monkeypatch.setenv(name, "LOCALHOST" if name.endswith("RANGE") else "1")
    report = Report("")
    report.measure("malformed images", _fail)
    control = replace(CONTROL, num_counted=None)
    measured = {"measure_sizes": lambda *_: [VGA], "measure_control": lambda *_: (control, report)}
    for name, measure in {**measured, "measure_starts": lambda *_: START, "ProcessPoolExecutor": Here}.items():
        monkeypatch.setattr(bench, name, measure)
    assert bench.main(["--quick"]) == 2
    assert "malformed images: not measured: no answer within 120 s" in capsys.readouterr().out
