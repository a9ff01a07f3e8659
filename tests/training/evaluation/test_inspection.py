"""Laws of what is measured inside a network: calibration, cost, statistics and saliency are those by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from training.evaluation import inspection
from training.evaluation.counting import ATTACKS
from training.evaluation.suite import Job
from training.evaluation.suites.calibration import reliability


@pytest.mark.parametrize("scale", [0.25, 1.0, 4.0])
def test_the_calibration_error_is_that_by_hand(scale: float) -> None:
    torch.manual_seed(0)
    logits, y_N = scale * 3 * torch.randn(400, 4), torch.randint(4, (400,))
    found = reliability(logits, y_N, num_bins=10)
    confidence, predicted = torch.softmax(logits.double(), dim=1).max(dim=1)
    by_hand = 0.0
    for low in range(10):
        chosen = (confidence >= low / 10) & (confidence < (low + 1) / 10 if low < 9 else confidence <= 1)
        if chosen.any():
            right = (predicted[chosen] == y_N[chosen]).double().mean()
            by_hand += float(chosen.double().mean() * (right - confidence[chosen].mean()).abs())
    assert found.error == pytest.approx(by_hand, abs=1e-9)
    assert sum(found.share_B) == pytest.approx(1.0)


def test_a_network_that_knows_its_chances_is_calibrated() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 3, generator=generator)
    drawn = torch.multinomial(torch.softmax(logits, dim=1), 1, generator=generator)[:, 0]
    assert reliability(logits, drawn).error < 0.015
    assert reliability(logits, drawn, temperature=0.3).error > 0.1


def test_multiply_adds_are_those_by_hand(job: Job) -> None:
    found = inspection.cost(job.judged.model, width=1.0, height=8, columns=8)
    convolutions = 64 * 3 * 16 * 9  # the stem
    for inputs, outputs, pixels in ((16, 16, 64), (16, 32, 16), (32, 64, 4)):
        convolutions += pixels * 9 * (inputs * outputs + outputs * outputs)
        convolutions += pixels * inputs * outputs * (inputs != outputs)
    assert found.convolutions == convolutions + 64 * 10
    assert found.convolutions < found.folded < 1.2 * found.convolutions
    sites = [(16, 64), (16, 64), (16, 64), (32, 16), (32, 16), (64, 4), (64, 4)]
    assert found.norms == sum(channels * pixels for channels, pixels in sites)
    assert found.film == found.norms + sum(2 * channels * (128 + channels) for channels, _ in sites)
    narrow = inspection.cost(job.judged.model, width=0.5, height=8, columns=8)
    assert narrow.folded < 0.4 * found.folded and narrow.parameters < 0.4 * found.parameters


def test_norm_statistics_are_those_of_the_values_that_enter(job: Job) -> None:
    x_NCHW, y_N = next(job.batches())
    model = job.judged.model
    found = inspection.norm_statistics(model, x_NCHW, y_N, lambdas=(0.0, 1.0), width=1.0, attack=ATTACKS["pgd-7"])
    assert [(s.lam, s.images) for s in found] == [(0.0, "clean"), (1.0, "clean"), (1.0, "mixed")]
    assert all(len(s.mean_C) == 64 and (s.var_C >= 0).all() for s in found)
    assert not np.allclose(found[1].mean_C, found[2].mean_C, atol=1e-6)  # adversarial images differ
    assert model.final_norm is not None and not model.final_norm._forward_pre_hooks


def test_alignment_is_one_for_the_image_itself_and_ignores_scale_sign_and_brightness() -> None:
    x_NCHW = torch.rand(5, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    centred = x_NCHW - x_NCHW.mean(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(inspection.alignment(-7.0 * centred, x_NCHW + 0.2), torch.ones(5))
    noise = torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    assert inspection.alignment(noise, x_NCHW).max() < 0.5


def test_saliency_is_the_slope_of_the_loss() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double().requires_grad_(False)
    x_NCHW, y_N = torch.rand(2, 3, 2, 2, dtype=torch.float64), torch.tensor([0, 2])
    slope = inspection.saliency(net, x_NCHW, y_N)
    moved = x_NCHW.clone()
    moved[1, 2, 0, 1] += 1e-6
    before, after = (nn.functional.cross_entropy(net(x), y_N, reduction="sum") for x in (x_NCHW, moved))
    assert float((after - before) / 1e-6) == pytest.approx(float(slope[1, 2, 0, 1]), abs=1e-5)
