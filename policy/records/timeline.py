"""Show what a policy decided: as a table, beside other policies, and as a figure (extra `plots`)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from oat_runtime import style
from oat_runtime.operating_point import Regime
from oat_runtime.report import text_table
from policy.decision import Decision
from policy.signals import Signals

Steps = Sequence[tuple[Signals, Decision]]


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
    """Draw λ, width and the belief over regimes over time; a column for each policy.

    Raises:
        ConfigError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    with style.new_figure(max(8.0, 5.0 * len(played) + 1.6), 5.6, dpi=150) as figure:
        axes = figure.subplots(
            3, len(played), sharex=True, sharey="row", squeeze=False, height_ratios=(1.0, 1.0, 1.4)
        )  # fmt: skip
        for column, (name, steps) in enumerate(played.items()):
            _draw([row[column] for row in axes], name, steps)
        for row, label in zip(axes, ("λ", "width", "belief in\neach regime"), strict=True):
            row[0].set_ylabel(label)
        figure.align_ylabels()
        axes[2][-1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), reverse=True)
        style.save(figure, path)


def _draw(rows: Sequence[style.Axes], name: str, steps: Steps) -> None:
    seconds, decisions = _seconds(steps), [decision for _, decision in steps]
    style.title(rows[0], f"{name}: {sum(decision.changed for decision in decisions)} switches")
    for axes, knob in zip(rows, ("lam", "width"), strict=False):
        axes.step(seconds, [getattr(decision.point, knob) for decision in decisions], where="post", color=style.INK)
        style.share_axis(axes)
    masses = [[decision.posterior[regime] for decision in decisions] for regime in Regime]
    style.belief(rows[2], seconds, masses)
    rows[2].set_xlabel("time, s")


def _seconds(steps: Steps) -> list[float]:
    """Return the times since the first known one; an unknown (NaN) time becomes the last known one."""
    start_s = next((signals.now_s for signals, _ in steps if math.isfinite(signals.now_s)), 0.0)
    seconds, last_s = [], 0.0
    for signals, _ in steps:
        last_s = signals.now_s - start_s if math.isfinite(signals.now_s) else last_s
        seconds.append(last_s)
    return seconds
