"""Laws of the Square attack: it stays in its ball, it finds what a search can find, and it asks for logits only."""

import pytest
import torch
from torch import Tensor

from training.evaluation.square import square_linf

EPSILON = 8 / 255


def brightness(x_NCHW: Tensor) -> Tensor:
    """Class 1 for bright images, by a margin that grows with their mean; without a gradient."""
    mean_N = torch.floor(x_NCHW.detach().mean(dim=(1, 2, 3)) * 1e4) / 1e4 - 0.5
    return torch.stack([-mean_N, mean_N], dim=1)


def attacked(x_NCHW: Tensor, y_N: Tensor, num_queries: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return square_linf(brightness, x_NCHW, y_N, epsilon=EPSILON, num_queries=num_queries, generator=generator)


def grey(*levels: float) -> Tensor:
    return torch.tensor(levels)[:, None, None, None].expand(-1, 3, 12, 12).clone()


def test_it_breaks_what_lies_within_its_reach_and_nothing_else() -> None:
    x_NCHW, y_N = grey(0.5 + 0.4 * EPSILON, 0.5 + 1.2 * EPSILON, 0.5 + 0.3 * EPSILON), torch.tensor([1, 1, 1])
    found = attacked(x_NCHW, y_N, num_queries=600)
    assert (brightness(found).argmax(dim=1) == y_N).tolist() == [False, True, False]


@pytest.mark.parametrize("level", [0.0, 0.505, 1.0])
def test_it_stays_in_the_ball_and_in_the_range_of_pixels(level: float) -> None:
    x_NCHW = grey(level, level)
    before = x_NCHW.clone()
    found = attacked(x_NCHW, torch.tensor([1, 0]), num_queries=40)
    assert (found - x_NCHW).abs().max() <= EPSILON + 1e-6
    assert found.min() >= 0.0 and found.max() <= 1.0
    assert torch.equal(x_NCHW, before)


def test_an_image_that_is_wrong_already_is_left_alone() -> None:
    x_NCHW = grey(0.4, 0.9)
    found = attacked(x_NCHW, torch.tensor([1, 1]), num_queries=5)
    assert torch.equal(found[0], x_NCHW[0]) and not torch.equal(found[1], x_NCHW[1])


def test_it_asks_no_more_often_than_it_may_and_the_same_seed_finds_the_same() -> None:
    calls: list[int] = []

    def counted(x_NCHW: Tensor) -> Tensor:
        calls.append(len(x_NCHW))
        return brightness(x_NCHW)

    generator = torch.Generator().manual_seed(3)
    x_NCHW, y_N = grey(0.9), torch.tensor([1])
    first = square_linf(counted, x_NCHW, y_N, epsilon=EPSILON, num_queries=30, generator=generator)
    assert calls == [1] * 31  # the clean image, then 30 queries
    assert torch.equal(first, attacked(x_NCHW, y_N, num_queries=30, seed=3))
