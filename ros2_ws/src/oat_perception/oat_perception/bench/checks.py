"""Hold the benchmark's figures, check them against their limits, and show them as tables. Needs no ROS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

from rich.table import Table

from oat_runtime.report import Check, Row

_LATE_MS = 10.0
"""What measuring a fallback from outside adds to its configured time: one message's way, and the wake-up of a process
that waits for it. Four runs on 2 idle cores: 0 for the signals, 4.0 to 4.4 for the camera, 4.5 to 5.3 for the policy.
"""


_START_CPU_S = 2.5
"""On two busy cores it took 1.7 to 1.8, while the wall time went from 2 to 8."""


@dataclass(frozen=True, slots=True)
class SizeFigures:
    """Figures of one image size under one DDS profile; None: not measured. The fields are the keys of the JSON line."""

    size: str
    profile: str
    num_sent: int
    lost: float
    unanswered: float
    echo_lost: float
    end_to_end_ms_p50: float | None
    end_to_end_ms_p95: float | None
    end_to_end_ms_p99: float | None
    end_to_end_ms_max: float | None
    transport_ms_p50: float | None
    bare_ms_p50: float
    bare_ms_p99: float
    overhead_ms_p50: float | None
    node_cpu_ms_per_image: float
    allowed_hz: float
    peak_hz: float | None
    peak_share: float | None


@dataclass(frozen=True, slots=True)
class ControlFigures:
    """Figures of fallbacks, commands and malformed images; None: not measured.

    `late_ms` has the delay of each fallback; there None also means that it never came.
    """

    late_ms: dict[str, float | None]
    num_switches: int
    num_effective: int | None
    reply_ms_p50: float | None
    reply_ms_p99: float | None
    unprepared_s: float | None
    named_truly: bool | None
    num_malformed: int
    num_counted: int | None
    num_good: int | None
    num_answered: int | None


@dataclass(frozen=True, slots=True)
class StartFigures:
    """Median and worst of several starts of the node; see `oat_perception.bench.start.Start`. None: not measured."""

    num_starts: int
    backend: str
    wall_s_p50: float | None = None
    wall_s_max: float | None = None
    cpu_s_p50: float | None = None
    cpu_s_max: float | None = None
    rss_mb_p50: float | None = None
    rss_mb_max: float | None = None


def json_rows(sizes: Sequence[SizeFigures], control: ControlFigures, start: StartFigures) -> list[Row]:
    """Return all figures as rows of the JSON line."""
    others = [{"size": "32x32", "profile": "shipped", **asdict(figures)} for figures in (control, start)]
    return [*map(asdict, sizes), *others]


def checks(sizes: Sequence[SizeFigures], control: ControlFigures, start: StartFigures) -> list[Check]:
    """Return the checks of all figures against their limits."""
    vga = next((found for found in sizes if (found.size, found.profile) == ("vga", "shipped")), None)
    named_truly = None if control.named_truly is None else float(control.named_truly)
    found = [
        Check.at_most("images lost, VGA at 30 Hz, shipped profile", [None if vga is None else vga.lost], 0.0),
        Check.at_most(
            "node overhead p50, VGA at 30 Hz, shipped profile",
            [None if vga is None else vga.overhead_ms_p50],
            2.0,
            "ms",
        ),
        Check.at_least(
            "peak rate over what the machine allows, VGA, shipped profile",
            [None if vga is None else vga.peak_share],
            0.85,
        ),
        Check.at_least("lambda effective on the next image", [control.num_effective], control.num_switches),
        Check.at_most("lambda never prepared, time to run", [control.unprepared_s], 1.0, "s"),
        Check.at_least("results name the point that ran", [named_truly], 1.0),
        Check.at_least("malformed images counted", [control.num_counted], control.num_malformed),
        Check.at_least("good images among them answered", [control.num_answered], control.num_good or 1),
        Check.at_most(
            "CPU time from the start of the process to its first result", [start.cpu_s_p50], _START_CPU_S, "s"
        ),
    ]
    return found + [
        Check.at_most(f"fallback after its time, {part}", [late_ms], _LATE_MS, "ms")
        for part, late_ms in control.late_ms.items()
    ]


def tables(title: str, sizes: Sequence[SizeFigures], start: StartFigures) -> tuple[Table, Table]:
    """Return the figures for people: those of images, and those of starts."""
    table = Table("", *(f"{figures.size} {figures.profile}" for figures in sizes), title=title)
    for name in [field.name for field in fields(SizeFigures)][2:]:
        values = [getattr(figures, name) for figures in sizes]
        table.add_row(name, *map(_shown, values))
    starts = Table("", "median", "worst", title=f"{start.num_starts} starts to the first result, {start.backend}")
    for name in ("wall_s", "cpu_s", "rss_mb"):
        starts.add_row(name, *(_shown(getattr(start, f"{name}_{part}")) for part in ("p50", "max")))
    return table, starts


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
