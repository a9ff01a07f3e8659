"""What a training step draws: a λ for each sample and the widths to train. Pure functions of a generator."""

from __future__ import annotations

import torch

from training.config import TrainConfig


def sample_lambdas(config: TrainConfig, num: int, *, generator: torch.Generator) -> list[float]:
    """`num` values of λ, ascending, drawn from P_Λ (the paper, section 3.1).

    Sorted because the network wants λ=0 first; the images of a batch are in random order already.
    """
    if config.lambda_sampling != "continuous":
        knots = torch.tensor(config.model.lambdas, dtype=torch.float64)
        draws = knots[torch.randint(len(knots), (num,), generator=generator)]
        if config.lambda_sampling == "stratified":
            even = num - num % len(knots)
            draws[:even] = knots.repeat(even // len(knots))
    else:
        draws = torch.rand(num, generator=generator, dtype=torch.float64)
        draws[torch.rand(num, generator=generator) < 0.1] = 0.0
    values: list[float] = draws.sort().values.tolist()
    return values


def sample_widths(config: TrainConfig, *, generator: torch.Generator) -> tuple[float, ...]:
    """The widths of one step, widest first: the full one and some of the others, without repeats."""
    *narrower, full = config.model.widths
    if config.num_random_widths is None:
        return (full, *reversed(narrower))
    chosen = torch.randperm(len(narrower), generator=generator)[: config.num_random_widths].tolist()
    return (full, *sorted((narrower[i] for i in chosen), reverse=True))
