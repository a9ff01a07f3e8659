"""Write the tables of the demo's report: what was right in each phase, and every switch. Needs no rclpy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from oat_perception.demo.days import Day
from oat_perception.demo.run_record import PhaseCounts, Run
from oat_runtime.operating_point import Proportion
from oat_runtime.style import lam_text, of_255
from oat_runtime.text import html_text as escape


def phase_table(run: Run) -> str:
    """Return the table of phases: right answers, λ and width in use, times."""
    phases = [phase for phase in run.scenario.phases if run.of(phase)]
    rows = [*(run.counts(phase) for phase in phases), run.counts()]
    lambdas = rows[-1].fixed
    heads = ["Phase", "Images", "Adaptive", *(f"Fixed {lam_text(lam)}" for lam in lambdas), "λ in use", "Width in use",
             "Network, ms"]  # fmt: skip
    body = "".join(_phase_row(counts, lambdas) for counts in rows)
    return _table("numbers", heads, body)


def _phase_row(counts: PhaseCounts, lambdas: Iterable[float]) -> str:
    images = str(counts.num_answered)
    if counts.num_answered != counts.num_published:
        images += f" <small>of {counts.num_published}</small>"
    mean_ms, _, p99_ms = counts.latency_ms
    cells = [
        f"<b>{escape(counts.title)}</b>",
        images,
        _cell(counts.adaptive),
        *(_cell(counts.fixed.get(lam, Proportion(0, 0))) for lam in lambdas),
        _used(counts.lambdas),
        _used(counts.widths),
        f"{mean_ms:.1f} <small>p99 {p99_ms:.1f}</small>",
    ]
    return "<tr>" + "".join(f"<td>{cell}" for cell in cells)


def _cell(share: Proportion) -> str:
    if not share.num_total:
        return "–"
    low, high = share.interval()
    return (
        f"{100 * share.rate:.0f}&nbsp;% <small>{share.num_correct}/{share.num_total}<br>"
        f"95&nbsp;%: {100 * low:.0f}–{100 * high:.0f}</small>"
    )


def _used(shares: dict[float, float]) -> str:
    """Return the values by how often they ran, the most frequent first; rare ones are summed up."""
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    shown = [f"{value:g} <small>{100 * share:.0f}&nbsp;%</small>" for value, share in ordered[:3]]
    return "<br>".join(shown) + (f"<br><small>and {len(ordered) - 3} more</small>" if len(ordered) > 3 else "")


def phases_note(run: Run, summary: dict[str, Any], day: Day) -> str:
    """Return how the figures of the phases were counted."""
    attacked = [frame for frame in run.answered if frame.truth["attack"] != "none"]
    in_step = sum(
        (frame.truth["attacked_lambda"], frame.truth["attacked_width"]) == (frame.point.lam, frame.point.width)
        for frame in attacked
    )
    attack = summary["attack"]
    epsilon, step = (of_255(attack[key]) for key in ("epsilon", "step_size"))
    return (
        f"<p class=note>Accuracy: share of right answers for {day.things}, count, Wilson 95&nbsp;% interval. Fixed λ "
        "runs at full width on the very pixels the node got, except under attack: there each column is attacked at "
        f"its own operating point, from the same clean image and random start ({escape(attack['name'])}, L∞, "
        f"ε&nbsp;=&nbsp;{epsilon}, step {step}, white-box, float32 gradients). The camera attacked the point that the "
        f"node had last announced: {in_step} of {len(attacked)} attacked images were answered at just that point.</p>"
    )


def switch_table(run: Run) -> str:
    """Return the table of switches, each with its reason."""
    if not run.switches:
        return "<p>The operating point never changed.</p>"
    titles = {phase.name: escape(phase.title) for phase in run.scenario.phases}
    rows = "".join(
        f"<tr><td class=time>{s.t_s:.1f}<td>{titles[s.phase]}<td data-name=λ>{_arrow(s.before.lam, s.after.lam)}"
        f"<td data-name=width>{_arrow(s.before.width, s.after.width)}"
        f"<td>{escape(s.source.replace('_', ' '))}<td class=reason>{escape(s.reason)}"
        for s in run.switches
    )
    heads = ("Time, s", "Phase", "λ", "Width", "Chosen by", "Reason in the decision log")
    return _table("switches", heads, rows)


def _table(kind: str, heads: Iterable[str], body: str) -> str:
    head = "".join(f"<th>{text}" for text in heads)
    return f"<div class=wide><table class={kind}><thead><tr>{head}</thead><tbody>{body}</tbody></table></div>"


def _arrow(before: float, after: float) -> str:
    return f"{before:g}&thinsp;→&thinsp;<b>{after:g}</b>" if before != after else f"<span class=same>{after:g}</span>"
