"""What the benchmark holds the node to, and the tables that it shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from oat_runtime.terminal import wide_console

_LATE_MS = 10.0
"""What measuring a fallback from outside adds to its configured time: one message's way, and the wake-up of a process
that waits for it. Four runs on 2 idle cores: 0 for the signals, 4.0 to 4.4 for the camera, 4.5 to 5.3 for the policy.
"""


def checks(rows: list[dict[str, Any]], control: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the node is held to."""
    vga = next((row for row in rows if (row["size"], row["profile"]) == ("vga", "shipped")), {})
    late_ms = control["late_ms"]
    found = [
        _at_most("images lost, VGA at 30 Hz, shipped profile", vga.get("lost"), 0.0),
        _at_most("node overhead p50, VGA at 30 Hz, shipped profile", vga.get("overhead_ms_p50"), 2.0, "ms"),
        _at_least("peak rate over what the machine allows, VGA, shipped profile", vga.get("peak_share"), 0.85),
        _at_least("lambda effective on the next image", control["num_effective"], control["num_switches"]),
        _at_most("lambda never prepared, time to run", control["unprepared_s"], 1.0, "s"),
        _at_least("results name the point that ran", float(control["named_truly"]), 1.0),
        _at_least("malformed images counted", control["num_counted"], control["num_malformed"]),
        _at_least("good images among them answered", control["num_answered"], control["num_good"]),
    ]
    return found + [_at_most(f"fallback after its time, {part}", late_ms[part], _LATE_MS, "ms") for part in late_ms]


def show(title: str, rows: list[dict[str, Any]], found: list[dict[str, Any]]) -> None:
    """Print the tables for people."""
    table = Table("", *(f"{row['size']} {row['profile']}" for row in rows), title=title)
    for name in list(rows[0])[2:]:
        table.add_row(name, *("-" if row[name] is None else f"{row[name]:.3g}" for row in rows))
    laws = Table("law", "value", "limit", "", title="checks")
    for check in found:
        value = "not measured" if check["value"] is None else f"{check['value']:.4g} {check['unit']}"
        laws.add_row(check["name"], value, f"{check['limit']:g}", "ok" if check["ok"] else "NOT MET")
    console = wide_console(columns=150)
    console.print(table)
    console.print(laws)


def _at_most(name: str, value: float | None, limit: float, unit: str = "") -> dict[str, Any]:
    return {"name": name, "value": value, "limit": limit, "unit": unit, "ok": value is not None and value <= limit}


def _at_least(name: str, value: float | None, limit: float, unit: str = "") -> dict[str, Any]:
    return {"name": name, "value": value, "limit": limit, "unit": unit, "ok": value is not None and value >= limit}
