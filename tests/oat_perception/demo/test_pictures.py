"""Of a robot's frames the report shows balls, robots and goal posts; no pixel of a person, and no background."""

from __future__ import annotations

import base64
import json
import re

import cv2
import numpy as np
import pytest

pytest.importorskip("matplotlib")
from oat_perception.demo.days import DAYS
from oat_perception.demo.pictures import Shown, save_picture
from oat_perception.demo.report import PICTURE, write_report
from oat_perception.demo.run_record import FIXED, RESULTS, SUMMARY, TRUTH, load_run, write_lines

ROBOT_DAY = DAYS["robot"]
NAMES = ROBOT_DAY.class_names
HEIGHT, WIDTH = 300, 400
RED, BLUE, GREEN = (255, 0, 0), (0, 0, 255), (0, 120, 0)
# Of a robot that touches a person, only the margin does.
ALONE, BESIDE, BALL = [20, 100, 80, 160], [200, 100, 240, 160], [20, 240, 50, 270]
PERSON, BACKGROUND = [246, 60, 300, 200], [330, 220, 380, 270]


def _frame(number: int, *, people: bool) -> tuple[dict, dict, dict, np.ndarray]:
    phase = ROBOT_DAY.scenario.phases[number % len(ROBOT_DAY.scenario.phases)]
    boxes = [ALONE, BESIDE, BALL, BACKGROUND, *([PERSON] if people else [])]
    labels = [NAMES.index(name) for name in ("robot", "robot", "ball", "background", *(["human"] if people else []))]
    image_HWC = np.full((HEIGHT, WIDTH, 3), GREEN, np.uint8)
    for box, colour in ((ALONE, (200, 200, 0)), (BESIDE, (90, 90, 90)), (BALL, (250, 250, 250)), (BACKGROUND, BLUE)):
        image_HWC[box[1] : box[3], box[0] : box[2]] = colour
    if people:
        image_HWC[PERSON[1] : PERSON[3], PERSON[0] : PERSON[2]] = RED
    stamp_ns = 10**18 + number * 10**9
    truth = {
        "sequence": number, "stamp_ns": stamp_ns, "label": None, "index": number, "phase": phase.name,
        "corruption": "none", "severity": 0, "attack": phase.attack, "attacked_lambda": None, "attacked_width": None,
        "source": phase.source, "boxes": boxes, "labels": labels, "file": f"{number:05d}.png",
    }  # fmt: skip
    answers = [{"label": label, "class_name": NAMES[label], "confidence": 0.9} for label in labels]
    result = {
        "stamp_ns": stamp_ns, "answers": answers, "lambda": 0.0, "width": 1.0, "lambda_source": "adaptive",
        "width_source": "adaptive", "posterior": [0.6, 0.1, 0.1, 0.1, 0.1], "environment_confidence": 1.0,
        "battery": 0.9, "inference_ms": 2.0, "reason": "made up",
    }  # fmt: skip
    fixed = {"stamp_ns": stamp_ns, "role": "fixed", "lambda": 0.0, "width": 1.0, "labels": labels, "latency_ms": 1.0}
    return truth, result, fixed, image_HWC


@pytest.fixture
def folder(tmp_path, request):
    """A run whose frames have people in them, or not."""
    frames = [_frame(number, people=request.param) for number in range(12)]
    for name, place in ((TRUTH, 0), (RESULTS, 1), (FIXED, 2)):
        write_lines(tmp_path / name, (frame[place] for frame in frames))
    (tmp_path / "frames").mkdir()
    for truth, _, _, image_HWC in frames:
        cv2.imwrite(str(tmp_path / "frames" / truth["file"]), cv2.cvtColor(image_HWC, cv2.COLOR_RGB2BGR))
    summary = {
        "day": "robot", "scenario": ROBOT_DAY.scenario.model_dump(mode="json"), "region_margin": 0.1, "bundle": "b",
        "bundle_sha256": "0" * 64, "images": "456x600", "seed": 0, "rate_hz": 4.0, "machine": "test",
        "attack": {"name": "pgd-10", "epsilon": 8 / 255, "step_size": 2 / 255, "num_steps": 10, "seed": 0},
        "finished": "today", "command": "make demo", "settings": {}, "checks": [],
    }  # fmt: skip
    (tmp_path / SUMMARY).write_text(json.dumps(summary))
    return tmp_path


def _shown(page: str) -> list[np.ndarray]:
    found = re.findall(r'src="data:image/(?:png|webp);base64,([^"]*)"', page)
    images = [cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), cv2.IMREAD_COLOR) for text in found]
    return [cv2.cvtColor(image, cv2.COLOR_BGR2RGB) for image in images]


def _has(image_HWC: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((np.abs(image_HWC.astype(int) - colour).max(axis=2) < 60).any())


@pytest.mark.parametrize("folder", [True], ids=["people"], indirect=True)
def test_nothing_of_a_person_is_shown_not_even_at_the_edge_of_a_robots_region(folder):
    page = write_report(folder).read_text()
    assert "100 % (60 of 60) of their regions" in page.replace("&nbsp;", " ")
    assert "holds whole frames with people" in page
    shown = _shown(page)
    assert len(shown) == page.count("<figure>") == 6 * 4  # two frames a phase, the robot alone and the ball of each
    assert not any(_has(image, RED) for image in shown)
    assert not any(_has(image, BLUE) for image in shown)
    assert any(_has(image, (200, 200, 0)) for image in shown) and any(_has(image, (250, 250, 250)) for image in shown)
    assert not (folder / PICTURE).exists(), "a part of a frame with people in it"


@pytest.mark.parametrize("folder", [False], ids=["nobody"], indirect=True)
def test_a_part_of_a_frame_is_shown_where_nobody_is_and_all_its_boxes_are_in_it(folder):
    run = load_run(folder, ROBOT_DAY.scenario)
    shown = Shown(ROBOT_DAY, folder / "frames", region_margin=0.1)
    assert shown.samples(run).count("<figure>") == 6 * 6
    figure = shown.picture(run)
    assert figure is not None
    save_picture(figure, folder / PICTURE)
    picture_HWC = cv2.cvtColor(cv2.imread(str(folder / PICTURE)), cv2.COLOR_BGR2RGB)
    assert all(_has(picture_HWC, colour) for colour in ((200, 200, 0), (90, 90, 90)))
