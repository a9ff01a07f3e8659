"""Check the benchmark's figures against their limits, and show them as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from oat_runtime.report import Check, checks_table, wide_console

_LATE_MS = 10.0
"""What measuring a fallback from outside adds to its configured time: one message's way, and the wake-up of a process
that waits for it. Four runs on 2 idle cores: 0 for the signals, 4.0 to 4.4 for the camera, 4.5 to 5.3 for the policy.
"""


_START_CPU_S = 2.5
"""On two busy cores it took 1.7 to 1.8, while the wall time went from 2 to 8."""


def checks(rows: list[dict[str, Any]], control: Mapping[str, Any], start: Mapping[str, Any]) -> list[Check]:
    """Return the checks of all figures against their limits."""
    vga = next((row for row in rows if (row["size"], row["profile"]) == ("vga", "shipped")), {})
    late_ms = control["late_ms"]
    found = [
        Check.at_most("images lost, VGA at 30 Hz, shipped profile", [vga.get("lost")], 0.0),
        Check.at_most("node overhead p50, VGA at 30 Hz, shipped profile", [vga.get("overhead_ms_p50")], 2.0, "ms"),
        Check.at_least("peak rate over what the machine allows, VGA, shipped profile", [vga.get("peak_share")], 0.85),
        Check.at_least("lambda effective on the next image", [control["num_effective"]], control["num_switches"]),
        Check.at_most("lambda never prepared, time to run", [control["unprepared_s"]], 1.0, "s"),
        Check.at_least("results name the point that ran", [float(control["named_truly"])], 1.0),
        Check.at_least("malformed images counted", [control["num_counted"]], control["num_malformed"]),
        Check.at_least("good images among them answered", [control["num_answered"]], control["num_good"]),
        Check.at_most(
            "CPU time from the start of the process to its first result", [start["cpu_s_p50"]], _START_CPU_S, "s"
        ),
    ]
    return found + [
        Check.at_most(f"fallback after its time, {part}", [late_ms[part]], _LATE_MS, "ms") for part in late_ms
    ]


def show(title: str, rows: list[dict[str, Any]], start: Mapping[str, Any], found: list[Check]) -> None:
    """Print the tables for people."""
    table = Table("", *(f"{row['size']} {row['profile']}" for row in rows), title=title)
    for name in list(rows[0])[2:]:
        table.add_row(name, *("-" if row[name] is None else f"{row[name]:.3g}" for row in rows))
    starts = Table("", "median", "worst", title=f"{start['num_starts']} starts to the first result, {start['backend']}")
    for name, unit in (("wall", "s"), ("cpu", "s"), ("rss", "mb")):
        starts.add_row(f"{name}_{unit}", *(f"{start[f'{name}_{unit}_{part}']:.3g}" for part in ("p50", "max")))
    console = wide_console(columns=150)
    for part in (table, starts, checks_table(found)):
        console.print(part)
