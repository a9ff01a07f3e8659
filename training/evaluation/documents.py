"""Run a suite into a JSON document, and read documents again to draw them and to write results."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import SerializerFunctionWrapHandler, field_serializer, model_serializer

from oat_runtime.bundle.writer import ARITHMETIC
from oat_runtime.data import short_name
from oat_runtime.errors import DataError, quoted
from oat_runtime.files import read_model
from oat_runtime.operating_point import AttackSpec, StrictModel
from oat_runtime.report import Check, Row
from oat_runtime.style import of_255
from oat_runtime.text import count_of, some
from training.evaluation.judged import Judged, JudgedSplit
from training.evaluation.suite import Job, Suite
from training.evaluation.suites import SUITES
from training.origin import commit_of_code, machine

_LOG = logging.getLogger(__name__)
_UNSAID = ("images", "ranges_sha256")
"""Fields that a document leaves out where they are empty."""


class Document(StrictModel):
    """The results of one suite, with all that is needed to judge and repeat them."""

    name: str
    """Of the suite."""
    subject: str
    """Name of the bundle or the run."""
    weights_sha256: str
    """See `Judged.weights_sha256`; empty in a checkpoint's documents of earlier versions."""
    model: str
    dataset: str
    split: JudgedSplit
    num_images: int
    attacks: tuple[AttackSpec, ...]
    machine: dict[str, Any]
    commit: str
    """Of the code that counted."""
    minutes: float
    """Minutes that counting all of it takes, even if some of it was cached."""
    rows: list[Row]
    checks: tuple[Check, ...]
    warnings: tuple[Row, ...]
    command: str
    """The command, as it was typed."""
    images: str = ""
    """Name of the data set that the images are of, if it is not the network's own."""
    ranges_sha256: str = ""
    """See `Judged.ranges_sha256`, of what int8 was counted with; empty in documents of earlier versions."""

    @model_serializer(mode="wrap")
    def _without_what_says_nothing(self, handler: SerializerFunctionWrapHandler) -> Row:
        fields: Row = handler(self)
        return {name: value for name, value in fields.items() if value or name not in _UNSAID}

    @field_serializer("checks")
    def _dump_checks(self, checks: tuple[Check, ...]) -> list[Row]:
        return [check.as_json() for check in checks]

    @property
    def suite(self) -> Suite:
        """The suite that made it."""
        return SUITES[self.name]

    @property
    def lacks_ranges(self) -> bool:
        """Whether it was counted in int8, and does not say with which activation ranges."""
        return ARITHMETIC in self.machine and not self.ranges_sha256

    def setting(self) -> str:
        """Return one sentence: how many images, how long, in which arithmetic if not float32, which attacks."""
        source = f" of {short_name(self.images)}" if self.images else ""
        said = [f"{self.num_images:,} {self.split} images{source}, {self.minutes:g} minutes"]
        if ARITHMETIC in self.machine:
            attacked = ", attacked with gradients of the float32 network" if self.attacks else ""
            said.append(f"{self.machine[ARITHMETIC]}{attacked}")
        return f"{'; '.join([*said, *map(attack_text, self.attacks)])}."


def _arithmetic(job: Job) -> Row:
    return {} if job.rounding is None else {ARITHMETIC: str(job.rounding)}


def run_suite(suite: Suite, job: Job, *, split: JudgedSplit, command: str, images: str = "") -> Document:
    """Run one suite, on no more images than it looks at, and return its document."""
    if suite.most_images is not None and len(job.data) > suite.most_images:
        job = replace(job, data=job.data.first(suite.most_images))
    started, cached_s = time.monotonic(), job.cached_s
    result = suite.run(job)
    seconds = time.monotonic() - started + job.cached_s - cached_s
    return Document(
        name=suite.name,
        subject=job.judged.name,
        weights_sha256=job.judged.weights_sha256,
        model=job.judged.model.config.name,
        dataset=job.judged.dataset,
        split=split,
        num_images=len(job.data),
        attacks=tuple(result.attacks),
        machine=machine(job.device) | _arithmetic(job),
        commit=commit_of_code(),
        minutes=round(seconds / 60.0, 2),
        rows=result.rows,
        checks=tuple(result.checks),
        warnings=tuple(result.warnings),
        command=command,
        images=images,
        ranges_sha256="" if job.rounding is None else job.judged.ranges_sha256,
    )


def read_documents(judged: Judged, folder: Path) -> dict[str, Document]:
    """Return the documents of a network's suites in `folder` and in folders within, in the order of `SUITES`.

    Returns:
        Documents by where they are below `folder`: `attacks`, `targeted/attacks`.

    Raises:
        DataError: no documents, or one that is damaged or of another network.
    """
    found = _files(folder)
    if not found:
        raise DataError(f"no results under {folder}: run oat-evaluate with --suite first")
    documents = in_order({path.relative_to(folder).with_suffix("").as_posix(): _read(judged, path) for path in found})
    for what, places in (
        ("weights", [place for place, document in documents.items() if not document.weights_sha256]),
        ("activation ranges", [place for place, document in documents.items() if document.lacks_ranges]),
    ):
        if places:
            _LOG.warning(
                "%s: documents of an earlier version (%s) do not say with which %s they were counted: run their suites "
                "again if those changed since", folder, some(places), what,
            )  # fmt: skip
    return documents


def check_documents(judged: Judged, folder: Path, *, but: Collection[Path]) -> None:
    """Refuse what `read_documents` refuses, before the work that writes some documents (`but`) anew.

    Raises:
        DataError: a document is damaged or of another network.
    """
    for path in _files(folder):
        if path not in but:
            _read(judged, path)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*.json") if path.stem in SUITES]


def in_order(documents: dict[str, Document]) -> dict[str, Document]:
    """Return documents by their places in the order of `SUITES`, those in folders behind those that are not."""
    order = list(SUITES)
    places = [PurePosixPath(place) for place in documents]
    places.sort(key=lambda place: (order.index(place.name), len(place.parts), place))
    return {str(place): documents[str(place)] for place in places}


@contextmanager
def shown(place: str) -> Iterator[None]:
    """Around all that draws or tells a document's rows, whose names and numbers every suite chooses for itself.

    Raises:
        DataError: the rows are not those of its suite.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise DataError(f"{place}.json: its rows cannot be shown ({quoted(error)}): run its suite again") from error


def _read(judged: Judged, path: Path) -> Document:
    document = read_model(Document, path, what="what a suite writes", remedy="run its suite again", error=DataError)
    is_old = judged.bundle is None and not document.weights_sha256
    if document.subject != judged.name or not (is_old or document.weights_sha256 == judged.weights_sha256):
        raise DataError(f"{path} is of another network: run its suite again, or name another --out")
    if document.ranges_sha256 not in ("", judged.ranges_sha256):
        raise DataError(
            f"{path} counted in int8 with other activation ranges than {judged.name} holds: run its suite again, or "
            "name another --out"
        )
    if document.name != path.stem:
        raise DataError(f"{path} is of the suite {quoted(document.name)}: run its suite again")
    return document


def heading(place: str) -> str:
    """Return the title of a document by its place below the folder: its suite, and the folders that it lies in."""
    *folders, suite = place.split("/")
    return ", ".join([SUITES[suite].title, *folders])


def attack_text(attack: AttackSpec) -> str:
    """Return name, ε, number and size of steps and seed for people."""
    length = "{:.3g} (L2)".format if attack.name.endswith("-l2") else of_255
    size = f" of {length(attack.step_size)}" if attack.step_size else " it sizes itself"
    steps = count_of(attack.num_steps, "step")
    return f"{attack.name} (ε = {length(attack.epsilon)}, {steps}{size}, seed {attack.seed})"


def check_text(check: Check) -> str:
    """Return one sentence: what a check measured (nothing: –) and whether its limit holds."""
    value = "–" if check.value is None else f"{check.value:.4g}"
    verdict = "holds" if check.ok else "does not hold"
    return f"Check “{check.name}”: {value} ({check.unit}), limit {check.limit:g}: {verdict}."


def warning_text(warning: Row) -> str:
    """Return a warning and the point, or the width, that it is about."""
    at = ", ".join(f"{key} {warning[key]:g}" for key in ("lambda", "width") if key in warning)
    return f"Warning at {at}: {warning['text']}"
