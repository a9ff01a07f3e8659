"""Write the demo's report: one HTML file that needs no other. Every number in it is counted from the run's files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from oat_perception.demo.days import DAYS, Day
from oat_perception.demo.figures import accuracy_by_phase, timeline, to_svg
from oat_perception.demo.lessons import lessons, share_text
from oat_perception.demo.pictures import Shown, save_picture, to_html
from oat_perception.demo.run_record import SUMMARY, Run, load_run
from oat_perception.demo.tables import phase_table, phases_note, switch_table
from oat_perception.replay.scenario import Scenario
from oat_runtime import style
from oat_runtime.architecture import InputSpec
from oat_runtime.errors import DataError
from oat_runtime.files import write_whole
from oat_runtime.style import html_page, lam_text
from oat_runtime.text import html_text as escape

PICTURE = "picture.webp"


def write_report(folder: Path) -> Path:
    """Render `folder`/report.html from the files of a run, and its pictures for other pages beside it.

    These are the timeline, and of a day with regions `picture.webp`: what the node said of two frames.

    Raises:
        DataError: a file of the run is missing or damaged.
    """
    try:
        summary = json.loads((folder / SUMMARY).read_text())
        scenario, day = Scenario.model_validate(summary["scenario"]), DAYS[summary["day"]]
        spec = InputSpec.model_validate(summary["input"])
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{folder / SUMMARY} is missing or damaged ({error}): run the demo again") from error
    run, frames_dir = load_run(folder, scenario), folder / "frames"
    shown = Shown(day, frames_dir, spec)
    figure = timeline(run)
    style.save(figure, folder / "timeline.png", {"dpi": 150})
    if picture := shown.picture(run):
        save_picture(picture, folder / PICTURE)
    body = _BODY.format(
        title=escape(day.title),
        lessons=lessons(run, summary, day),
        lead=_lead(run, summary, day),
        timeline=to_svg(figure, name="timeline"),
        accuracy=to_svg(accuracy_by_phase(run), name="accuracy"),
        phases=phase_table(run),
        phases_note=phases_note(run, summary, day),
        switches=switch_table(run),
        frames="" if picture is None else to_html(picture),
        samples=shown.samples(run),
        samples_note=shown.note,
        limits=_limits(run, summary, day),
        checks=_check_list(summary["checks"]),
        colophon=_colophon(summary, day),
    )
    path = folder / "report.html"
    heading = f"{day.title}: one network, its robustness and width set while it runs"
    write_whole(path, html_page(heading, body, more_style=_STYLE))
    return path


def _lead(run: Run, summary: dict[str, Any], day: Day) -> str:
    counts = run.counts()
    fixed = ", ".join(f"{share_text(share)} at fixed {lam_text(lam)}" for lam, share in counts.fixed.items())
    lam_moves = sum(switch.before.lam != switch.after.lam for switch in run.switches)
    width_moves = sum(switch.before.width != switch.after.width for switch in run.switches)
    of_them = "of them" if not day.has_regions else f"of their {day.things}"
    return (
        f"<p>One network, <b>{escape(summary['bundle'])}</b>, saw {counts.num_published} images in "
        f"{run.frames[-1].t_s:.0f}&nbsp;s and answered {counts.num_answered}. λ changed {lam_moves} times and the "
        f"width {width_moves} times while it ran. It was right on {share_text(counts.adaptive)} {of_them}"
        f"{f'; the same images give {fixed}, both at full width' if fixed else ''}. The mix of phases is a script’s, "
        "not the world’s, so look at the phases one by one.</p>"
    )


def _limits(run: Run, summary: dict[str, Any], day: Day) -> str:
    smallest = min(run.counts(phase).num_answered for phase in run.scenario.phases)
    num_distinct = len({(frame.truth.get("source"), frame.truth["index"]) for frame in run.frames})
    items = [
        "Adaptation is not a defence. An attacker who knows the policy can try to look harmless, and then meets the "
        "network at the lowest λ that the policy can be led to. What bounds the damage is the configured "
        "<code>lambda_floor</code>, at its cost in clean accuracy.",
        "In the attack phase the script lowers the environment confidence, as something outside the camera would that "
        "noticed the attacker. The report does not show that the node finds an attack by itself.",
        f"Counts are small: the smallest phase has {smallest} answered images, so most differences within a phase lie "
        "inside their intervals. The bundle's manifest holds accuracies counted on the test set.",
        "PGD with ten steps gives an upper bound of robust accuracy. Stronger attacks find more.",
        *day.limits,
        "Times are of this machine, while camera and attacker ran beside the node.",
    ]
    if num_distinct < len(run.frames):
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


def _colophon(summary: dict[str, Any], day: Day) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in summary["settings"].items())
    return (
        f"<p>{escape(summary['finished'])} · {escape(summary['command'])} · bundle {escape(summary['bundle'])} "
        f"<code>{escape(summary['bundle_sha256'][:12])}</code> · {escape(day.images)} "
        f"({escape(summary['images'])}), seed {escape(summary['seed'])}, {summary['rate_hz']:g} Hz · "
        f"{escape(summary['machine'])} · node at its default parameters but for {escape(settings)} · every frame is in "
        "<code>truth.jsonl</code>, <code>results.jsonl</code> and <code>fixed.jsonl</code>, every decision in "
        "<code>decisions.jsonl</code>.</p>"
    )


_BODY = """<h1>{title}</h1>
<p class=sub>One network whose robustness λ and width are set while it runs, on a live ROS&nbsp;2 graph</p>
{lessons}
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
{frames}
<p class=note>{samples_note} Beside each: the node's answer with its calibrated confidence, and the operating point that
gave it.</p>
{samples}
<h2>What this does not show</h2>
{limits}
<h2>Checks of the run</h2>
{checks}
<footer>{colophon}</footer>"""

_STYLE = """
:root { --band: #f3f5f6; --right: #00705a; --wrong: #b34700; }
h3 { font-size: 15px; margin: 0; }
.sub { color: var(--faint); font-size: 18px; margin: 0 0 22px; }
.lessons { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(230px, 100%), 1fr)); gap: 12px;
  margin: 0 0 24px; }
.lessons section { background: var(--band); border-radius: 6px; padding: 14px 16px; }
.lessons p { margin: 6px 0 0; font-size: 15px; }
.lessons .figure { font-size: 26px; line-height: 1.2; font-weight: 600; }
.lessons .figure small { font-size: 15px; }
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
figure img { width: 80px; height: 80px; flex: none; border-radius: 3px; }
figure img { object-fit: contain; image-rendering: pixelated; }
.right { color: var(--right); } .wrong { color: var(--wrong); }
.checks { list-style: none; padding: 0; } .checks span { color: var(--ink); }
footer { margin-top: 48px; border-top: 1px solid var(--line); padding-top: 10px; max-width: none; }
@media (max-width: 699px) { .switches, .switches tbody { display: block; } .switches thead { display: none; }
  .switches tr { display: flex; flex-wrap: wrap; column-gap: 14px; padding: 8px 0;
    border-bottom: 1px solid var(--line); }
  .switches td { border: 0; padding: 0; } .switches .reason { min-width: 100%; }
  .switches .time::after { content: " s"; }
  .switches td::before { content: attr(data-name) " "; color: var(--faint); } }
@media (min-width: 700px) { figure { flex-direction: row; }
  .strip { display: grid; grid-template-columns: 124px 1fr; } }
.regions div { grid-template-columns: repeat(auto-fill, minmax(min(125px, 29%), 1fr)); gap: 14px; }
.regions figure { flex-direction: column; gap: 4px; }
@media print { main { max-width: none; padding: 0; } .wide, tr, .strip { break-inside: avoid; }
  h2 { break-after: avoid; } body { font-size: 13px; } }
"""
