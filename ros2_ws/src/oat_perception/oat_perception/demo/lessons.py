"""Say in the report's first lines what a person learns from this run, in its own figures with their counts."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

from oat_perception.demo.days import Day
from oat_perception.demo.run_record import FULL_WIDTH, OWN_POINT, PhaseCounts, ReplayedFrame, Run, count, total
from oat_runtime.operating_point import Proportion
from oat_runtime.style import lam_text, of_255
from oat_runtime.text import html_text as escape


def lessons(run: Run, summary: dict[str, Any], day: Day) -> str:
    """Return what λ is, what was won under attack, what clear days cost and what the battery saved, as HTML."""
    attacked = [frame for frame in run.answered if frame.truth["attack"] != "none"]
    sections = (
        _what_lambda_is(run),
        _under_attack(count("", attacked), summary["attack"], day),
        _on_clear_days(run.counts(run.scenario.phases[0]), day),
        _from_the_battery(run.answered, day),
    )
    return f"<div class=lessons>{''.join(sections)}</div>"


def share_text(share: Proportion) -> str:
    """Return a share with its counts."""
    if not share.num_total:
        return "none"
    return f"{100 * share.rate:.0f}&nbsp;% ({share.num_correct} of {share.num_total})"


def _what_lambda_is(run: Run) -> str:
    used = sorted({frame.point.lam for frame in run.answered if frame.answer["lambda_source"] == "adaptive"})
    return _section(
        "What λ is",
        "λ",
        "from 0 to 1",
        "A knob of one trained network, turned while it runs, at no cost in time. λ=0 is the most accurate setting in "
        "clear images, λ=1 the most robust one against disturbed and hostile images. Here the policy ran it at "
        f"{', '.join(f'{lam:g}' for lam in used) or 'no value of its own'}.",
    )


def _under_attack(counts: PhaseCounts, attack: dict[str, Any], day: Day) -> str:
    return _against_fixed(
        "What was won under attack",
        counts,
        day,
        start="With the policy",
        most_robust=", at fixed {} on {}. ",
        end=f"The attack is {escape(attack['name'])} with ε&nbsp;=&nbsp;{of_255(attack['epsilon'])} of the pixels’ "
        "range, made anew for each of them.",
        nothing="No attacked image was answered.",
    )


def _on_clear_days(counts: PhaseCounts, day: Day) -> str:
    return _against_fixed(
        "What clear days cost",
        counts,
        day,
        start=f"In “{escape(counts.title)}”",
        most_robust=". Fixed {}, which is always robust, is right on {}.",
        nothing="No clear image was answered.",
    )


def _against_fixed(
    title: str, counts: PhaseCounts, day: Day, *, start: str, most_robust: str, nothing: str, end: str = ""
) -> str:
    """Compare the node with the least and the most robust fixed λ; `most_robust` has places for λ and its share."""
    own, fixed = counts.adaptive, counts.fixed
    if not own.num_total or not fixed:
        return _section(title, "–", "", nothing)
    least, most = min(fixed), max(fixed)
    return _section(
        title,
        _points(own, fixed[least]),
        f"of accuracy, against fixed {lam_text(least)}",
        f"{start} right on {share_text(own)} {day.things}, at fixed {lam_text(least)} on {share_text(fixed[least])}"
        f"{most_robust.format(lam_text(most), share_text(fixed[most]))}{end}",
    )


def _from_the_battery(frames: Iterable[ReplayedFrame], day: Day) -> str:
    title = "What the battery saved"
    both = [
        (frame, own, full)
        for frame in frames
        if (own := frame.other(OWN_POINT)) is not None and (full := frame.other(FULL_WIDTH)) is not None
    ]
    if not both:
        return _section(title, "–", "", "The policy never narrowed the network, so nothing was saved.")
    own_ms = statistics.median(line["latency_ms"] for _, line, _ in both)
    full_ms = statistics.median(line["latency_ms"] for _, _, line in both)
    own_share = total(frame.share(line["labels"]) for frame, line, _ in both)
    full_share = total(frame.share(line["labels"]) for frame, _, line in both)
    widths = sorted({line["width"] for _, line, _ in both})
    return _section(
        title,
        f"{100 * (1 - own_ms / full_ms):.0f}&nbsp;%",
        "of the network’s time",
        f"At width {', '.join(f'{width:g}' for width in widths)} it took {own_ms:.1f}&nbsp;ms an image, at full width "
        f"{full_ms:.1f}&nbsp;ms (medians of {len(both)} images, each the least of three tries, timed in turn after the "
        f"run). It was right on {share_text(own_share)} {day.things}, at full width and the same λ on "
        f"{share_text(full_share)}.",
    )


def _points(share: Proportion, other: Proportion) -> str:
    """Return the difference in points, with its sign."""
    points = round(100 * (share.rate - other.rate))
    return f"{'−' if points < 0 else '+' if points else '±'}{abs(points)}&nbsp;points"


def _section(title: str, figure: str, unit: str, text: str) -> str:
    return f"<section><h3>{title}</h3><p class=figure>{figure} <small>{unit}</small></p><p>{text}</p></section>"
