"""Show what a policy decided: as a table, beside other policies, and as a figure (matplotlib, extra `plots`)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from oat_runtime.errors import DataError
from oat_runtime.operating_point import Regime
from oat_runtime.report import text_table
from oat_runtime.text import plain
from policy.decision import Decision
from policy.signals import Signals

Steps = Sequence[tuple[Signals, Decision]]
_COLOURS = {
    Regime.CLEAN: "#d7dde4",
    Regime.HIGH_FREQUENCY: "#3b82c4",
    Regime.LOW_FREQUENCY: "#8fbf8f",
    Regime.ADVERSARIAL: "#c2410c",
    Regime.UNKNOWN: "#6e7781",
}


def timeline_table(steps: Steps, *, equal: Sequence[bool], every_step: bool) -> Table:
    """Return the steps as a table: all of them, or the first, the last, and those that changed the point or differ."""
    seconds, rows = _seconds(steps), []
    for number, (_, decision) in enumerate(steps):
        if not (every_step or decision.changed or not equal[number] or number in (0, len(steps) - 1)):
            continue
        regime, mass = max(decision.posterior.items(), key=lambda item: item[1])
        belief, verdict = f"{regime.value} {mass:.2f}", "yes" if equal[number] else "NO"
        at = f"{seconds[number]:.2f}", decision.point.lam, decision.point.width
        rows.append((*at, decision.source.value, belief, verdict, decision.reason))
    return text_table(f"{len(steps)} decisions", ("s", "λ", "width", "source", "regime", "equal", "reason"), rows)


def comparison_table(played: Mapping[str, Steps]) -> Table:
    """Return a table that compares policies on the same inputs."""
    columns = ("policy", "switches", "λ: share of frames", "mean λ", "mean width", "expected accuracy", "probes")
    rows = []
    for name, steps in played.items():
        decisions, count = [decision for _, decision in steps], max(1, len(steps))
        shares = Counter(decision.point.lam for decision in decisions)
        lam, width = (sum(getattr(decision.point, knob) for decision in decisions) / count for knob in ("lam", "width"))
        accuracy = f"{100 * sum(decision.expected_accuracy for decision in decisions) / count:.2f} %"
        frames = ", ".join(f"{lam:g}: {100 * shares[lam] / count:.0f} %" for lam in sorted(shares))
        num_switches = sum(decision.changed for decision in decisions)
        num_probes = sum(decision.probe is not None for decision in decisions)
        rows.append((name, num_switches, frames, lam, width, accuracy, num_probes))
    return text_table("Policies on the same inputs", columns, rows)


def save_figure(played: Mapping[str, Steps], path: Path) -> None:
    """Draw λ and width over time, above the belief over regimes; a column for each policy.

    Raises:
        DataError: matplotlib is not installed, or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DataError("a figure needs matplotlib: pip install 'oat-robot[plots]'") from error
    figure = Figure(figsize=(max(7.0, 5.0 * len(played)), 5.0), dpi=150, layout="constrained")
    axes = figure.subplots(2, len(played), sharex=True, sharey="row", squeeze=False)
    for column, (name, steps) in enumerate(played.items()):
        _draw(axes[0][column], axes[1][column], name, steps)
    axes[0][0].set_ylabel("λ, width")
    axes[1][0].set_ylabel("belief")
    axes[0][0].legend(loc="best", frameon=False)
    axes[1][-1].legend(loc="upper right", frameon=False, fontsize="small")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise DataError(f"the figure cannot be written to {path}: {error}") from error


def _draw(upper: Any, lower: Any, name: str, steps: Steps) -> None:
    seconds = _seconds(steps)
    decisions = [decision for _, decision in steps]
    switches = sum(decision.changed for decision in decisions)
    upper.set_title(f"{plain(name)}: {switches} switches", loc="left", parse_math=False)
    upper.step(seconds, [decision.point.lam for decision in decisions], where="post", label="λ", color="#c2410c")
    upper.step(
        seconds, [decision.point.width for decision in decisions], where="post", label="width", color="#0b4f8a", ls="--"
    )
    upper.set_ylim(-0.05, 1.08)
    masses = [[decision.posterior[regime] for decision in decisions] for regime in Regime]
    lower.stackplot(
        seconds, masses, labels=[regime.value.replace("_", " ") for regime in Regime], colors=list(_COLOURS.values())
    )
    lower.set_ylim(0.0, 1.0)
    lower.set_xlabel("s")


def _seconds(steps: Steps) -> list[float]:
    """Return the times since the first known one; an unknown (NaN) time becomes the last known one."""
    start_s = next((signals.now_s for signals, _ in steps if math.isfinite(signals.now_s)), 0.0)
    seconds, last_s = [], 0.0
    for signals, _ in steps:
        last_s = signals.now_s - start_s if math.isfinite(signals.now_s) else last_s
        seconds.append(last_s)
    return seconds
