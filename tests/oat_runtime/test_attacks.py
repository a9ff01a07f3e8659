"""Laws of PGD: the ball, the known optimum of a linear network, determinism, and what it leaves alone."""

import pytest

pytest.importorskip("torch")
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oat_runtime.stress.attacks import pgd_linf

EPSILON = 8 / 255


def batch(num: int = 16) -> tuple[Tensor, Tensor]:
    """Images that touch 0 and 1, and labels of two classes."""
    generator = torch.Generator().manual_seed(0)
    x_NCHW = (1.4 * torch.rand(num, 3, 4, 4, generator=generator) - 0.2).clamp(0, 1)
    return x_NCHW, torch.randint(2, (num,), generator=generator)


def linear(seed: int = 0) -> nn.Module:
    """Two classes by one hyperplane: the worst image in a box is known in closed form."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 2))


def curved() -> nn.Module:
    """A small network without a closed form."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.Tanh(), nn.Linear(32, 2, bias=False))


def worst_image(net: nn.Module, x_NCHW: Tensor, y_N: Tensor) -> Tensor:
    weight_KC = net[1].weight.detach()
    direction_NC = (weight_KC[1 - y_N] - weight_KC[y_N]).sign().view_as(x_NCHW)
    return torch.max(torch.min(x_NCHW + EPSILON * direction_NC, torch.ones(())), torch.zeros(()))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_fgsm_is_the_closed_form() -> None:
    net, (x_NCHW, y_N) = linear(), batch()
    adversarial = pgd_linf(net, x_NCHW, y_N, epsilon=EPSILON, step_size=EPSILON, num_steps=1, generator=None)
    torch.testing.assert_close(adversarial, worst_image(net, x_NCHW, y_N), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("num_steps", "step_size"), [(20, 2 / 255), (1, 2 * EPSILON), (9, 0.5 * EPSILON)])
def test_pgd_finds_the_optimum_of_a_linear_network_from_any_start(num_steps: int, step_size: float) -> None:
    net, (x_NCHW, y_N) = linear(), batch()
    for seed in range(3):
        adversarial = pgd_linf(
            net, x_NCHW, y_N, epsilon=EPSILON, step_size=step_size, num_steps=num_steps, generator=seeded(seed)
        )
        torch.testing.assert_close(adversarial, worst_image(net, x_NCHW, y_N), atol=1e-6, rtol=0)


@pytest.mark.parametrize("epsilon", [0.0, 1 / 255, EPSILON, 0.5])
@pytest.mark.parametrize("num_steps", [1, 5])
@pytest.mark.parametrize("random_start", [False, True])
def test_stays_in_the_ball_and_in_the_pixel_range(epsilon: float, num_steps: int, random_start: bool) -> None:
    x_NCHW, y_N = batch()
    adversarial = pgd_linf(
        curved(),
        x_NCHW,
        y_N,
        epsilon=epsilon,
        step_size=2.5 * epsilon,
        num_steps=num_steps,
        generator=seeded(0) if random_start else None,
    )
    assert (adversarial - x_NCHW).abs().max() <= epsilon + 1e-7
    assert adversarial.min() >= 0.0
    assert adversarial.max() <= 1.0
    assert not adversarial.requires_grad


def test_the_random_start_fills_the_ball_evenly() -> None:
    x_NCHW = torch.full((64, 3, 8, 8), 0.5)
    start = pgd_linf(
        linear_of_size(192),
        x_NCHW,
        torch.zeros(64, dtype=torch.int64),
        epsilon=EPSILON,
        step_size=0.0,
        num_steps=1,
        generator=seeded(0),
    )
    delta = (start - x_NCHW) / EPSILON
    assert delta.mean().abs() < 0.03
    assert delta.std() == pytest.approx(3**-0.5, abs=0.02)
    assert delta.abs().max() > 0.99


def linear_of_size(size: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(size, 2))


def test_images_labels_and_gradients_are_left_alone() -> None:
    net, (x_NCHW, y_N) = curved(), batch()
    pgd_linf(
        net,
        x_NCHW,
        y_N,
        epsilon=EPSILON,
        step_size=EPSILON,
        num_steps=3,
        generator=seeded(0),
    )
    assert torch.equal(x_NCHW, batch()[0])
    assert torch.equal(y_N, batch()[1])
    assert not x_NCHW.requires_grad
    assert all(parameter.grad is None for parameter in net.parameters())


def test_the_same_seed_gives_the_same_images_and_draws_nothing_else() -> None:
    def attack(seed: int) -> Tensor:
        x_NCHW, y_N = batch()
        return pgd_linf(curved(), x_NCHW, y_N, epsilon=EPSILON, step_size=1 / 255, num_steps=3, generator=seeded(seed))

    first = attack(1)
    state = torch.get_rng_state()
    torch.manual_seed(123)
    assert torch.equal(attack(1), first)
    torch.set_rng_state(state)
    assert not torch.equal(attack(2), first)


def test_more_steps_are_not_weaker() -> None:
    net, (x_NCHW, y_N) = curved(), batch(64)
    losses = [F.cross_entropy(net(x_NCHW), y_N).item()]
    for num_steps in (1, 4, 16):
        adversarial = pgd_linf(
            net, x_NCHW, y_N, epsilon=EPSILON, step_size=2 / 255, num_steps=num_steps, generator=seeded(0)
        )
        losses.append(F.cross_entropy(net(adversarial), y_N).item())
    assert losses == sorted(losses)
    assert losses[-1] > losses[1] > losses[0]
