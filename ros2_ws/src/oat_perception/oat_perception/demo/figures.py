"""Draw the two figures of the demo's report: the day as a timeline, and accuracy by phase. Needs no rclpy."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import blended_transform_factory

from oat_perception.demo.day_record import Day, ReplayedFrame
from oat_runtime.operating_point import Proportion, Regime
from oat_runtime.text import plain

# Okabe and Ito's palette, which stays apart under every common colour blindness and in grey.
ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE = "#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00", "#cc79a7"
INK, SOFT, RULE, BAND = "#1c2329", "#5d6872", "#d5dade", "#f3f5f6"

REGIME_COLORS = {
    Regime.CLEAN: "#a9d5ee",
    Regime.HIGH_FREQUENCY: ORANGE,
    Regime.LOW_FREQUENCY: GREEN,
    Regime.ADVERSARIAL: VERMILION,
    Regime.UNKNOWN: "#b9c0c6",
}
_REGIME_TITLES = {
    Regime.CLEAN: "clean",
    Regime.HIGH_FREQUENCY: "noise, blur",
    Regime.LOW_FREQUENCY: "fog, contrast",
    Regime.ADVERSARIAL: "adversarial",
    Regime.UNKNOWN: "unknown",
}
ADAPTIVE_STYLE: dict[str, Any] = {"color": INK, "linewidth": 2.0}
FIXED_COLORS = (BLUE, VERMILION)
_LATENCY_WINDOW_S = 5.0
_FEWEST_FOR_A_LINE = 5

_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": RULE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "text.color": INK,
    "text.parse_math": False,  # a dollar sign in a name is one
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 1.4,
    "figure.facecolor": "white",
}


@contextmanager
def _style(salt: str) -> Iterator[None]:
    """Our style; the salt makes the ids within an SVG stable, and different from those of the other figure."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": salt}):
        yield


def timeline(day: Day) -> Figure:
    """Draw all that changed during the day over one time axis."""
    with _style("timeline"):
        figure = Figure(figsize=(10.4, 10.6), layout="constrained")
        rows = figure.subplots(6, 1, sharex=True, height_ratios=(1.35, 1.0, 1.0, 0.85, 1.0, 1.5))
        answered = day.answered
        t_s = np.array([frame.t_s for frame in answered])
        _regimes(rows[0], t_s, answered)
        _told(rows[1], t_s, answered)
        _knob(rows[2], t_s, answered, key="lambda", label="λ")
        _knob(rows[3], t_s, answered, key="width", label="width")
        _latency(rows[4], t_s, answered)
        _running_accuracy(rows[5], day)
        _phases(rows, day)
        rows[-1].set_xlabel("time since the first image, s")
        rows[-1].set_xlim(0, max(day.scenario.duration_s, day.frames[-1].t_s))
        figure.align_ylabels(rows)
        return figure


def accuracy_by_phase(day: Day) -> Figure:
    """Draw the accuracy of the adaptive node and of each fixed λ, by phase, with 95 % intervals."""
    with _style("accuracy"):
        figure = Figure(figsize=(10.4, 3.1), layout="constrained")
        axes = figure.subplots()
        phases = [phase for phase in day.scenario.phases if day.of(phase)]
        for index, phase in enumerate(phases):
            counts = day.counts(phase)
            series = [("adaptive", counts.adaptive, INK, "o")]
            for (lam, share), color, marker in zip(counts.fixed.items(), FIXED_COLORS, "sD", strict=False):
                series.append((f"fixed λ = {lam:g}, full width", share, color, marker))
            for place, (name, share, color, marker) in enumerate(series):
                _interval(axes, index + 0.2 * (place - 1), share, color, marker, name if index == 0 else "")
            if index:
                axes.axvline(index - 0.5, color=RULE, linewidth=0.8)
        axes.set_xticks(range(len(phases)), [plain(phase.title) for phase in phases])
        axes.tick_params(axis="x", length=0, labelcolor=INK, labelsize=9.5)
        axes.set_xlim(-0.5, len(phases) - 0.5)
        _percent(axes, "right answers")
        axes.grid(axis="y", color=RULE, linewidth=0.5)
        axes.set_axisbelow(True)
        figure.legend(loc="outside upper left", ncols=3)
        return figure


def to_svg(figure: Figure) -> str:
    """Return the figure as an SVG element for an HTML page."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": str(figure.get_figheight())}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    # Browsers scale an SVG without a size of its own to the width of the page.
    return re.sub(r'(<svg[^>]*?) height="[^"]*"([^>]*?) width="[^"]*"|(<svg[^>]*?) width="[^"]*" height="[^"]*"',
                  lambda m: (m[1] or m[3]) + (m[2] or ""), svg[svg.index("<svg") :], count=1)  # fmt: skip


def _regimes(axes: Axes, t_s: np.ndarray, answered: Sequence[ReplayedFrame]) -> None:
    posterior_KN = np.array([frame.answer["posterior"] for frame in answered], float).T
    axes.stackplot(
        t_s, np.nan_to_num(posterior_KN), colors=[REGIME_COLORS[r] for r in Regime], linewidth=0,
        labels=[_REGIME_TITLES[r] for r in Regime],
    )  # fmt: skip
    axes.set_ylim(0, 1)
    axes.set_yticks((0, 0.5, 1), ("0", "0.5", "1"))
    axes.set_ylabel("belief in\neach regime")
    _legend(axes, reverse=True)  # in the order of the stack


def _told(axes: Axes, t_s: np.ndarray, answered: Sequence[ReplayedFrame]) -> None:
    for key, name, color in (
        ("environment_confidence", "environment confidence", BLUE),
        ("battery", "battery", ORANGE),
    ):
        values = np.array([frame.answer[key] for frame in answered], float)
        axes.plot(t_s, values, color=color, linewidth=1.8, label=name)
    axes.set_ylim(-0.03, 1.08)
    axes.set_yticks((0, 0.5, 1), ("0", "0.5", "1"))
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
    axes.set_ylim((-0.06, 1.12) if key == "lambda" else (0, 1.12))
    axes.set_yticks((0, 0.5, 1), ("0", "0.5", "1"))
    axes.set_ylabel(label)
    if key == "lambda":
        _legend(axes)


def _latency(axes: Axes, t_s: np.ndarray, answered: Sequence[ReplayedFrame]) -> None:
    latency_ms = np.array([frame.answer["inference_ms"] for frame in answered], float)
    windows = [latency_ms[(t_s > t - _LATENCY_WINDOW_S) & (t_s <= t)] for t in t_s]
    axes.plot(t_s, latency_ms, ".", color="#aab4bc", markersize=3, label="one frame")
    axes.plot(t_s, [np.percentile(w, 50) for w in windows], color=BLUE, linewidth=1.8, label="median")
    axes.plot(t_s, [np.percentile(w, 99) for w in windows], color=ORANGE, linewidth=1.5, label="99th percentile")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    axes.set_ylabel("network time, ms\n(log; last 5 s)")
    _legend(axes)


def _running_accuracy(axes: Axes, day: Day) -> None:
    """Draw accuracy counted from each phase's start, so that each line ends at the figure in the table."""
    lambdas = sorted({lam for frame in day.answered for lam in frame.fixed})
    for index, phase in enumerate(day.scenario.phases):
        frames = [frame for frame in day.of(phase) if frame.result is not None]
        t_s = np.array([frame.t_s for frame in frames])
        labels = [("adaptive, 95 % interval", [f.answer["label"] for f in frames], ADAPTIVE_STYLE)]
        for lam, color, dashes in zip(lambdas, FIXED_COLORS, ((4, 1.5), (1.5, 1.2)), strict=False):
            fixed_style: dict[str, Any] = {"color": color, "linewidth": 1.7, "dashes": dashes}
            labels.append((f"fixed λ = {lam:g}", [f.fixed[lam] for f in frames], fixed_style))
        for name, answers, style in labels:
            right = np.cumsum([a == f.truth["label"] for a, f in zip(answers, frames, strict=True)])
            shares = [Proportion(int(k), n) for n, k in enumerate(right, start=1)][_FEWEST_FOR_A_LINE - 1 :]
            times_s = t_s[_FEWEST_FOR_A_LINE - 1 :]
            axes.plot(times_s, [s.rate for s in shares], label=name if index == 0 else None, **style)
            if style is ADAPTIVE_STYLE and shares:
                low, high = zip(*(s.interval() for s in shares), strict=True)
                axes.fill_between(times_s, low, high, color=INK, alpha=0.09, linewidth=0)
    _percent(axes, "right answers\nsince the phase began")
    _legend(axes)


def _phases(rows: Sequence[Axes], day: Day) -> None:
    boundaries_s = day.scenario.boundaries_s()
    for index, phase in enumerate(day.scenario.phases):
        begin_s, end_s = boundaries_s[index], boundaries_s[index + 1]
        for axes in rows:
            if index % 2 == 0:
                axes.axvspan(begin_s, end_s, color=BAND, linewidth=0, zorder=-10)
            if index:
                axes.axvline(begin_s, color=RULE, linewidth=0.8, zorder=-5)
        place = blended_transform_factory(rows[0].transData, rows[0].transAxes)
        rows[0].text(
            (begin_s + end_s) / 2, 1.06, plain(phase.title), transform=place, ha="center", va="bottom", fontsize=10,
            fontweight="bold",
        )  # fmt: skip


def _interval(axes: Axes, x: float, share: Proportion, color: str, marker: str, name: str) -> None:
    low, high = share.interval()
    axes.plot((x, x), (low, high), color=color, linewidth=2, alpha=0.45, solid_capstyle="butt")
    axes.plot(x, share.rate, marker, color=color, markersize=6.5, linestyle="none", label=name or None)


def _percent(axes: Axes, label: str) -> None:
    axes.set_ylim(-0.04, 1.04)
    axes.set_yticks((0, 0.25, 0.5, 0.75, 1), ("0 %", "25 %", "50 %", "75 %", "100 %"))
    axes.set_ylabel(label)


def _legend(axes: Axes, *, reverse: bool = False) -> None:
    axes.legend(loc="center left", bbox_to_anchor=(1.005, 0.5), borderaxespad=0, reverse=reverse)
