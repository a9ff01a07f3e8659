"""No timer and no throttled log line waits for a clock that somebody can stop or set back."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = sorted(path for folder in ("ros2_ws/src", "examples") for path in (ROOT / folder).rglob("*.py"))
STEADY = {"STEADY", "Clock(clock_type=ClockType.STEADY_TIME)"}


def _calls() -> Iterator[tuple[str, str, dict[str, str]]]:
    """Every call: where it stands, the function's name, and its named arguments as they are written."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                named = {keyword.arg or "**": ast.unparse(keyword.value) for keyword in node.keywords}
                yield f"{path.relative_to(ROOT)}:{node.lineno}", name, named


def test_every_timer_runs_on_a_steady_clock() -> None:
    """Regression: a wall clock that was set back by an hour silenced the camera of the demo for that hour."""
    timers = {where: named.get("clock") for where, name, named in _calls() if name == "create_timer"}
    assert len(timers) >= 8
    assert {where: clock for where, clock in timers.items() if clock not in STEADY} == {}


def test_the_package_has_one_steady_clock() -> None:
    """Regression: a module that may not import `node` made a second one."""
    made = {where.partition(":")[0] for where, name, _ in _calls() if name == "Clock" and "examples/" not in where}
    assert made == {"ros2_ws/src/oat_perception/oat_perception/middleware.py"}


def test_every_throttled_line_is_throttled_by_a_steady_clock() -> None:
    """Regression: rclpy takes the wall clock, which silenced warnings for as long as it was set back."""
    lines = {
        where: named.get("throttle_time_source_type")
        for where, _, named in _calls()
        if "throttle_duration_sec" in named
    }
    assert len(lines) >= 3
    assert {where: clock for where, clock in lines.items() if clock not in STEADY} == {}
