"""Laws of PGD that its name in the table of attacks does not show: its start, its steps, and what it leaves alone."""

import pytest

pytest.importorskip("torch")
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oat_runtime.operating_point import AttackSpec
from oat_runtime.stress.attacks import perturb

EPSILON = 8 / 255


def pgd(num_steps: int, *, step_size: float = 2 / 255) -> AttackSpec:
    return AttackSpec(name=f"pgd-{num_steps}", epsilon=EPSILON, step_size=step_size, num_steps=num_steps)


def batch(num: int = 16) -> tuple[Tensor, Tensor]:
    """Images that touch 0 and 1, and labels of two classes."""
    generator = torch.Generator().manual_seed(0)
    x_NCHW = (1.4 * torch.rand(num, 3, 4, 4, generator=generator) - 0.2).clamp(0, 1)
    return x_NCHW, torch.randint(2, (num,), generator=generator)


def curved() -> nn.Module:
    """A small network without a closed form."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.Tanh(), nn.Linear(32, 2, bias=False))


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_the_random_start_fills_the_ball_evenly() -> None:
    torch.manual_seed(0)
    net, x_NCHW = nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), torch.full((64, 3, 8, 8), 0.5)
    labels_N = torch.zeros(64, dtype=torch.int64)
    start = perturb(net, x_NCHW, labels_N, spec=pgd(1, step_size=0.0), generator=seeded())
    delta = (start - x_NCHW) / EPSILON
    assert delta.mean().abs() < 0.03
    assert delta.std() == pytest.approx(3**-0.5, abs=0.02)
    assert delta.abs().max() > 0.99


def test_images_labels_and_gradients_are_left_alone() -> None:
    net, (x_NCHW, y_N) = curved(), batch()
    perturb(net, x_NCHW, y_N, spec=pgd(3, step_size=EPSILON), generator=seeded())
    assert torch.equal(x_NCHW, batch()[0])
    assert torch.equal(y_N, batch()[1])
    assert not x_NCHW.requires_grad
    assert all(parameter.grad is None for parameter in net.parameters())


def test_more_steps_are_not_weaker() -> None:
    net, (x_NCHW, y_N) = curved(), batch(64)
    losses = [F.cross_entropy(net(x_NCHW), y_N).item()]
    for num_steps in (1, 4, 16):
        adversarial = perturb(net, x_NCHW, y_N, spec=pgd(num_steps), generator=seeded())
        losses.append(F.cross_entropy(net(adversarial), y_N).item())
    assert losses == sorted(losses)
    assert losses[-1] > losses[1] > losses[0]
