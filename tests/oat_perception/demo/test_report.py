"""The report counts what the run's files say, and nothing else."""

import json
import re

import cv2
import numpy as np
import pytest

pytest.importorskip("matplotlib")
from oat_perception.demo.days import DAYS
from oat_perception.demo.figures import accuracy_by_phase, timeline
from oat_perception.demo.lessons import lessons
from oat_perception.demo.live_view import LiveView
from oat_perception.demo.report import write_report
from oat_perception.demo.run_record import FIXED, RESULTS, SUMMARY, TRUTH, load_run, write_lines
from oat_perception.replay.scenario import Manual, Phase, Scenario

from oat_runtime.errors import DataError
from oat_runtime.text import PlainConsole
from tests.oat_runtime.hostile import HOSTILE, MOVES

SCENARIO = Scenario(
    phases=(
        Phase(name="clear", title="Clear", seconds=2),
        Phase(name="attack", title="Attack", seconds=2, attack="pgd-10", confidence=0.1),
        Phase(name="override", title="Override", seconds=2, manual=Manual(lam=0.8, width=0.5)),
    ),
    ramp_s=1,
)
PERIOD_S = 0.2


def _frame(number: int) -> tuple[dict, dict, list[dict]]:
    """Frame `number` of a made-up run: adaptive is right on 8 of 10, λ=0 on 5 of 10, λ=1 on 9 of 10 in each phase."""
    moment = SCENARIO.at(number * PERIOD_S + 1e-6)
    attacked = moment.phase.attack != "none"
    manual = moment.phase.manual
    place, stamp_ns = number % 10, 10**18 + int(number * PERIOD_S * 1e9)
    truth = {
        "sequence": number, "stamp_ns": stamp_ns, "label": 3, "index": number, "phase": moment.phase.name,
        "corruption": "none", "severity": 0, "attack": moment.phase.attack, "file": f"{number:05d}.png",
        "attacked_lambda": 1.0 if attacked else None, "attacked_width": 1.0 if attacked else None,
    }  # fmt: skip
    source = "operator" if manual else "adaptive"
    lam, width = (manual.lam, manual.width) if manual else (1.0 if attacked else 0.0, 1.0)
    result = {
        "stamp_ns": stamp_ns, "answers": [{"label": 3 if place < 8 else 5, "class_name": "cat" if place < 8 else "dog",
        "confidence": 0.7}], "lambda": lam, "width": width, "lambda_source": source, "width_source": source,
        "posterior": [0.6, 0.1, 0.1, 0.1, 0.1], "environment_confidence": moment.confidence,
        "battery": moment.battery, "inference_ms": 2.0 + place, "reason": f"because of {moment.phase.name} <&>",
    }  # fmt: skip
    fixed = [
        {"stamp_ns": stamp_ns, "role": "fixed", "lambda": 0.0, "width": 1.0, "labels": [3 if place < 5 else 4]},
        {"stamp_ns": stamp_ns, "role": "fixed", "lambda": 1.0, "width": 1.0, "labels": [3 if place < 9 else 4]},
    ]
    if manual:
        for role, used, right, latency_ms in (("own", 0.5, 7, 1.0), ("full width", 1.0, 9, 4.0)):
            label = 3 if place < right else 4
            fixed.append({"stamp_ns": stamp_ns, "role": role, "lambda": lam, "width": used, "labels": [label],
                          "latency_ms": latency_ms})  # fmt: skip
    return truth, result, fixed


@pytest.fixture
def run_folder(tmp_path):
    frames = [_frame(number) for number in range(30)]
    write_lines(tmp_path / TRUTH, (truth for truth, _, _ in frames))
    write_lines(tmp_path / RESULTS, (result for _, result, _ in frames if result["stamp_ns"] % 10**10 != 0))
    write_lines(tmp_path / FIXED, (line for _, _, fixed in frames for line in fixed))
    (tmp_path / "frames").mkdir()
    for truth, _, _ in frames:
        image = np.random.default_rng(truth["sequence"]).integers(0, 256, (32, 32, 3), np.uint8)
        cv2.imwrite(str(tmp_path / "frames" / truth["file"]), image)
    summary = {
        "scenario": SCENARIO.model_dump(mode="json"), "bundle": "made-up", "bundle_sha256": "0" * 64, "images": "pack",
        "attack": {"name": "pgd-10", "epsilon": 8 / 255, "step_size": 2 / 255, "num_steps": 10, "seed": 0}, "seed": 0,
        "rate_hz": 5.0, "machine": "test", "finished": "today", "command": "make demo",
        "settings": {"use_battery": True}, "day": "day", "input": {},
        "checks": [{"name": "a", "detail": "b", "ok": True}],
    }  # fmt: skip
    (tmp_path / SUMMARY).write_text(json.dumps(summary))
    return tmp_path


def test_counts_are_those_of_the_answered_frames(run_folder):
    run = load_run(run_folder, SCENARIO)
    clear, attack = (run.counts(run.scenario.phase(name)) for name in ("clear", "attack"))
    assert (clear.num_published, clear.num_answered) == (10, 9)  # frame 0 got no answer
    assert (clear.adaptive.num_correct, clear.adaptive.num_total) == (7, 9)
    assert (attack.adaptive.num_correct, attack.adaptive.num_total) == (8, 10)
    assert {lam: p.num_correct for lam, p in attack.fixed.items()} == {0.0: 5, 1.0: 9}
    assert attack.latency_ms[0] == pytest.approx(6.5)
    assert (attack.lambdas, attack.widths) == ({1.0: 1.0}, {1.0: 1.0})
    assert run.counts().adaptive.num_total == 29


def _first_lines(folder) -> str:
    summary = json.loads((folder / SUMMARY).read_text())
    text = lessons(load_run(folder, SCENARIO), summary, DAYS["day"])
    return " ".join(text.replace("&nbsp;", " ").split())


def test_the_first_lines_say_what_was_won_lost_and_saved_with_their_counts(run_folder):
    first = _first_lines(run_folder)
    assert re.findall("<h3>(.*?)</h3>", first) == [
        "What λ is", "What was won under attack", "What clear days cost", "What the battery saved",
    ]  # fmt: skip
    won, cost, saved = first.split("<section>")[2:]
    assert "+30 points" in won and "80 % (8 of 10)" in won and "50 % (5 of 10)" in won and "90 % (9 of 10)" in won
    assert "8/255" in won
    assert "+33 points" in cost and "78 % (7 of 9)" in cost and "44 % (4 of 9)" in cost  # frame 0 got no answer
    assert "75 %" in saved and "1.0 ms" in saved and "4.0 ms" in saved
    assert "70 % (7 of 10)" in saved and "90 % (9 of 10)" in saved


def test_a_run_without_an_attack_or_a_low_battery_says_so(run_folder):
    for name in (TRUTH, FIXED):
        lines = [json.loads(line) for line in (run_folder / name).read_text().splitlines()]
        kept = [line | ({"attack": "none"} if name == TRUTH else {}) for line in lines if line.get("role") != "own"]
        write_lines(run_folder / name, kept)
    first = _first_lines(run_folder)
    assert "No attacked image was answered" in first and "never narrowed the network" in first


def test_each_switch_is_listed_once_with_its_source_and_reason(run_folder):
    run = load_run(run_folder, SCENARIO)
    assert [(s.phase, s.before.lam, s.after.lam, s.after.width, s.source) for s in run.switches] == [
        ("attack", 0.0, 1.0, 1.0, "adaptive"),
        ("override", 1.0, 0.8, 0.5, "operator"),
    ]
    assert run.switches[0].reason.startswith("because of attack")


def test_the_report_stands_alone_and_shows_the_counts(run_folder):
    page = write_report(run_folder).read_text()
    links = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]*)""", page) + re.findall(r"url\(([^)]*)\)", page)
    assert links and all(link.startswith(("data:", "#")) for link in links)
    assert page.count("<svg") == 2
    for count in ("7/9", "8/10", "5/10", "9/10", "23 of 29"):
        assert count in page, count
    assert "because of attack &lt;&amp;&gt;" in page
    assert "10 of 10 attacked images" in " ".join(page.split())
    assert page.count("<figure>") == 12
    assert page.index("<div class=lessons>") < page.index("<h2>")


def test_nothing_in_a_figure_is_overprinted(run_folder, illegible):
    run = load_run(run_folder, SCENARIO)
    assert not illegible(timeline(run))
    assert not illegible(accuracy_by_phase(run))


def test_what_is_wider_than_a_phone_scrolls_by_itself(run_folder):
    """On a phone of 390 pixels, tables pushed the page's words beyond its edge."""
    page = write_report(run_folder).read_text()
    for tag in re.findall("<(?:svg|table)[^>]*>", page):
        assert page.index(tag) - page.index("<div class=wide>", page.index(tag) - 20) == len("<div class=wide>")


@pytest.mark.parametrize("name", ["colour", "html", "attribute", "mathtext", "lines", "right to left", "rich"])
def test_hostile_titles_reasons_and_names_are_text(run_folder, name, capsys):
    """A title with a dollar sign ended in a traceback of matplotlib; one with a tag was one."""
    text = HOSTILE[name]
    summary = json.loads((run_folder / SUMMARY).read_text())
    for phase in summary["scenario"]["phases"]:
        phase["title"] = text
    summary |= {"bundle": text, "bundle_sha256": text, "machine": text, "command": text, "images": text, "seed": text}
    summary["checks"] = [{"name": text, "detail": text, "ok": False}]
    (run_folder / SUMMARY).write_text(json.dumps(summary))
    results = [json.loads(line) for line in (run_folder / RESULTS).read_text().splitlines()]
    for result in results:
        result["answers"][0]["class_name"] = result["reason"] = text
    write_lines(run_folder / RESULTS, results)
    page = write_report(run_folder).read_text()
    body = re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)
    assert not MOVES.search(page)
    assert not re.search(r"<(script|img src=x|link=|[^>]*\son\w+=)", body)

    scenario = Scenario.model_validate(summary["scenario"])
    console = PlainConsole(highlight=False, soft_wrap=True)
    with LiveView("A day", scenario, console) as view:
        run = load_run(run_folder, scenario)
        for end in (12, 22, 30):
            view.show(run.frames[:end], reason=text, elapsed_s=float(end))
        view.finish(run.frames)
    assert not MOVES.search(capsys.readouterr().out)


def test_a_switch_is_told_with_the_reason_of_its_own_image(run_folder, capsys):
    """Regression: each stood beside the reason of the newest decision, which may be another one's."""
    with LiveView("A day", SCENARIO, PlainConsole(highlight=False, soft_wrap=True)) as view:
        run = load_run(run_folder, SCENARIO)
        view.show(run.frames, reason="of another image", elapsed_s=6.0)
    told = capsys.readouterr().out
    assert "because of attack <&>" in told and "because of override <&>" in told and "another" not in told


def test_a_damaged_run_is_refused(run_folder):
    (run_folder / TRUTH).write_text("{")
    with pytest.raises(DataError, match="expected one JSON object a line"):
        write_report(run_folder)
    (run_folder / SUMMARY).unlink()
    with pytest.raises(DataError, match="run the demo again"):
        write_report(run_folder)
