"""Define what a suite is, what it works on, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from rich.table import Table
from torch import Tensor

from oat_runtime.data import ImageSet
from oat_runtime.errors import ConfigError
from oat_runtime.operating_point import AttackSpec, OperatingPoint, Precision
from oat_runtime.report import Check, Row, progress
from oat_runtime.stress.attacks import TARGETED_CLASSES
from oat_runtime.style import Figure
from oat_runtime.text import PlainConsole
from training.evaluation.cache import OutcomeCache
from training.evaluation.counting import ATTACKS, LINF_ATTACKS, Bools, attack_named, batches, proportion
from training.evaluation.judged import Judged
from training.network import Rounding

_MIDDLE = 0.4
"""Between the ends of λ, where a suite has time for one point only."""


@dataclass(frozen=True)
class Job:
    """The input of a suite.

    Raises:
        ConfigError: `attack` or one of `attacks` wants more classes than the network has, or another kind of ball.

    Attributes:
        judged: the network.
        data: its images, in order.
        lambdas: λ to count at, ascending.
        widths: widths to count at.
        attack: the attack of suites that run one of your choice.
        attacks: names of those of suites that run several; None: all in the L∞ ball, as far as there are classes.
        num_steps: steps of Auto-PGD that a suite takes by name.
        epsilon: of L∞ attacks that a suite takes by name, on the [0, 1] pixel scale; None: their own.
        beside: networks to compare with.
        cache_folder: where outcomes are stored, so that a stopped suite can go on; None: nowhere.
        rounding: counts in int8; None: in float32.
    """

    judged: Judged
    data: ImageSet
    lambdas: tuple[float, ...]
    widths: tuple[float, ...]
    attack: AttackSpec
    attacks: tuple[str, ...] | None = None
    num_steps: int | None = None
    epsilon: float | None = None
    beside: tuple[Judged, ...] = ()
    cache_folder: Path | None = None
    rounding: Rounding | None = None

    def __post_init__(self) -> None:
        """Refuse an attack that was asked for and cannot be run, before anything is counted."""
        if few := [name for name in (self.attack.name, *(self.attacks or ())) if not self._has_classes_for(name)]:
            raise ConfigError(
                f"{few[0]} needs {TARGETED_CLASSES} classes or more, and {self.judged.name} has "
                f"{self._num_classes}: leave it out, or name apgd-ce"
            )
        for name in self.attacks or ():
            self.attack_named(name)

    @cached_property
    def cache(self) -> OutcomeCache:
        """The outcomes of the network that were counted before."""
        return OutcomeCache(self.cache_folder, self.judged.model, self.rounding)

    @cached_property
    def float32(self) -> OutcomeCache:
        """The same of the float32 network, which int8 is compared with."""
        return self.cache if self.rounding is None else OutcomeCache(self.cache_folder, self.judged.model)

    @property
    def cached_s(self) -> float:
        """How long it took, at the time, to count what both have taken from the disk since."""
        return sum(cache.cached_s for cache in {self.cache, self.float32})

    @property
    def _num_classes(self) -> int:
        return self.judged.model.config.num_classes

    def _has_classes_for(self, name: str) -> bool:
        return self._num_classes >= TARGETED_CLASSES or not name.startswith("apgd-t")

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return self.judged.model.code_KD.device

    def attack_named(self, name: str) -> AttackSpec:
        """Return an attack of `ATTACKS` in a ball of `epsilon`; Auto-PGD with `num_steps` steps."""
        return attack_named(name, num_steps=self.num_steps, epsilon=self.epsilon)

    def several_attacks(self) -> list[AttackSpec]:
        """Return the attacks of `attacks`, in the order of `ATTACKS`."""
        return self.attacks_among(LINF_ATTACKS if self.attacks is None else self.attacks)

    def attacks_among(self, names: Container[str]) -> list[AttackSpec]:
        """Return the attacks of `ATTACKS` with these names, in its order, less those that want more classes.

        What is left out is said: a worst case without the strongest attack would look like one with it.
        """
        named = [name for name in ATTACKS if name in names]
        for name in (name for name in named if not self._has_classes_for(name)):
            PlainConsole(stderr=True).print(
                f"left out: {name}, which needs {TARGETED_CLASSES} classes or more: {self.judged.name} has "
                f"{self._num_classes}"
            )
        return [self.attack_named(name) for name in named if self._has_classes_for(name)]

    def points(self) -> list[OperatingPoint]:
        """Return every λ at every width, the widest first."""
        return [OperatingPoint(lam, width) for width in sorted(self.widths, reverse=True) for lam in self.lambdas]

    def three_lambdas(self) -> list[float]:
        """Return the smallest λ, the one nearest to 0.4, and the largest; fewer if some are the same."""
        return sorted({min(self.lambdas), min(self.lambdas, key=lambda lam: abs(lam - _MIDDLE)), max(self.lambdas)})

    def widest(self) -> list[OperatingPoint]:
        """Return every λ at the widest width."""
        return [OperatingPoint(lam, max(self.widths)) for lam in self.lambdas]

    def plain(self, point: OperatingPoint) -> torch.nn.Module:
        """Return the folded network of one point, as it is deployed in the job's precision."""
        return self.cache.plain(point)

    def outcomes(self, point: OperatingPoint, *, attack: AttackSpec | None = None) -> Bools:
        """Return whether the folded network of a point classifies each image correctly; counted once."""
        return self.cache.outcomes(point, self.data, attack=attack)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images in [0, 1] and labels, on the device."""
        return batches(self.data, device=self.device)

    def logits(self, point: OperatingPoint) -> Tensor:
        """Return the logits of all images at a point, (N, classes)."""
        with torch.no_grad():
            return torch.cat([self.plain(point)(x_NCHW) for x_NCHW, _ in self.batches()])


@dataclass(frozen=True)
class Result:
    """The result of a suite.

    Attributes:
        rows: mostly counts, see `counted`.
        checks: limits on what was counted.
        warnings: suspect figures: `text`, and the `lambda` and `width` that it is about.
        attacks: the attacks that were used.
    """

    rows: list[Row]
    checks: Sequence[Check] = ()
    warnings: Sequence[Row] = ()
    attacks: Sequence[AttackSpec] = ()


def counted(point: OperatingPoint | None, condition: str, correct_N: Bools) -> Row:
    """Return one row: integer counts, the share, and its 95 % interval (Wilson 1927); None stands for any point."""
    count = proportion(correct_N)
    low, high = count.interval()
    return {
        "lambda": point and point.lam, "width": point and point.width, "condition": condition,
        "num_correct": count.num_correct, "num_total": count.num_total, "accuracy": count.rate,
        "low_95": low, "high_95": high,
    }  # fmt: skip


def counted_parts(job: Job, parts: Mapping[str, Bools], *, key: str, title: str) -> list[Row]:
    """Count clean images of each part at every point.

    Args:
        job: the input of the suite.
        parts: which images are of each part, by its name; every image is of one.
        key: of a part's name in its row.
        title: of the progress bar.
    """
    rows: list[Row] = []
    for point in progress(job.points(), title):
        correct_N = job.outcomes(point)
        rows += [counted(point, "clean", correct_N[is_of_N]) | {key: name} for name, is_of_N in parts.items()]
    return rows


def widths_of(rows: list[Row]) -> list[float]:
    """Return the widths of counted rows, the widest first."""
    return sorted({row["width"] for row in rows}, reverse=True)


def over_lambda(rows: list[Row], condition: str, width: float) -> list[Row]:
    """Return the rows of one curve, in the order of λ."""
    chosen = [row for row in rows if row["condition"] == condition and row["width"] == width]
    return sorted(chosen, key=lambda row: float(row["lambda"]))


def _takes_any(job: Job) -> None:
    """The check of a suite that counts every job."""


@dataclass(frozen=True)
class Suite:
    """One part of a full evaluation.

    Attributes:
        name: as on the command line and of its JSON file.
        about: what a reader learns from it.
        run: counts.
        tables: its rows as tables.
        figures: its rows as pictures, by the name of the file.
        attacks: what it attacks with: the one of `Job.attack`, the several of `Job.attacks`, or these by name; (): it
            attacks no image.
        takes_auto_pgd: whether the attack of your choice may be Auto-PGD.
        beside: whether it looks at `Job.beside`.
        narrowed_by: which of `Job.lambdas` and `Job.widths` it looks at.
        most_images: how many of a job's images it looks at, from the first on; None: all.
        needs_more: whether it needs more than the network or much time, so that `all` leaves it out.
        precisions: what it can count in.
        check: refuses a job that it cannot count. Each named suite's is called before the first one counts.
    """

    name: str
    about: str
    run: Callable[[Job], Result]
    tables: Sequence[Callable[[list[Row]], Table]]
    figures: Mapping[str, Callable[[list[Row]], Figure]] = field(default_factory=dict)
    attacks: Literal["one", "several"] | tuple[str, ...] = ()
    takes_auto_pgd: bool = True
    beside: bool = False
    narrowed_by: tuple[Literal["lambdas", "widths"], ...] = ("lambdas", "widths")
    most_images: int | None = None
    needs_more: bool = False
    precisions: tuple[Precision, ...] = ("float32",)
    check: Callable[[Job], object] = _takes_any

    @property
    def title(self) -> str:
        """The heading of its part of a page."""
        return self.name.capitalize()
