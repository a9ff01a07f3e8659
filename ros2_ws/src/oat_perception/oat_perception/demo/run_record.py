"""Read what a demo run left in its folder, join it frame by frame, and count. Needs no rclpy."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from oat_perception.replay.scenario import Phase, Scenario
from oat_runtime.errors import DataError
from oat_runtime.files import write_whole
from oat_runtime.operating_point import OperatingPoint, Proportion
from oat_runtime.timing import p50_p99

Record = dict[str, Any]

TRUTH, RESULTS, DECISIONS, FIXED, SUMMARY = (
    "truth.jsonl", "results.jsonl", "decisions.jsonl", "fixed.jsonl", "demo.json",
)  # fmt: skip


FIXED_LAMBDA, OWN_POINT, FULL_WIDTH = "fixed", "own", "full width"
"""Roles of answers in fixed.jsonl. The last two are timed in turn, for images that a narrowed network answered."""


@dataclass(frozen=True, slots=True)
class ReplayedFrame:
    """One published image.

    Attributes:
        t_s: its stamp, since the first image.
        truth: what the camera did (a line of truth.jsonl).
        result: the node's answer (a line of results.jsonl); None if there is none.
        others: answers that the node did not give, by their role (lines of fixed.jsonl): at a fixed λ, or at full
            width where the battery had narrowed the network.
    """

    t_s: float
    truth: Record
    result: Record | None
    others: tuple[Record, ...] = ()

    @property
    def truths(self) -> list[int]:
        """True classes: of the image, or of each of its regions."""
        labels: list[int] = self.truth.get("labels", [self.truth["label"]])
        return labels

    @property
    def labels(self) -> list[int]:
        """The node's answers, in the same order."""
        return [answer["label"] for answer in self.answer["answers"]]

    @property
    def fixed(self) -> dict[float, list[int]]:
        """Answers that a fixed λ gives the same image, by λ; attacked images are attacked anew at that λ."""
        return {line["lambda"]: line["labels"] for line in self.others if line["role"] == FIXED_LAMBDA}

    def other(self, role: str) -> Record | None:
        """Return the answers of one role, if there are any."""
        return next((line for line in self.others if line["role"] == role), None)

    def share(self, labels: Sequence[int]) -> Proportion:
        """Return how many of these answers are right."""
        return Proportion(sum(a == b for a, b in zip(labels, self.truths, strict=True)), len(self.truths))

    @property
    def answer(self) -> Record:
        """The result of a frame that has one."""
        assert self.result is not None, "only of answered frames"
        return self.result

    @property
    def point(self) -> OperatingPoint:
        """The operating point that answered."""
        return OperatingPoint(self.answer["lambda"], self.answer["width"])


@dataclass(frozen=True, slots=True)
class Switch:
    """A frame that ran at another operating point than the one before."""

    t_s: float
    phase: str
    before: OperatingPoint
    after: OperatingPoint
    source: str
    reason: str

    def as_json(self) -> Record:
        """For the summary."""
        points = {"before": self.before, "after": self.after}
        return {
            "t_s": self.t_s,
            "phase": self.phase,
            **{name: {"lambda": point.lam, "width": point.width} for name, point in points.items()},
            "source": self.source,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class PhaseCounts:
    """Counts of one phase, or of all.

    Attributes:
        title: of the phase.
        num_published: images sent.
        num_answered: images answered.
        adaptive: correct answers of the node; an image with regions has one for each.
        fixed: correct answers of each fixed λ, on the answered images.
        latency_ms: mean, median and 99th percentile of the network's time.
        lambdas: share of answers by λ.
        widths: share of answers by width.
    """

    title: str
    num_published: int
    num_answered: int
    adaptive: Proportion
    fixed: dict[float, Proportion]
    latency_ms: tuple[float, float, float]
    lambdas: dict[float, float]
    widths: dict[float, float]

    def as_json(self) -> Record:
        """For the summary."""
        mean_ms, p50_ms, p99_ms = self.latency_ms
        return {
            "title": self.title,
            "num_published": self.num_published,
            "num_answered": self.num_answered,
            "adaptive": _share_as_json(self.adaptive),
            "fixed": {f"{lam:g}": _share_as_json(share) for lam, share in self.fixed.items()},
            "latency_ms": {"mean": mean_ms, "p50": p50_ms, "p99": p99_ms},
            "lambda_shares": {f"{value:g}": share for value, share in self.lambdas.items()},
            "width_shares": {f"{value:g}": share for value, share in self.widths.items()},
        }


@dataclass(frozen=True, slots=True)
class Run:
    """A whole run."""

    scenario: Scenario
    frames: tuple[ReplayedFrame, ...]
    switches: tuple[Switch, ...]

    def of(self, phase: Phase) -> tuple[ReplayedFrame, ...]:
        """Return the frames of one phase."""
        return tuple(frame for frame in self.frames if frame.truth["phase"] == phase.name)

    def counts(self, phase: Phase | None = None) -> PhaseCounts:
        """Return the counts of one phase, or of the whole day."""
        frames = self.frames if phase is None else self.of(phase)
        return count("All phases" if phase is None else phase.title, frames)

    @property
    def answered(self) -> tuple[ReplayedFrame, ...]:
        """Frames that have a result."""
        return tuple(frame for frame in self.frames if frame.result is not None)


def count(title: str, frames: Sequence[ReplayedFrame]) -> PhaseCounts:
    """Count correct answers, operating points and times."""
    answered = [frame for frame in frames if frame.result is not None]
    results = [frame.answer for frame in answered]
    latencies_ms = np.array([result["inference_ms"] for result in results])
    mean_p50_p99 = math.nan, math.nan, math.nan
    if len(results):
        mean_p50_p99 = float(latencies_ms.mean()), *p50_p99(latencies_ms)
    lambdas = sorted({lam for frame in answered for lam in frame.fixed})
    return PhaseCounts(
        title=title,
        num_published=len(frames),
        num_answered=len(answered),
        adaptive=total(frame.share(frame.labels) for frame in answered),
        fixed={lam: total(frame.share(frame.fixed[lam]) for frame in answered) for lam in lambdas},
        latency_ms=mean_p50_p99,
        lambdas=_shares(result["lambda"] for result in results),
        widths=_shares(result["width"] for result in results),
    )


def _share_as_json(share: Proportion) -> Record:
    low, high = share.interval()
    return {"num_correct": share.num_correct, "num_total": share.num_total, "interval_95": [low, high]}


def total(shares: Iterable[Proportion]) -> Proportion:
    """Return the share of several counts together."""
    counted = list(shares)
    return Proportion(sum(s.num_correct for s in counted), sum(s.num_total for s in counted))


def _shares(values: Iterable[float]) -> dict[float, float]:
    counts = Counter(values)
    return {value: number / counts.total() for value, number in sorted(counts.items())}


def load_run(folder: Path, scenario: Scenario) -> Run:
    """Join a run's files by the image's stamp.

    Raises:
        DataError: a file is missing or not JSON lines, or the camera published nothing.
    """
    truth = read_lines(folder / TRUTH)
    if not truth:
        raise DataError(f"{folder / TRUTH} is empty: the camera published no image")
    results = {line["stamp_ns"]: line for line in read_lines(folder / RESULTS)}
    others: dict[int, list[Record]] = {}
    for line in read_lines(folder / FIXED) if (folder / FIXED).is_file() else []:
        others.setdefault(line["stamp_ns"], []).append(line)
    frames = joined(truth, results, others)
    return Run(scenario, frames, tuple(_switches(frames)))


def joined(
    truth: Sequence[Record], results: Mapping[int, Record], others: Mapping[int, Sequence[Record]]
) -> tuple[ReplayedFrame, ...]:
    """Return the published images in order, each joined by its stamp with its answers so far."""
    return tuple(
        ReplayedFrame(
            t_s=(line["stamp_ns"] - truth[0]["stamp_ns"]) / 1e9,
            truth=line,
            result=results.get(line["stamp_ns"]),
            others=tuple(others.get(line["stamp_ns"], ())),
        )
        for line in truth
    )


def _switches(frames: Sequence[ReplayedFrame]) -> Iterable[Switch]:
    before: OperatingPoint | None = None
    for frame in frames:
        if frame.result is None:
            continue
        if before is not None and frame.point != before:
            by_width = frame.point.lam == before.lam
            source = frame.answer["width_source" if by_width else "lambda_source"]
            yield Switch(frame.t_s, frame.truth["phase"], before, frame.point, source, frame.answer["reason"])
        before = frame.point


def read_lines(path: Path) -> list[Record]:
    """Read all objects of a JSON-lines file.

    Raises:
        DataError: no such file, or a line that is not JSON.
    """
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is damaged: expected one JSON object a line ({error})") from error


def write_lines(path: Path, records: Iterable[Record]) -> None:
    """Write records as JSON lines; NaN becomes null, so that the file is standard JSON."""
    write_whole(path, "".join(json.dumps(plain(record), allow_nan=False) + "\n" for record in records))


def plain(value: Any) -> Any:
    """Return a value with NaN and infinities replaced by None, at any depth."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
