"""Laws of what a step draws: λ from P_Λ in ascending order, the full width always, nothing twice."""

from collections import Counter

import pytest
import torch
from pydantic import ValidationError

from oat_runtime.model import ModelConfig
from training.config import TrainConfig
from training.sampling import sample_lambdas, sample_widths

KNOTS = ModelConfig().lambdas


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("sampling", ["discrete", "stratified", "continuous"])
@pytest.mark.parametrize("num", [1, 5, 64])
def test_lambdas_are_ascending_and_follow_the_seed(sampling: str, num: int) -> None:
    config = TrainConfig(lambda_sampling=sampling)
    drawn = sample_lambdas(config, num, generator=generator())
    assert len(drawn) == num
    assert drawn == sorted(drawn)
    assert drawn == sample_lambdas(config, num, generator=generator())
    others = [sample_lambdas(config, num, generator=generator(seed)) for seed in range(1, 8)]
    assert any(other != drawn for other in others) or (sampling == "stratified" and num % len(KNOTS) == 0)


def test_discrete_lambdas_are_uniform_on_exactly_the_knots() -> None:
    num = 12_000
    counts = Counter(sample_lambdas(TrainConfig(), num, generator=generator()))
    assert set(counts) == set(KNOTS)
    expected = num / len(KNOTS)
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 20.5  # χ², 5 degrees, p = 0.001


def test_discrete_lambdas_are_independent_of_each_other() -> None:
    draws, shared = [], generator()
    for _ in range(200):
        draws.append(sample_lambdas(TrainConfig(), 60, generator=shared).count(0.0))
    spread = torch.tensor(draws, dtype=torch.float64).var().item()
    assert 0.7 < spread / (60 * (1 / 6) * (5 / 6)) < 1.4  # binomial variance


@pytest.mark.parametrize("num", [6, 60, 126])
def test_stratified_counts_are_equal_in_every_batch(num: int) -> None:
    counts = Counter(sample_lambdas(TrainConfig(lambda_sampling="stratified"), num, generator=generator()))
    assert counts == {knot: num // len(KNOTS) for knot in KNOTS}


def test_what_stratified_leaves_over_is_drawn_at_random() -> None:
    config, extra = TrainConfig(lambda_sampling="stratified"), Counter[float]()
    for seed in range(100):
        counts = Counter(sample_lambdas(config, 8, generator=generator(seed)))
        assert set(counts.values()) <= {1, 2, 3}
        extra.update({knot: count - 1 for knot, count in counts.items()})
    assert all(extra[knot] > 10 for knot in KNOTS)


def test_continuous_lambdas_fill_the_range_and_a_tenth_is_zero() -> None:
    config = TrainConfig(lambda_sampling="continuous")
    drawn = torch.tensor(sample_lambdas(config, 20_000, generator=generator()), dtype=torch.float64)
    assert (drawn == 0.0).double().mean().item() == pytest.approx(0.1, abs=0.01)
    positive = drawn[drawn > 0.0]
    assert positive.max() <= 1.0
    assert torch.histc(positive, bins=10, min=0, max=1) / len(positive) == pytest.approx(0.1, abs=0.012)


@pytest.mark.parametrize("num_random", [0, 1, 2, 3])
def test_the_full_width_comes_first_and_none_twice(num_random: int) -> None:
    config = TrainConfig(model=ModelConfig(widths=(0.25, 0.5, 0.75, 1.0)), num_random_widths=num_random)
    seen = Counter[float]()
    for seed in range(300):
        widths = sample_widths(config, generator=generator(seed))
        assert widths[0] == 1.0
        assert len(set(widths)) == len(widths) == num_random + 1
        assert list(widths) == sorted(widths, reverse=True)
        seen.update(widths[1:])
    assert all(abs(seen[width] - 100 * num_random) < 40 for width in (0.25, 0.5, 0.75))


def test_all_widths_are_an_option() -> None:
    config = TrainConfig(num_random_widths=None)
    assert sample_widths(config, generator=generator()) == (1.0, 0.75, 0.5)


def test_more_random_widths_than_there_are_is_refused() -> None:
    with pytest.raises(ValidationError, match="num_random_widths must be at most 2"):
        TrainConfig(num_random_widths=3)
