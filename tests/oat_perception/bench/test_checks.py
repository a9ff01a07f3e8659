"""What the benchmark's JSON line holds, and what becomes of a figure that was not measured."""

from __future__ import annotations

from dataclasses import replace

from oat_perception.bench.checks import (
    ControlFigures,
    SizeFigures,
    StartFigures,
    checks,
    json_rows,
    tables,
)

VGA = SizeFigures(
    "vga", "shipped", 300, 0.0, 0.01, 0.0, 9.0, 11.0, 12.0, 20.0, 3.0, 4.0, 5.0, 1.5, 9.0, 200.0, 190.0, 0.95
)
CONTROL = ControlFigures(
    {"confidence": 0.0, "battery": 0.0, "camera": 4.2, "policy": 5.0}, 100, 100, 1.0, 2.0, 0.1, True, 500, 500, 20, 20
)
START = StartFigures(3, "onnxruntime", 2.0, 3.0, 1.8, 2.0, 180.0, 185.0)


SIZE_KEYS = """size profile num_sent lost unanswered echo_lost end_to_end_ms_p50 end_to_end_ms_p95 end_to_end_ms_p99
    end_to_end_ms_max transport_ms_p50 bare_ms_p50 bare_ms_p99 overhead_ms_p50 node_cpu_ms_per_image allowed_hz peak_hz
    peak_share"""
CONTROL_KEYS = """size profile late_ms num_switches num_effective reply_ms_p50 reply_ms_p99 unprepared_s named_truly
    num_malformed num_counted num_good num_answered"""
START_KEYS = "size profile num_starts backend wall_s_p50 wall_s_max cpu_s_p50 cpu_s_max rss_mb_p50 rss_mb_max"


def test_the_json_line_has_these_keys_in_this_order() -> None:
    rows = json_rows([VGA], CONTROL, START)
    assert [list(row) for row in rows] == [keys.split() for keys in (SIZE_KEYS, CONTROL_KEYS, START_KEYS)]
    assert (rows[0]["overhead_ms_p50"], rows[1]["late_ms"]) == (1.5, CONTROL.late_ms)


def test_checks_hold_within_the_limits_and_fail_beyond_them_or_unmeasured() -> None:
    assert all(check.ok for check in checks([VGA], CONTROL, START))
    broken = checks([replace(VGA, peak_share=None)], replace(CONTROL, num_good=21), replace(START, cpu_s_p50=2.6))
    assert [check.name for check in broken if not check.ok] == [
        "peak rate over what the machine allows, VGA, shipped profile",
        "good images among them answered",
        "CPU time from the start of the process to its first result",
    ]
    unmeasured = checks([replace(VGA, size="224")], CONTROL, START)
    assert [check.value for check in unmeasured[:3]] == [None, None, None]


def test_a_figure_that_was_not_measured_fails_its_check_alone() -> None:
    late_ms = {**CONTROL.late_ms, "battery": None}
    control = replace(CONTROL, late_ms=late_ms, named_truly=None, num_good=None, num_answered=None)
    found = checks([], control, StartFigures(0, "auto"))
    assert [check.name for check in found if check.ok] == [
        "lambda effective on the next image",
        "lambda never prepared, time to run",
        "malformed images counted",
        "fallback after its time, confidence",
        "fallback after its time, camera",
        "fallback after its time, policy",
    ]
    assert all(table.row_count for table in tables("title", [], StartFigures(0, "auto")))
    assert len(json_rows([], control, StartFigures(0, "auto"))) == 2
