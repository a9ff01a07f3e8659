"""Counts of one activation: what is wrong with a camera shows, and what is not does not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from oat_perception.core.tally import Tally


def test_a_camera_is_dark_if_image_after_image_is() -> None:
    tally = Tally()

    def is_dark_after(*brightest: int) -> bool:
        for level in brightest:
            tally.shone(level, is_dark=level < 16)
        return tally.snapshot(0.0).is_nearly_black

    assert not is_dark_after(*[3] * 10), "the first images of a camera may be dark"
    assert is_dark_after(*[3] * 10)
    assert not is_dark_after(200) and tally.snapshot(0.0).brightest == 200
    assert not is_dark_after(3), "one dark image is no dark camera"


def test_a_failed_image_is_an_error_for_five_seconds_and_until_one_was_processed() -> None:
    """Regression: one failed image was an error for good."""
    tally = Tally()
    result: Any = SimpleNamespace(probes=(), prediction=SimpleNamespace(latency_ms=1.0), policy_ms=1.0)
    assert tally.snapshot(0.0).recent_error == ""
    tally.failed("broken", 10.0)
    assert tally.snapshot(99.0).recent_error == "broken", "none was processed since"
    tally.processed(result, now_s=99.0, total_ms=1.0)
    assert tally.snapshot(99.0).recent_error == ""
    tally.failed("again", 100.0)
    tally.processed(result, now_s=100.1, total_ms=1.0)
    assert tally.snapshot(104.9).recent_error == "again"
    assert tally.snapshot(105.1).recent_error == ""
    assert tally.snapshot(105.1).num_errors == 2


def test_a_refused_image_is_a_warning_for_five_seconds_and_until_one_was_processed() -> None:
    """Regression: of a slow camera, whose images were all refused, the diagnostics said that images arrive."""
    tally = Tally()
    result: Any = SimpleNamespace(probes=(), prediction=SimpleNamespace(latency_ms=1.0), policy_ms=1.0)
    tally.refuse("truncated: a row is missing", 10.0)
    assert tally.snapshot(99.0).recent_refusal == "truncated: a row is missing"
    tally.processed(result, now_s=99.0, total_ms=1.0)
    assert tally.snapshot(99.0).recent_refusal == ""
    tally.refuse("bad region: beyond the image", 100.0)
    tally.processed(result, now_s=100.1, total_ms=1.0)
    assert tally.snapshot(104.9).recent_refusal != ""
    assert tally.snapshot(105.1).recent_refusal == ""


def test_only_a_stamp_before_the_last_one_went_back() -> None:
    """Regression: the first stamp before 1970 was taken for one that went back."""
    tally = Tally()
    for stamp_ns in (-5, -4, 0, 7):
        tally.received(0.0, stamp_ns)
    assert tally.num_out_of_order == 0
    tally.received(0.0, -4)
    assert tally.num_out_of_order == 1
