"""Draw a training step: images by class, a λ for each sample, its loss terms, and the widths.

All are pure functions of generators.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from training.config import TrainConfig


@dataclass(frozen=True, slots=True)
class StepDraw:
    """The draw of one step for its batch, or for a process's part of it.

    Attributes:
        lam_N: λ of each sample, ascending.
        clean: samples with a clean term, by position, ascending.
        adversarial: samples with an adversarial term, by position, ascending; one may have both.
        widths: widths to train, widest first.
    """

    lam_N: tuple[float, ...]
    clean: tuple[int, ...]
    adversarial: tuple[int, ...]
    widths: tuple[float, ...]

    def part(self, start: int, stride: int) -> StepDraw:
        """Return the samples `start`, `start + stride`, …, so that every part holds all λ in about their share."""

        def inside(positions: tuple[int, ...]) -> tuple[int, ...]:
            return tuple((n - start) // stride for n in positions if n % stride == start)

        return StepDraw(self.lam_N[start::stride], inside(self.clean), inside(self.adversarial), self.widths)


def draw_step(config: TrainConfig, num: int, *, generator: torch.Generator, clean_only: bool = False) -> StepDraw:
    """Draw one step for a batch of `num` samples; `clean_only` gives each a clean term at λ=0 and no other."""
    if clean_only:
        return StepDraw((0.0,) * num, tuple(range(num)), (), sample_widths(config, generator=generator))
    lam_N = sample_lambdas(config, num, generator=generator)
    if config.terms == "sampled":
        robust = sample_terms(lam_N, generator=generator)
        clean = [n for n in range(num) if not robust[n]]
        adversarial = [n for n in range(num) if robust[n]]
    else:  # what has no weight is not computed; TRADES has a clean term at every λ
        clean = [n for n in range(num) if lam_N[n] < 1.0 or config.adversarial_loss == "trades"]
        adversarial = [n for n in range(num) if lam_N[n] > 0.0]
    widths = sample_widths(config, generator=generator)
    return StepDraw(tuple(lam_N), tuple(clean), tuple(adversarial), widths)


def sample_lambdas(config: TrainConfig, num: int, *, generator: torch.Generator) -> list[float]:
    """Draw `num` values of λ from P_Λ (the paper, section 3.1), and return them ascending.

    They are sorted because the network needs λ=0 first; the images of a batch are in random order already.
    """
    knots = torch.tensor(config.model.lambdas, dtype=torch.float64)
    if config.lambda_sampling == "continuous":
        low = min(knot for knot in config.model.lambdas if knot > 0.0)  # a smaller λ would run as this one
        draws = low + (1.0 - low) * torch.rand(num, generator=generator, dtype=torch.float64) ** config.lambda_power
        draws[torch.rand(num, generator=generator) < 0.1] = 0.0
    else:
        if config.lambda_weights is None:
            draws = knots[torch.randint(len(knots), (num,), generator=generator)]
        else:
            shares = torch.tensor(config.lambda_shares, dtype=torch.float64)
            draws = knots[torch.multinomial(shares, num, replacement=True, generator=generator)]
        if config.lambda_sampling == "stratified":
            counts = [math.floor(num * share + 1e-6) for share in config.lambda_shares]
            draws[: sum(counts)] = knots.repeat_interleave(torch.tensor(counts))
    values: list[float] = draws.sort().values.tolist()
    return values


def sample_terms(lam_N: list[float], *, generator: torch.Generator) -> list[bool]:
    """Draw which samples take their adversarial term: sample n with probability λ_n, in total Σ λ of them.

    This is systematic sampling: the running sum of λ, shifted by one uniform draw, crosses a whole number at each
    sample that is taken. So the number of samples is Σ λ, or one of the two whole numbers around it, and samples of
    similar λ are spread evenly. λ=0 is never taken, and λ=1 always.
    """
    unit = 10**9  # whole numbers: sums of tenths are exact, so that the count does not flicker
    total_N = torch.tensor([round(lam * unit) for lam in lam_N], dtype=torch.int64).cumsum(0)
    crossed_N = (total_N + torch.randint(unit, (1,), generator=generator)) // unit
    taken: list[bool] = (torch.diff(crossed_N, prepend=crossed_N.new_zeros(1)) > 0).tolist()
    return taken


def sample_widths(config: TrainConfig, *, generator: torch.Generator) -> tuple[float, ...]:
    """Draw the widths of one step, widest first: the full one and some of the others, without repeats."""
    *narrower, full = config.model.widths
    if config.num_random_widths is None:
        return (full, *reversed(narrower))
    chosen = torch.randperm(len(narrower), generator=generator)[: config.num_random_widths].tolist()
    return (full, *sorted((narrower[i] for i in chosen), reverse=True))


class BalancedOrder:
    """Take images so that all classes come equally often: from the first step to any other, to within one image.

    Sample number i of a run is of class i mod K. The images of a class come in a random order, each of them once before
    any of them comes again.
    """

    def __init__(self, labels_N: Tensor, generator: Callable[[int], torch.Generator]) -> None:
        """Take the labels (N,); classes without an image are left out.

        Args:
            labels_N: int64, on the CPU.
            generator: returns the one for an index; each order of a class has an index of its own.
        """
        self._members = [torch.nonzero(labels_N == label).flatten() for label in sorted(set(labels_N.tolist()))]
        self._generator = generator
        self._orders: dict[int, tuple[int, Tensor]] = {}

    def batch(self, step: int, size: int, *, generator: torch.Generator) -> Tensor:
        """Return the positions (size,) of a step's images; `generator` shuffles them, because λ goes by the place."""
        num_classes = len(self._members)
        number_B = torch.arange(step * size, (step + 1) * size)
        chosen_B = torch.empty_like(number_B)
        for index, members in enumerate(self._members):
            places = torch.nonzero(number_B % num_classes == index).flatten()
            turns = number_B[places] // num_classes
            for again in sorted(set((turns // len(members)).tolist())):
                now = turns // len(members) == again
                chosen_B[places[now]] = members[self._order(index, again)[turns[now] % len(members)]]
        return chosen_B[torch.randperm(size, generator=generator)]

    def _order(self, index: int, again: int) -> Tensor:
        known = self._orders.get(index)
        if known is None or known[0] != again:
            generator = self._generator(again * len(self._members) + index)
            known = self._orders[index] = again, torch.randperm(len(self._members[index]), generator=generator)
        return known[1]
