"""What a run tells people: what it has before its first step, how long it will take, and what it reached at its end."""

from __future__ import annotations

import json
import logging
import math
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from rich.table import Table

from oat_runtime.data import LEAST_TO_FIT, ImageSet
from oat_runtime.extras import require
from oat_runtime.report import wide_console
from oat_runtime.style import of_255
from oat_runtime.text import PlainConsole, count_of, plain, some
from training.config import TrainConfig
from training.origin import hardware
from training.recipes import RECIPES
from training.trainer import StepMetrics, Trainer
from training.validation import NUM_IMAGES, score

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_LOG = logging.getLogger(__name__)
FEW_IMAGES, FEW_STEPS = 50, 500
"""Images of a class, and steps of a run from random weights, below which little is learned. Each of the shipped
networks had several times as many steps."""
_UNEQUAL = 5
"""Ratio of the largest class to the smallest from which a run suggests balance."""
_MOST_CLASSES = 12
_NUM_TIMED = 5
_MEASURES = {"attack.epsilon": "images that were attacked by more or less"} | dict.fromkeys(
    ("dataset", "resize", "seed", "split", "num_validation"), "other validation images"
)
"""Settings that change what validation counts, and how."""


class LogLines(logging.StreamHandler[IO[str]]):
    """Write log lines to what is the standard error now: while a progress bar is shown, that puts them above it.

    On a terminal, long lines are broken between words.
    """

    def __init__(self) -> None:
        """Write the time, then the line."""
        super().__init__(sys.stderr)
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        self.stream = sys.stderr
        super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, or on a terminal lines that fit."""
        text = super().format(record)
        return folded(text, columns=PlainConsole(stderr=True).width) if sys.stderr.isatty() else text


def folded(text: str, *, columns: int) -> str:
    """Break lines that are longer than a terminal is wide, between words; what follows is set in behind the time."""
    fill = textwrap.TextWrapper(columns, subsequent_indent=11 * " ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(fill.fill(line) for line in text.split("\n"))


class RunLog:
    """Write the leading process's figures: to `log.jsonl`, the console, and TensorBoard if asked to."""

    def __init__(self, run: Path, *, tensorboard: bool) -> None:
        """Open the files in the run folder."""
        self.file = (run / "log.jsonl").open("a")
        self.writer: SummaryWriter | None = None
        if tensorboard:
            require("tensorboard", extra="training", by="--tensorboard")
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(run / "tensorboard"))

    def entry(self, step: int, figures: Mapping[str, float | bool]) -> None:
        """Write one line of figures."""
        self.file.write(json.dumps({"step": step} | dict(figures)) + "\n")
        self.file.flush()
        self.scalars("validation", step, figures)
        _LOG.info("validation at step %d: %s", step, in_short(figures))

    def scalars(self, group: str, step: int, figures: Mapping[str, float | bool]) -> None:
        """Write curves for TensorBoard."""
        if self.writer is not None:
            for name, value in figures.items():
                self.writer.add_scalar(f"{group}/{name}", float(value), step)

    def close(self) -> None:
        """Close the files."""
        self.file.close()
        if self.writer is not None:
            self.writer.close()


def in_short(figures: Mapping[str, float | bool]) -> str:
    """Return validation figures of the widest width in words; `log.jsonl` has all of them."""
    lambdas = [name.removeprefix("ra_pgd7_") for name in figures if name.startswith("ra_pgd7_")]
    return "; ".join(
        f"λ={lam} {100 * figures[f'sa_{lam}']:.0f} % clean, {100 * figures[f'ra_pgd7_{lam}']:.0f} % under PGD-7"
        for lam in lambdas
        if not lam.endswith("_narrow")
    )


def summary(metrics: StepMetrics) -> str:
    """Return the figures of a step in words."""
    figures = {"clean": metrics.clean_accuracy, "attacked": metrics.adversarial_accuracy}
    correct = " and ".join(f"{100 * share:.0f} % of {what}" for what, share in figures.items() if not math.isnan(share))
    return f"loss {metrics.loss:.3f}; correct in this batch: {correct} images"


def say_what_there_is(trainer: Trainer, training: ImageSet, validation: ImageSet) -> None:
    """Log what a run works with: images by class, the network, the machine, the steps; and warn of too little."""
    for line in (*images_in_words(training, validation), *plan_in_words(trainer)):
        _LOG.info("%s", line)
    for line in warnings_about(trainer, training, validation):
        _LOG.warning("WARNING: %s", line)


def images_in_words(training: ImageSet, validation: ImageSet) -> Iterator[str]:
    """Yield a line about all images, and one a class; of many classes, the smallest and a line about the rest."""
    height, width = training.images_NHWC.shape[1:3]
    train_K, held_out_K = _counts(training), _counts(validation)
    name = plain(training.name.removesuffix(" less validation"))
    yield (
        f"{name}: {count_of(len(training), 'image')} to train on and {len(validation)} to validate on, "
        f"{width}x{height} pixels, {len(train_K)} classes"
    )
    names = [_class_name(training, k) for k in range(len(train_K))]
    shown = list(range(len(names)))
    if len(names) > _MOST_CLASSES:
        order = [int(k) for k in np.argsort(train_K, kind="stable")]
        shown, others = order[: _MOST_CLASSES // 2], order[_MOST_CLASSES // 2 :]
    length = max(len(names[k]) for k in shown)
    for k in shown:
        yield f"  {names[k]:{length}}  {train_K[k]:6d} to train on {held_out_K[k]:6d} to validate on"
    if len(names) > _MOST_CLASSES:
        yield (
            f"  and {len(others)} larger classes, each with {train_K[others].min()} to {train_K[others].max()} images "
            f"to train on and {held_out_K[others].min()} to {held_out_K[others].max()} to validate on"
        )


def plan_in_words(trainer: Trainer) -> Iterator[str]:
    """Yield lines about the network, the machine and the steps."""
    config = trainer.config
    widths, lambdas = (", ".join(f"{x:g}" for x in values) for values in (config.model.widths, config.model.lambdas))
    mirrored = "mirrored at random" if trainer.mirror else "not mirrored"
    yield f"network {config.model.name}: widths {widths}; λ {lambdas}; images are {mirrored}"
    machine = hardware(trainer.device, num_processes=trainer.world.size)
    yield f"device {trainer.device}: {machine}, in {config.precision}"
    epochs = f"an epoch has {trainer.steps_per_epoch}"
    if trainer.num_steps >= trainer.steps_per_epoch:
        num = f"{trainer.num_steps / trainer.steps_per_epoch:.3g}"
        epochs = f"{count_of(num, 'epoch')} of {trainer.steps_per_epoch}"
    done = f", {trainer.step} of them done" if trainer.step else ""
    balanced = ", as many of each class" if config.balance == "sampling" else ""
    yield f"{count_of(trainer.num_steps, 'step')} of {config.batch_size} images{balanced} ({epochs}){done}"


def warnings_about(trainer: Trainer, training: ImageSet, validation: ImageSet) -> Iterator[str]:
    """Yield what there is too little of, each with a way out."""
    config, train_K, held_out_K = trainer.config, _counts(training), _counts(validation)
    if few := [k for k in range(len(train_K)) if train_K[k] < FEW_IMAGES]:
        names = [f"{_class_name(training, k)} ({train_K[k]})" for k in few]
        yield f"fewer than {FEW_IMAGES} images to train on of {some(names, 5)}: add images of these classes"
    least, most = int(train_K.argmin()), int(train_K.argmax())
    if config.balance == "none" and train_K[most] >= _UNEQUAL * train_K[least] > 0:
        yield (
            f"{_class_name(training, most)} has {train_K[most] / train_K[least]:.0f} times as many images as "
            f"{_class_name(training, least)}: --set balance=sampling takes as many of each class"
        )
    if unseen := [_class_name(training, k) for k in range(len(held_out_K)) if not held_out_K[k]]:
        way = "add images to the validation folder"
        if training.validation_N is None:
            stratified = "" if config.split == "stratified" else " with --set split=stratified"
            more = f"hold out more than {config.num_validation} (--set num_validation=NUMBER){stratified}"
            way = f"add images, or {more}"
        yield f"no validation images of {some(unseen, 5)}: no figure will tell how well they are recognized; {way}"
    if len(validation) < LEAST_TO_FIT:
        way = "add images to the validation folder"
        if training.validation_N is None:
            is_enough = len(training) + len(validation) >= LEAST_TO_FIT + config.batch_size
            way = f"hold out more (--set num_validation={LEAST_TO_FIT})" if is_enough else "add images"
        held_out = count_of(len(validation), "validation image")
        yield f"{held_out}: too few for policy.fit, which needs {LEAST_TO_FIT}: {way}"
    if trainer.num_steps < FEW_STEPS and not config.start:
        way = "--set steps=" + str(FEW_STEPS)
        if config.steps is None:
            way = f"--epochs {math.ceil(FEW_STEPS / trainer.steps_per_epoch)}"
        yield (
            f"{len(training)} images give only {count_of(trainer.num_steps, 'step')}, and a network learns little in "
            f"fewer than {FEW_STEPS}: train longer ({way})"
        )


def _counts(data: ImageSet) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    num = len(data.class_names) or int(data.labels_N.max(initial=0)) + 1
    return np.bincount(data.labels_N, minlength=num)


def _class_name(data: ImageSet, index: int) -> str:
    return plain(data.class_names[index]) if data.class_names else f"class {index}"


class Pace:
    """Time the first steps of a call; the very first is left out, because it compiles and warms up."""

    def __init__(self, trainer: Trainer) -> None:
        """Begin before the first step."""
        self.trainer = trainer
        self.first = trainer.step + 1
        self.started_s = 0.0

    def said_after_a_step(self) -> str | None:
        """Return, once, the seconds a step and the time that the rest will take."""
        trainer = self.trainer
        if trainer.step == self.first:
            self.started_s = trainer.seconds
        if trainer.step != self.first + _NUM_TIMED:
            return None
        step_s = (trainer.seconds - self.started_s) / _NUM_TIMED
        num_left = trainer.num_steps - trainer.step
        if not num_left:
            return None
        later = "; these are clean steps, later ones take longer" if trainer.step < trainer.num_clean_steps else ""
        return (
            f"{step_s:.2g} s a step: about {in_words(step_s * num_left)} for the last {count_of(num_left, 'step')}, "
            f"validation not counted{later}"
        )


def in_words(seconds: float) -> str:
    """Return a time as people say it: `40 s`, `12 min`, `2.5 h`."""
    if seconds < 90.0:
        return f"{seconds:.0f} s"
    return f"{seconds / 60.0:.0f} min" if seconds < 5400.0 else f"{seconds / 3600.0:.1f} h"


def say_what_was_reached(figures: Mapping[str, float], config: TrainConfig, *, num_validation: int) -> None:
    """Log accuracy at the smallest and the largest λ, at the widest and the narrowest width."""
    num = min(num_validation, NUM_IMAGES)
    images = count_of(num, "validation image")
    _LOG.info("accuracy on %s, to within about %.0f points:", images, 98.0 / math.sqrt(num))
    lambdas, widths = config.model.lambdas, config.model.widths
    for width, suffix in ((widths[-1], ""), (widths[0], "_narrow"))[: len(widths)]:
        for lam in dict.fromkeys((lambdas[0], lambdas[-1])):
            clean, attacked = (100.0 * figures[f"{name}_{lam:g}{suffix}"] for name in ("sa", "ra_pgd7"))
            _LOG.info(
                "  width %-5s λ=%-4s %3.0f %% of clean images, %3.0f %% under attack (PGD-7, ε %s)",
                f"{width:g}", f"{lam:g}", clean, attacked, of_255(config.attack.epsilon),
            )  # fmt: skip


def list_recipes() -> None:
    """Print every recipe with the settings that decide its cost."""
    table = Table("recipe", "network", "widths", "attack", "epochs", "what it is")
    for name, make in RECIPES.items():
        config = make()
        widths = ", ".join(f"{width:g}" for width in config.model.widths)
        about = (make.__doc__ or "").strip().splitlines()[0]
        table.add_row(name, config.model.name, widths, config.attack.name, str(config.epochs), about)
    wide_console().print(table)


def print_sweep(key: str, results: list[tuple[str, dict[str, float]]], config: TrainConfig) -> None:
    """Print the validation figures of each value of a sweep."""
    names = [name for name in results[0][1] if name.startswith(("sa_", "ra_pgd7_"))]
    table = Table(key, "score", *names, title="on validation images, best first")
    for value, figures in results:
        table.add_row(value, f"{score(figures, config):.3f}", *(f"{figures[name]:.3f}" for name in names))
    wide_console().print(table)
    if key in _MEASURES:
        wide_console().print(
            f"This order says little: with another {key}, the figures are counted on {_MEASURES[key]}."
        )
