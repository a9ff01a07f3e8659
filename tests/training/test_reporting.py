"""What a run says: its images by class, what there is too little of, its pace, and what it reached."""

import contextlib
import dataclasses
import io
import logging
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from oat_runtime.data import LEAST_TO_FIT, ImageSet
from training.config import TrainConfig
from training.reporting import (
    LogLines,
    Pace,
    folded,
    images_in_words,
    in_short,
    in_words,
    plan_in_words,
    say_what_was_reached,
    warnings_about,
)
from training.settings import with_changes
from training.trainer import Trainer
from training.validation import quick_validation

Patches = Callable[..., ImageSet]
ROOT = Path(__file__).parents[2]


def of_classes(*counts: int, names: tuple[str, ...] = ()) -> ImageSet:
    labels_N = np.repeat(np.arange(len(counts)), counts)
    names = names or tuple(f"class-{k}" for k in range(len(counts)))
    return ImageSet(np.zeros((len(labels_N), 8, 12, 3), np.uint8), labels_N, names, "photos@12x8 train")


def test_validation_images_too_few_for_the_policy_are_told_before_the_first_step(
    tiny_run: TrainConfig, patches: Patches
) -> None:
    trainer, training = Trainer(tiny_run, patches(60)), of_classes(200, 200)

    def told(training: ImageSet, num: int) -> list[str]:
        return [line for line in warnings_about(trainer, training, of_classes(num, num)) if "policy.fit" in line]

    (few,) = told(training, LEAST_TO_FIT // 2 - 1)
    assert few.startswith("98 validation images: ") and f"--set num_validation={LEAST_TO_FIT}" in few
    assert told(training, LEAST_TO_FIT // 2) == []
    # A run that holds out more than there are, or leaves less than a batch, is refused.
    batch = tiny_run.batch_size
    assert [told(of_classes(num), 3)[0].split(": ")[-1].split()[0] for num in (14, 93 + batch, 94 + batch)] == [
        "add", "add", "hold"
    ]  # fmt: skip
    (few,) = told(dataclasses.replace(training, validation_N=np.zeros(400, bool)), 10)
    assert "add images to the validation folder" in few and "num_validation" not in few


def test_no_line_breaks_within_a_word_on_a_terminal() -> None:
    line = "12:00:00   WARNING: " + " ".join(f"word-{k}" for k in range(40))
    lines = folded(f"{line}\n    7 read", columns=60).split("\n")
    assert all(len(part) <= 60 for part in lines)
    assert " ".join(part.strip() for part in lines[:-1]) == line and lines[-1] == "    7 read"
    assert lines[0].startswith("12:00:00   WARNING") and all(part.startswith(11 * " ") for part in lines[1:-1])
    assert "/" + 90 * "x" in folded("saved in /" + 90 * "x", columns=60)  # a path stays whole


def test_a_validation_is_told_in_words(tiny_run: TrainConfig, patches: Patches) -> None:
    figures = {"loss": 1.0, "sa_0": 0.76, "sa_0.3": 0.7, "sa_1": 0.71, "ra_pgd7_0": 0.48, "ra_pgd7_1": 0.43}
    told = "λ=0 76 % clean, 48 % under PGD-7; λ=1 71 % clean, 43 % under PGD-7"
    assert in_short(figures | {"sa_0_narrow": 0.1, "ra_pgd7_0_narrow": 0.1}) == told
    run = Trainer(tiny_run, patches(60))
    assert "% under PGD-7" in in_short(quick_validation(run.model, patches(20), run.config))


def test_every_class_is_named_with_its_images() -> None:
    lines = list(images_in_words(of_classes(60, 7, names=("left", "right")), of_classes(5, 0)))
    assert lines == [
        "photos@12x8 train: 67 images to train on and 5 to validate on, 12x8 pixels, 2 classes",
        "  left       60 to train on      5 to validate on",
        "  right       7 to train on      0 to validate on",
    ]


def test_of_many_classes_the_smallest_are_named_and_the_rest_is_counted() -> None:
    lines = list(images_in_words(of_classes(*range(100, 140)), of_classes(*[3] * 39, 4)))
    assert [line.split()[0] for line in lines[1:7]] == [f"class-{k}" for k in range(6)]
    assert lines[7:] == ["  and 34 larger classes, each with 106 to 139 images to train on and 3 to 4 to validate on"]


def test_a_name_of_a_class_moves_no_cursor() -> None:
    lines = list(images_in_words(of_classes(3, 3, names=("a\x1b[2J", "b\nc")), of_classes(1, 1)))
    assert all(line.isprintable() for line in lines)


def test_too_little_is_said_with_a_way_out(tiny_run: TrainConfig, patches: Patches) -> None:
    data = patches(600)
    trainer = Trainer(tiny_run.model_copy(update={"batch_size": 128, "epochs": 15}), data)
    few, steps = warnings_about(trainer, of_classes(200, 49), of_classes(50, 50))
    assert "class-1 (49)" in few and "class-0" not in few
    assert "249 images give only 60 steps" in steps and "--epochs 125" in steps
    trainer.note_start("bundle some")  # what has learned already may need few steps
    assert len(list(warnings_about(trainer, of_classes(200, 49), of_classes(50, 50)))) == 1
    (unseen,) = (line for line in warnings_about(trainer, of_classes(60, 60), of_classes(9, 0)) if "class-1" in line)
    assert "no validation images" in unseen and "--set num_validation=NUMBER" in unseen
    named = dataclasses.replace(of_classes(60, 60), validation_N=np.zeros(120, bool))
    (unseen,) = (line for line in warnings_about(trainer, named, of_classes(9, 0)) if "class-1" in line)
    assert unseen.endswith("add images to the validation folder"), "num_validation is not used"
    (unequal,) = (line for line in warnings_about(trainer, of_classes(500, 60), of_classes(9, 1)) if "times" in line)
    assert (
        unequal == "class-0 has 8 times as many images as class-1: --set balance=sampling takes as many of each class"
    )
    enough = Trainer(tiny_run.model_copy(update={"steps": 500}), data)
    assert list(warnings_about(enough, of_classes(60, 60), of_classes(99, 1))) == []


def test_the_plan_names_network_device_and_steps(tiny_run: TrainConfig, patches: Patches) -> None:
    network, device, steps = plan_in_words(Trainer(tiny_run, patches(50)))
    assert network == "network wrn-10-1: widths 0.5, 1; λ 0, 0.3, 1; images are mirrored at random"
    assert device.startswith("device cpu: ")
    assert steps == "6 steps of 16 images (2 epochs of 3)"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"epochs": 1}, "3 steps of 16 images (1 epoch of 3)"),
        ({"steps": 4}, "4 steps of 16 images (1.33 epochs of 3)"),
        ({"steps": 1}, "1 step of 16 images (an epoch has 3)"),
    ],
    ids=str,
)
def test_one_is_not_many(changes: dict[str, int], says: str, tiny_run: TrainConfig, patches: Patches) -> None:
    assert list(plan_in_words(Trainer(tiny_run.model_copy(update=changes), patches(50))))[-1] == says


def test_the_pace_is_said_once_and_leaves_the_first_step_out(tiny_run: TrainConfig, patches: Patches) -> None:
    trainer = Trainer(tiny_run.model_copy(update={"epochs": 20}), patches(50))
    pace, said = Pace(trainer), {}
    for step in range(1, 11):
        trainer.step, trainer.seconds = step, 100.0 + 2.0 * step  # the first took 102 s
        said[step] = pace.said_after_a_step()
    assert said.pop(6) == "2 s a step: about 2 min for the last 54 steps, validation not counted"
    assert set(said.values()) == {None}


def test_times_are_in_the_unit_that_people_use() -> None:
    assert [in_words(s) for s in (0.4, 40, 720, 9000)] == ["0 s", "40 s", "12 min", "2.5 h"]


@pytest.mark.parametrize(("changes", "num_lines"), [([], 5), (["model.widths=[1.0]"], 3), (["model.lambdas=[1]"], 3)])
def test_the_end_has_both_ends_of_lambda_at_the_widest_and_the_narrowest_width(
    changes: list[str], num_lines: int, tiny_run: TrainConfig, patches: Patches, caplog: pytest.LogCaptureFixture
) -> None:
    config = with_changes(tiny_run, [*changes, "num_random_widths=0"])
    figures = quick_validation(Trainer(config, patches(50)).model, patches(12), config)
    with caplog.at_level(logging.INFO):
        say_what_was_reached(figures, config, num_validation=12)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == num_lines and "12 validation images, to within about 28 points" in lines[0]
    assert f"{100 * figures['sa_1']:.0f} % of clean images" in next(line for line in lines[1:] if "λ=1 " in line)


TERMINAL = """
import logging, sys, time
from oat_runtime.report import progress_bar
from training.reporting import LogLines
logging.basicConfig(level=logging.INFO, handlers=[LogLines()])
with progress_bar() as progress:
    bar = progress.add_task("training", total=20)
    for step in range(20):
        progress.update(bar, completed=step)
        time.sleep(0.03)
        logging.info("line %d", step)
"""


def test_no_line_is_glued_to_a_progress_bar() -> None:
    """Regression: log lines began behind the bar, which stayed in front of them."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(
        [sys.executable, "-c", TERMINAL], cwd=ROOT, stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        seen = b""
        try:
            while part := os.read(ours, 65536):
                seen += part
        except OSError:  # the other end is closed
            pass
        finally:
            os.close(ours)
    assert process.returncode == 0, seen
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())
    assert "━" in plain  # the bar was there
    before = [plain[: found.start()] for found in re.finditer(r"\d\d:\d\d:\d\d line", plain)]
    assert len(before) == 20
    assert [text[-40:] for text in before if not text.endswith(("\n", "\r"))] == []


def test_a_log_line_goes_where_the_standard_error_is_now(capsys: pytest.CaptureFixture[str]) -> None:
    handler = LogLines()
    with contextlib.redirect_stderr(io.StringIO()) as elsewhere:
        handler.handle(logging.LogRecord("x", logging.INFO, "", 0, "line %d", (1,), None))
    assert elsewhere.getvalue().endswith(" line 1\n")
    assert capsys.readouterr().err == ""
