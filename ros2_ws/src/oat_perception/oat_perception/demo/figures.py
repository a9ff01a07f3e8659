"""Draw the two figures of the demo's report: the day as a timeline, and accuracy by phase. Needs no rclpy."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.transforms import blended_transform_factory

from oat_perception.demo.run_record import ReplayedFrame, Run, total
from oat_runtime import style
from oat_runtime.operating_point import Proportion
from oat_runtime.style import BLUE, INK, LINE, PURPLE, UMBER, VERMILION, Axes, Figure
from oat_runtime.text import plain

ADAPTIVE_LINE: dict[str, Any] = {"color": INK, "linewidth": 2.0}
FIXED_COLOURS = (BLUE, VERMILION)
_LATENCY_WINDOW_S = 5.0
_FEWEST_FOR_A_LINE = 5


def timeline(run: Run) -> Figure:
    """Draw all that changed during the day over one time axis."""
    with style.new_figure(10.8, 11.6) as figure:
        rows = figure.subplots(6, 1, sharex=True, height_ratios=(1.35, 1.0, 1.0, 0.85, 1.0, 1.5))
        answered = run.answered
        t_s = np.array([frame.t_s for frame in answered])
        style.belief(rows[0], t_s, np.nan_to_num(np.array([frame.answer["posterior"] for frame in answered], float).T))
        rows[0].set_ylabel("belief in\neach regime")
        _legend(rows[0], reverse=True)  # in the order of the stack
        _told(rows[1], t_s, answered)
        _knob(rows[2], t_s, answered, key="lambda", label="λ")
        _knob(rows[3], t_s, answered, key="width", label="width")
        _latency(rows[4], t_s, answered)
        _running_accuracy(rows[5], run)
        _phases(rows, run)
        for axes in rows:
            axes.grid(axis="x", visible=False)  # the phases' borders are drawn
        rows[-1].set_xlabel("time since the first image, s")
        rows[-1].set_xlim(0, max(run.scenario.duration_s, run.frames[-1].t_s))
        figure.align_ylabels(rows)
        return figure


def accuracy_by_phase(run: Run) -> Figure:
    """Draw the accuracy of the adaptive node and of each fixed λ, by phase, with 95 % intervals."""
    with style.new_figure(10.8, 3.4) as figure:
        axes = figure.subplots()
        phases = [phase for phase in run.scenario.phases if run.of(phase)]
        for index, phase in enumerate(phases):
            counts = run.counts(phase)
            series = [("adaptive", counts.adaptive, INK, "o")]
            for (lam, share), colour, marker in zip(counts.fixed.items(), FIXED_COLOURS, "sD", strict=False):
                series.append((f"fixed {style.lam_text(lam)}, full width", share, colour, marker))
            for place, (name, share, colour, marker) in enumerate(series):
                _interval(axes, index + 0.2 * (place - 1), share, colour, marker, name if index == 0 else "")
            if index:
                axes.axvline(index - 0.5, color=LINE, linewidth=0.8)
        axes.set_xticks(range(len(phases)), [plain(phase.title) for phase in phases])
        axes.tick_params(axis="x", length=0)
        axes.grid(axis="x", visible=False)
        axes.set_xlim(-0.5, len(phases) - 0.5)
        _percent(axes, "right answers")
        figure.legend(loc="outside upper left", ncols=3)
        return figure


def to_svg(figure: Figure, *, name: str) -> str:
    """Return the figure as an element for an HTML page; `name` keeps its ids apart from another figure's."""
    with matplotlib.rc_context({"svg.hashsalt": name}):
        svg = style.drawn(figure, "svg", {"metadata": {"Date": None}}).decode()
    # Browsers scale an SVG without a size of its own to the width of the page.
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"([^>]*?) width="[^"]*"|(<svg[^>]*?) width="[^"]*" height="[^"]*"',
                 lambda m: (m[1] or m[3]) + (m[2] or ""), svg[svg.index("<svg") :], count=1)  # fmt: skip
    return style.wide(figure, svg)


def _told(axes: Axes, t_s: np.ndarray, answered: Sequence[ReplayedFrame]) -> None:
    for key, name, colour in (
        ("environment_confidence", "environment\nconfidence", BLUE),
        ("battery", "battery", VERMILION),
    ):
        values = np.array([frame.answer[key] for frame in answered], float)
        axes.plot(t_s, values, color=colour, linewidth=1.8, label=name)
    style.share_axis(axes)
    axes.set_ylabel("what the node\nis told")
    _legend(axes)


def _knob(axes: Axes, t_s: np.ndarray, answered: Sequence[ReplayedFrame], *, key: str, label: str) -> None:
    """Draw a stepped line, and mark the parts that a person set by colour and thickness."""
    values = np.array([frame.answer[key] for frame in answered], float)
    by_operator = np.array([frame.answer[f"{key}_source"] == "operator" for frame in answered])
    axes.step(t_s, values, where="post", color=INK, linewidth=1.6, label="chosen by the policy")
    axes.step(
        t_s, np.where(by_operator, values, np.nan), where="post", color=PURPLE, linewidth=3.6,
        label="set by the operator",
    )  # fmt: skip
    changed = np.flatnonzero(np.diff(values)) + 1
    axes.plot(t_s[changed], values[changed], "o", color=INK, markersize=3.5)
    style.share_axis(axes)
    axes.set_ylabel(label)
    if key == "lambda":
        _legend(axes)


def _latency(axes: Axes, t_s: np.ndarray, answered: Sequence[ReplayedFrame]) -> None:
    latency_ms = np.array([frame.answer["inference_ms"] for frame in answered], float)
    windows = [latency_ms[(t_s > t - _LATENCY_WINDOW_S) & (t_s <= t)] for t in t_s]
    axes.plot(t_s, latency_ms, ".", color="#9aa2a9", markersize=3, label="one frame")
    axes.plot(t_s, [np.percentile(w, 50) for w in windows], color=BLUE, linewidth=1.8, label="median")
    axes.plot(t_s, [np.percentile(w, 99) for w in windows], color=UMBER, linewidth=1.5, label="99th percentile")
    style.log_axis(axes)
    axes.set_ylabel("network time, ms\n(log; last 5 s)")
    _legend(axes)


def _running_accuracy(axes: Axes, run: Run) -> None:
    """Draw accuracy counted from each phase's start, so that each line ends at the figure in the table."""
    lambdas = sorted({lam for frame in run.answered for lam in frame.fixed})
    for index, phase in enumerate(run.scenario.phases):
        frames = [frame for frame in run.of(phase) if frame.result is not None]
        t_s = np.array([frame.t_s for frame in frames])
        labels = [("adaptive, with\n95 % interval", [f.labels for f in frames], ADAPTIVE_LINE)]
        for lam, colour, dashes in zip(lambdas, FIXED_COLOURS, ((4, 1.5), (1.5, 1.2)), strict=False):
            fixed_line: dict[str, Any] = {"color": colour, "linewidth": 1.7, "dashes": dashes}
            labels.append((f"fixed {style.lam_text(lam)}", [f.fixed[lam] for f in frames], fixed_line))
        for name, answers, line in labels:
            counted = [frame.share(of_frame) for of_frame, frame in zip(answers, frames, strict=True)]
            shares = list(itertools.accumulate(counted, lambda a, b: total((a, b))))[_FEWEST_FOR_A_LINE - 1 :]
            times_s = t_s[_FEWEST_FOR_A_LINE - 1 :]
            axes.plot(times_s, [s.rate for s in shares], label=name if index == 0 else None, **line)
            if line is ADAPTIVE_LINE and shares:
                low, high = zip(*(s.interval() for s in shares), strict=True)
                axes.fill_between(times_s, low, high, color=INK, alpha=0.09, linewidth=0)
    _percent(axes, "right answers\nsince the phase began")
    _legend(axes)


def _phases(rows: Sequence[Axes], run: Run) -> None:
    boundaries_s = run.scenario.boundaries_s()
    for index, phase in enumerate(run.scenario.phases):
        begin_s, end_s = boundaries_s[index], boundaries_s[index + 1]
        for axes in rows:
            if index % 2 == 0:
                axes.axvspan(begin_s, end_s, color=style.BAND, linewidth=0, zorder=-10)
            if index:
                axes.axvline(begin_s, color=LINE, linewidth=0.8, zorder=-5)
        place = blended_transform_factory(rows[0].transData, rows[0].transAxes)
        rows[0].text(
            (begin_s + end_s) / 2, 1.06, plain(phase.title), transform=place, ha="center", va="bottom", fontsize=10.5,
            fontweight="bold",
        )  # fmt: skip


def _interval(axes: Axes, x: float, share: Proportion, colour: str, marker: str, name: str) -> None:
    low, high = share.interval()
    axes.plot((x, x), (low, high), color=colour, linewidth=2, alpha=0.45, solid_capstyle="butt")
    axes.plot(x, share.rate, marker, color=colour, markersize=6.5, linestyle="none", label=name or None)


def _percent(axes: Axes, label: str) -> None:
    axes.set_ylim(-0.04, 1.04)
    axes.set_yticks((0, 0.25, 0.5, 0.75, 1), ("0 %", "25 %", "50 %", "75 %", "100 %"))
    axes.set_ylabel(label)


def _legend(axes: Axes, *, reverse: bool = False) -> None:
    axes.legend(loc="center left", bbox_to_anchor=(1.005, 0.5), borderaxespad=0, reverse=reverse)
