"""Write the demo's report: one HTML file that needs no other. Every number in it is counted from the run's files."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from oat_perception.demo.day_record import SUMMARY, Day, PhaseCounts, ReplayedFrame, load_day
from oat_perception.demo.figures import accuracy_by_phase, timeline, to_svg
from oat_perception.replay.scenario import Scenario
from oat_runtime.data import CIFAR10_CLASSES
from oat_runtime.errors import DataError
from oat_runtime.operating_point import Proportion
from oat_runtime.style import html_page, lam_text, of_255
from oat_runtime.text import html_text as escape

_SAMPLES_PER_PHASE = 4


def write_report(folder: Path) -> Path:
    """Render `folder`/report.html, and the timeline as a PNG beside it, from the files of a run.

    Raises:
        DataError: a file of the run is missing or damaged.
    """
    try:
        summary = json.loads((folder / SUMMARY).read_text())
        scenario = Scenario.model_validate(summary["scenario"])
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{folder / SUMMARY} is missing or damaged ({error}): run the demo again") from error
    day = load_day(folder, scenario)
    figure = timeline(day)
    figure.savefig(folder / "timeline.png", dpi=150)
    body = _BODY.format(
        lead=_lead(day, summary),
        timeline=to_svg(figure, name="timeline"),
        accuracy=to_svg(accuracy_by_phase(day), name="accuracy"),
        phases=_phase_table(day),
        phases_note=_phases_note(day, summary),
        switches=_switch_table(day),
        samples=_samples(day, folder / "frames"),
        limits=_limits(day, summary),
        checks=_check_list(summary["checks"]),
        colophon=_colophon(summary),
    )
    path = folder / "report.html"
    path.write_text(html_page(_TITLE, body, more_style=_STYLE))
    return path


def _lead(day: Day, summary: dict[str, Any]) -> str:
    counts = day.counts()
    fixed = ", ".join(f"{_share(share)} at fixed {lam_text(lam)}" for lam, share in counts.fixed.items())
    lam_moves = sum(switch.before.lam != switch.after.lam for switch in day.switches)
    width_moves = sum(switch.before.width != switch.after.width for switch in day.switches)
    return (
        f"<p class=lead>One network, <b>{escape(summary['bundle'])}</b>, saw {counts.num_published} images in "
        f"{day.frames[-1].t_s:.0f}&nbsp;s and answered {counts.num_answered}. λ changed {lam_moves} times and the "
        f"width {width_moves} times while it ran. It was right on {_share(counts.adaptive)} of them"
        f"{f'; the same images give {fixed}, both at full width' if fixed else ''}. The mix of phases is a script's, "
        "not the world's, so look at the phases one by one.</p>"
    )


def _phase_table(day: Day) -> str:
    phases = [phase for phase in day.scenario.phases if day.of(phase)]
    rows = [*(day.counts(phase) for phase in phases), day.counts()]
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


def _share(share: Proportion) -> str:
    return f"{100 * share.rate:.0f}&nbsp;% ({share.num_correct} of {share.num_total})"


def _used(shares: dict[float, float]) -> str:
    """Return the values by how often they ran, the most frequent first; rare ones are summed up."""
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    shown = [f"{value:g} <small>{100 * share:.0f}&nbsp;%</small>" for value, share in ordered[:3]]
    return "<br>".join(shown) + (f"<br><small>and {len(ordered) - 3} more</small>" if len(ordered) > 3 else "")


def _phases_note(day: Day, summary: dict[str, Any]) -> str:
    attacked = [frame for frame in day.answered if frame.truth["attack"] != "none"]
    in_step = sum(
        (frame.truth["attacked_lambda"], frame.truth["attacked_width"]) == (frame.point.lam, frame.point.width)
        for frame in attacked
    )
    attack = summary["attack"]
    epsilon, step = (of_255(attack[key]) for key in ("epsilon", "step_size"))
    return (
        "<p class=note>Accuracy: share of right answers, count, Wilson 95&nbsp;% interval. Fixed λ runs at full width "
        "on the very pixels the node got, except under attack: there each column is attacked at its own operating "
        f"point, from the same clean image and random start ({escape(attack['name'])}, L∞, ε&nbsp;=&nbsp;{epsilon}, "
        f"step {step}, white-box, float32 gradients). The camera attacked the point that the node had last announced: "
        f"{in_step} of {len(attacked)} "
        "attacked images were answered at just that point.</p>"
    )


def _switch_table(day: Day) -> str:
    if not day.switches:
        return "<p>The operating point never changed.</p>"
    titles = {phase.name: escape(phase.title) for phase in day.scenario.phases}
    rows = "".join(
        f"<tr><td class=time>{s.t_s:.1f}<td>{titles[s.phase]}<td>{_arrow(s.before.lam, s.after.lam)}"
        f"<td>{_arrow(s.before.width, s.after.width)}"
        f"<td>{escape(s.source.replace('_', ' '))}<td class=reason>{escape(s.reason)}"
        for s in day.switches
    )
    heads = ("Time, s", "Phase", "λ", "Width", "Chosen by", "Reason in the decision log")
    return _table("switches", heads, rows)


def _table(kind: str, heads: Iterable[str], body: str) -> str:
    head = "".join(f"<th>{text}" for text in heads)
    return f"<div class=wide><table class={kind}><thead><tr>{head}</thead><tbody>{body}</tbody></table></div>"


def _arrow(before: float, after: float) -> str:
    return f"{before:g}&thinsp;→&thinsp;<b>{after:g}</b>" if before != after else f"<span class=same>{after:g}</span>"


def _samples(day: Day, frames_dir: Path) -> str:
    rows = []
    for phase in day.scenario.phases:
        frames = [frame for frame in day.of(phase) if frame.result is not None]
        places = [len(frames) * (2 * i + 1) // (2 * _SAMPLES_PER_PHASE) for i in range(_SAMPLES_PER_PHASE)]
        figures = "".join(_sample(frames[place], frames_dir) for place in places if frames)
        rows.append(f"<section class=strip><h3>{escape(phase.title)}</h3><div>{figures}</div></section>")
    return "".join(rows)


def _sample(frame: ReplayedFrame, frames_dir: Path) -> str:
    image = base64.b64encode((frames_dir / frame.truth["file"]).read_bytes()).decode()
    truth, answer = CIFAR10_CLASSES[frame.truth["label"]], frame.answer["class_name"]
    right = frame.truth["label"] == frame.answer["label"]
    verdict = (
        f"<span class=right>✓ {escape(answer)}</span>" if right else f"<span class=wrong>✗ {escape(answer)}</span>"
    )
    return (
        f'<figure><img alt="{truth}" src="data:image/png;base64,{image}"><figcaption>{verdict} '
        f"<small>{100 * frame.answer['confidence']:.0f}&nbsp;%</small><br>"
        f"<small>{f'is {truth}<br>' if not right else ''}{lam_text(frame.point.lam)}, "
        f"width&nbsp;{frame.point.width:g}</small></figcaption></figure>"
    )


def _limits(day: Day, summary: dict[str, Any]) -> str:
    smallest = min(day.counts(phase).num_answered for phase in day.scenario.phases)
    num_distinct = len({frame.truth["index"] for frame in day.frames})
    items = [
        "Adaptation is not a defence. An attacker who knows the policy can try to look harmless, and then meets the "
        "network at the lowest λ that the policy can be led to. What bounds the damage is the configured "
        "<code>lambda_floor</code>, at its cost in clean accuracy.",
        "In the attack phase the script lowers the environment confidence, as something outside the camera would that "
        "noticed the attacker. The report does not show that the node finds an attack by itself.",
        f"Counts are small: the smallest phase has {smallest} answered images, so most differences within a phase lie "
        "inside their intervals. The bundle's manifest holds accuracies counted on the test set.",
        "PGD with ten steps gives an upper bound of robust accuracy. Stronger attacks find more.",
        "Corruptions are computed, and the battery and the surroundings are a script. No robot was involved.",
        "Times are of this machine, while camera and attacker ran beside the node.",
    ]
    if num_distinct < len(day.frames):
        items.insert(
            3,
            f"Only {num_distinct} distinct images were at hand ({escape(summary['images'])}), each shown several "
            "times, so the intervals are narrower than they should be.",
        )
    return "<ul>" + "".join(f"<li>{item}" for item in items) + "</ul>"


def _check_list(checks: Sequence[dict[str, Any]]) -> str:
    rows = "".join(
        f"<li class={'right' if c['ok'] else 'wrong'}>{'✓' if c['ok'] else '✗'} <span>{escape(c['name'])}: "
        f"{escape(c['detail'])}</span>"
        for c in checks
    )
    return f"<ul class=checks>{rows}</ul>"


def _colophon(summary: dict[str, Any]) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in summary["settings"].items())
    return (
        f"<p>{escape(summary['finished'])} · {escape(summary['command'])} · bundle {escape(summary['bundle'])} "
        f"<code>{escape(summary['bundle_sha256'][:12])}</code> · CIFAR-10 test images "
        f"({escape(summary['images'])}), seed {escape(summary['seed'])}, {summary['rate_hz']:g} Hz · "
        f"{escape(summary['machine'])} · node at its default parameters but for {escape(settings)} · every frame is in "
        "<code>truth.jsonl</code>, <code>results.jsonl</code> and <code>fixed.jsonl</code>, every decision in "
        "<code>decisions.jsonl</code>.</p>"
    )


_TITLE = "A scripted day: one network, its robustness and width set while it runs"
_BODY = """<h1>A scripted day</h1>
<p class=sub>One network whose robustness λ and width are set while it runs, on a live ROS&nbsp;2 graph</p>
{lead}
<h2>What happened</h2>
{timeline}
<h2>Right answers by phase</h2>
{accuracy}
{phases}
{phases_note}
<h2>Every switch, and why</h2>
{switches}
<h2>What the camera saw</h2>
<p class=note>Four images from each phase, evenly spaced in time, not picked. Beside each: the node's answer with its
calibrated confidence, and the operating point that gave it.</p>
{samples}
<h2>What this does not show</h2>
{limits}
<h2>Checks of the run</h2>
{checks}
<footer>{colophon}</footer>"""

_STYLE = """
:root { --right: #00705a; --wrong: #b34700; }
h3 { font-size: 15px; margin: 0; }
.sub { color: var(--faint); font-size: 18px; margin: 0 0 22px; }
.lead { font-size: 18px; max-width: 46em; }
ul { max-width: 52em; padding-left: 1.2em; } li { margin: 5px 0; }
small { color: var(--faint); font-size: 12.5px; font-weight: 400; }
table { width: 100%; }
.numbers td { line-height: 1.3; white-space: nowrap; }
.numbers tbody tr:last-child td { border-bottom: 0; border-top: 2px solid var(--ink); }
.switches td { white-space: nowrap; }
.switches .reason { white-space: normal; font-size: 13.5px; min-width: 320px; }
.time { text-align: right; } .same { color: #9aa3aa; }
.strip { padding: 12px 0; border-bottom: 1px solid var(--line); }
.strip div { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(200px, 44%), 1fr)); gap: 16px; }
figure { margin: 0; display: flex; flex-direction: column; gap: 10px; font-size: 14px; line-height: 1.3; }
figure img { width: 80px; height: 80px; flex: none; image-rendering: pixelated; border-radius: 3px; }
.right { color: var(--right); } .wrong { color: var(--wrong); }
.checks { list-style: none; padding: 0; } .checks span { color: var(--ink); }
footer { margin-top: 48px; border-top: 1px solid var(--line); padding-top: 10px; max-width: none; }
@media (min-width: 700px) { figure { flex-direction: row; }
  .strip { display: grid; grid-template-columns: 124px 1fr; } }
@media print { main { max-width: none; padding: 0; } .wide, tr, .strip { break-inside: avoid; }
  h2 { break-after: avoid; } body { font-size: 13px; } }
"""
