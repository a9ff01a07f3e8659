"""Laws of what a step draws: λ from P_Λ in ascending order, the full width always, nothing twice."""

import math
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from oat_runtime.architecture import ModelConfig
from training.config import TrainConfig
from training.sampling import BalancedOrder, draw_step, sample_lambdas, sample_terms, sample_widths

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


def test_continuous_lambdas_fill_the_range_that_runs_and_a_tenth_is_zero() -> None:
    """Regression: λ below the smallest trained one above 0 trained that one, with the weight of the smaller λ."""
    config = TrainConfig(lambda_sampling="continuous")
    drawn = torch.tensor(sample_lambdas(config, 20_000, generator=generator()), dtype=torch.float64)
    assert (drawn == 0.0).double().mean().item() == pytest.approx(0.1, abs=0.01)
    positive = drawn[drawn > 0.0]
    assert 0.1 <= positive.min() <= positive.max() <= 1.0
    assert torch.histc(positive, bins=10, min=0.1, max=1) / len(positive) == pytest.approx(0.1, abs=0.012)


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


def test_weights_make_some_lambdas_denser() -> None:
    config = TrainConfig(lambda_weights=(5, 1, 1, 1, 1, 1))
    counts = Counter(sample_lambdas(config, 10_000, generator=generator()))
    assert counts[0.0] / 10_000 == pytest.approx(0.5, abs=0.03)
    assert all(counts[knot] / 10_000 == pytest.approx(0.1, abs=0.02) for knot in KNOTS[1:])


def test_weights_set_the_counts_of_a_stratified_batch() -> None:
    config = TrainConfig(lambda_sampling="stratified", lambda_weights=(1, 1, 1, 1, 1, 2), batch_size=126)
    counts = Counter(sample_lambdas(config, 126, generator=generator()))
    assert counts == {knot: 36 if knot == 1.0 else 18 for knot in KNOTS}
    extra = Counter[float]()
    for seed in range(300):  # 130 samples: four are left over, which follow the weights too
        extra.update(sample_lambdas(config, 130, generator=generator(seed)))
    assert extra[1.0] / (300 * 130) == pytest.approx(2 / 7, abs=0.01)


def test_a_clean_step_has_one_clean_term_a_sample_at_lambda_zero() -> None:
    config = TrainConfig(terms="sampled", lambda_sampling="stratified")
    drawn = draw_step(config, 12, generator=generator(), clean_only=True)
    assert (drawn.lam_N, drawn.clean, drawn.adversarial) == ((0.0,) * 12, tuple(range(12)), ())
    assert drawn.widths[0] == 1.0
    assert len(drawn.widths) == 2


def test_a_power_makes_small_lambdas_denser() -> None:
    config = TrainConfig(lambda_sampling="continuous", lambda_power=2.0)
    drawn = torch.tensor(sample_lambdas(config, 20_000, generator=generator()), dtype=torch.float64)
    positive = drawn[drawn > 0.0]
    assert (positive < 0.1 + 0.9 * 0.25).double().mean().item() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("lam_N", [[0.0] * 5, [0.1] * 20, [0.0, 0.3, 0.3, 0.7, 1.0, 1.0], list(KNOTS) * 21], ids=len)
def test_terms_are_adversarial_with_probability_lambda_and_in_number_exactly_their_sum(lam_N: list[float]) -> None:
    lam_N, num = sorted(lam_N), 4000
    total, taken = sum(round(10 * lam) for lam in lam_N) / 10, torch.zeros(len(lam_N))
    shared = generator()
    for _ in range(num):
        chosen = sample_terms(lam_N, generator=shared)
        assert sum(chosen) in {math.floor(total), math.ceil(total)}
        taken += torch.tensor(chosen).float()
    error = (taken / num - torch.tensor(lam_N)).abs()
    assert error.max() < 4.5 * math.sqrt(0.25 / num)
    assert not error[torch.tensor([lam in (0.0, 1.0) for lam in lam_N])].any()


@pytest.mark.parametrize(
    ("options", "clean", "adversarial"),
    [
        ({}, (0, 1, 2, 3, 4), (1, 2, 3, 4, 5)),
        ({"adversarial_loss": "trades"}, (0, 1, 2, 3, 4, 5), (1, 2, 3, 4, 5)),
    ],
    ids=["pgd-at", "trades"],
)
def test_what_has_no_weight_is_not_computed(
    options: dict[str, str], clean: tuple[int, ...], adversarial: tuple[int, ...]
) -> None:
    drawn = draw_step(TrainConfig(lambda_sampling="stratified", **options), 6, generator=generator())
    assert (drawn.lam_N, drawn.clean, drawn.adversarial) == (KNOTS, clean, adversarial)


def test_sampled_terms_are_one_a_sample() -> None:
    config = TrainConfig(terms="sampled", lambda_sampling="stratified")
    for seed in range(20):
        drawn = draw_step(config, 126, generator=generator(seed))
        assert sorted((*drawn.clean, *drawn.adversarial)) == list(range(126))
        assert len(drawn.adversarial) == 42


@pytest.mark.parametrize("terms", ["both", "sampled"])
def test_parts_hold_every_sample_and_term_once(terms: str) -> None:
    whole = draw_step(TrainConfig(terms=terms), 12, generator=generator(3))
    for stride in (1, 2, 4):
        parts = [whole.part(start, stride) for start in range(stride)]
        for name in ("clean", "adversarial"):
            back = [start + stride * n for start, part in enumerate(parts) for n in getattr(part, name)]
            assert sorted(back) == list(getattr(whole, name))
        for start, part in enumerate(parts):
            assert part.lam_N == whole.lam_N[start::stride]
            assert list(part.lam_N) == sorted(part.lam_N)


FGSM = {"name": "fgsm", "epsilon": 0.03, "step_size": 0.03, "num_steps": 1}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lambda_weights": (1, 1)}, "6 positive numbers"),
        ({"lambda_weights": (1,) * 6, "lambda_sampling": "continuous"}, "needs discrete or stratified"),
        ({"clean_share": 0.3, "model": ModelConfig(lambdas=(0.1, 1.0))}, "must hold 0"),
        (
            {
                "compile_norms": True,
                "lambda_sampling": "stratified",
                "batch_size": 126,
                "lambda_weights": (1,) * 5 + (3,),
            },
            "whole number",
        ),
        ({"lambda_sampling": "continuous", "model": ModelConfig(lambdas=(0.1, 1.0))}, "lambdas from 0 to 1"),
        ({"lambda_sampling": "continuous", "model": ModelConfig(lambdas=(0.0, 1.0))}, "with one between"),
        ({"lambda_power": 2.0}, "lambda_power shapes continuous lambda_sampling, got 'discrete'"),
        ({"trades_beta": 3.0}, "trades_beta weighs adversarial_loss=trades, got 'pgd-at'"),
        ({"adversarial_loss": "trades", "attack": FGSM}, "needs a random start"),
        ({"attack": FGSM | {"seed": 1}}, "attack.seed draws nothing in training, got 1"),
        ({"terms": "sampled", "adversarial_loss": "trades"}, "terms must be 'both'"),
        ({"compile_norms": True}, "compile_norms needs stratified"),
        ({"cuda_graphs": True, "lambda_sampling": "stratified", "batch_size": 128}, "whole number"),
        ({"attack": {"name": "mi-fgsm", "epsilon": 0.03, "step_size": 0.01, "num_steps": 3}}, "attack must be"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_run_that_contradicts_itself_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainConfig.model_validate(fields)


UNEQUAL = torch.tensor([0] * 90 + [2] * 7 + [3] * 31)[torch.randperm(128, generator=torch.Generator().manual_seed(8))]


def balanced(seed: int = 0) -> list[list[int]]:
    """Batches of 16 of a set whose classes have 90, 0, 7 and 31 images."""
    order = BalancedOrder(UNEQUAL, lambda index: torch.Generator().manual_seed(1000 * seed + index))
    shuffles = (torch.Generator().manual_seed(10**6 * (seed + 1) + step) for step in range(40))
    return [order.batch(step, 16, generator=shuffle).tolist() for step, shuffle in enumerate(shuffles)]


def test_balanced_classes_come_equally_often_to_within_one_up_to_any_step() -> None:
    counts = torch.zeros(4, dtype=torch.int64)
    for batch in balanced():
        counts += UNEQUAL[batch].bincount(minlength=4)
        assert counts[1] == 0
        assert counts[[0, 2, 3]].max() - counts[[0, 2, 3]].min() <= 1


def test_no_image_of_a_class_comes_twice_before_all_have_come() -> None:
    batches, seen = balanced(), torch.zeros(128, dtype=torch.int64)
    for batch in batches:
        seen += torch.tensor(batch).bincount(minlength=128)
        for label in (0, 2, 3):
            times = seen[label == UNEQUAL]
            assert times.max() - times.min() <= 1
    assert seen[UNEQUAL == 2].min() >= 29  # 40 batches of 16 in three classes of 7 images and more


def test_the_balanced_order_follows_the_seed_and_any_step_can_be_drawn_first() -> None:
    assert balanced() == balanced() != balanced(1)
    order = BalancedOrder(UNEQUAL, lambda index: torch.Generator().manual_seed(index))
    alone = order.batch(39, 16, generator=torch.Generator().manual_seed(10**6 + 39)).tolist()
    assert alone == balanced()[39]


def test_no_place_in_a_balanced_batch_belongs_to_a_class() -> None:
    """Because the samples of a batch get ascending λ, and processes take every n-th of them."""
    labels = UNEQUAL[torch.tensor(balanced())]
    assert all(len(column.unique()) == 3 for column in labels.T)


def test_the_page_counts_the_images_of_a_step_as_they_are_drawn() -> None:
    """Regression: it said 189 where 105 clean and 105 adversarial images are 210."""
    page = (Path(__file__).parents[2] / "docs/training.md").read_text(encoding="utf-8")
    config = TrainConfig(batch_size=126, lambda_sampling="stratified")
    draws = [
        draw_step(config.model_copy(update={"terms": terms}), 126, generator=generator())
        for terms in ("both", "sampled")
    ]
    for what, nums in (
        ("in the joint pass", [len(draw.clean) + len(draw.adversarial) for draw in draws]),
        ("attacked", [len(draw.adversarial) for draw in draws]),
    ):
        (row,) = re.findall(rf"^\| {what} \| (\d+) \| (\d+) \|$", page, re.MULTILINE)
        assert list(map(int, row)) == nums
