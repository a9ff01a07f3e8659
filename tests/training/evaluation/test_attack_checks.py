"""Doubts are raised where they should be, and nowhere else."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from training.evaluation import attack_checks
from training.evaluation.counting import surely_above
from training.evaluation.suite import Job
from training.network import folded


def kinds(found: list[attack_checks.Suspicion]) -> list[str]:
    return [doubt.kind for doubt in found]


def test_a_sound_network_raises_no_doubt(job: Job) -> None:
    x_NCHW, y_N = next(job.batches())
    assert attack_checks.inspect_network(folded(job.judged.model, lam=1.0, width=1.0), x_NCHW, y_N) == []


def test_random_saturated_and_normalized_outputs_raise_doubt() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 4))
    x_NCHW, y_N = torch.rand(8, 3, 4, 4), torch.zeros(8, dtype=torch.int64)

    def noisy(images: Tensor) -> Tensor:
        return net(images) + 0.1 * torch.randn(len(images), 4)

    def saturated(images: Tensor) -> Tensor:
        return torch.cat([1e6 + 0 * images.mean(dim=(1, 2, 3))[:, None], net(images)[:, 1:]], dim=1)

    assert kinds(attack_checks.inspect_network(noisy, x_NCHW, y_N)) == ["randomness"]
    assert kinds(attack_checks.inspect_network(saturated, x_NCHW, y_N)) == ["zero gradients"]
    assert "probabilities" in kinds(attack_checks.inspect_network(lambda x: torch.softmax(net(x), 1), x_NCHW, y_N))


def standing(**shares: float) -> dict[str, np.ndarray]:
    return {name.replace("_", "-"): np.arange(100) < 100 * share for name, share in shares.items()}


def test_a_weaker_attack_that_beats_a_stronger_one_raises_doubt() -> None:
    sound = standing(clean=0.8, fgsm=0.4, pgd_7=0.35, pgd_20=0.33, apgd_ce=0.32, apgd_t=0.3)
    assert attack_checks.inspect_outcomes(sound) == []
    inverted = attack_checks.inspect_outcomes(sound | standing(apgd_ce=0.4))
    assert kinds(inverted) == ["weaker beats stronger"]
    assert "apgd-ce left 7.0 points more" in inverted[0].text
    assert inverted[0].value == pytest.approx(0.07)
    overfitted = attack_checks.inspect_outcomes(standing(clean=0.8, fgsm=0.7, pgd_20=0.05))
    assert kinds(overfitted) == ["one-step gap"]


@pytest.mark.parametrize("num", [20, 1000])
def test_one_image_raises_no_doubt_however_few_are_counted(num: int) -> None:
    """One image of twenty is five points, five times the limit."""
    weak_N = np.arange(num) < num // 2
    strong_N = np.arange(num) < num // 2 + 1
    assert attack_checks.inspect_outcomes({"pgd-20": weak_N, "apgd-ce": strong_N}) == []
    many_more_N = np.arange(num) < num // 2 + num // 4
    assert kinds(attack_checks.inspect_outcomes({"pgd-20": weak_N, "apgd-ce": many_more_N})) == [
        "weaker beats stronger"
    ]
    assert surely_above(strong_N, weak_N) < 0.0 < surely_above(many_more_N, weak_N)
    assert surely_above(weak_N, weak_N) == 0.0


def test_a_lambda_without_effect_raises_doubt() -> None:
    alike = {0.0: (0.8, 0.3), 1.0: (0.801, 0.302)}
    assert kinds(attack_checks.inspect_lambdas(alike, num_images=1000)) == ["λ without effect"]
    assert attack_checks.inspect_lambdas(alike, num_images=20) == []
    assert attack_checks.inspect_lambdas({0.0: (0.8, 0.0), 1.0: (0.7, 0.3)}, num_images=1000) == []
    assert attack_checks.inspect_lambdas({0.0: (0.8, 0.0)}, num_images=1000) == []
