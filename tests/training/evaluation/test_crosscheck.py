"""The Adversarial Robustness Toolbox's Auto-PGD and ours leave about the same images standing."""

import numpy as np
import pytest
import torch
from torch import nn

from oat_runtime.data import ImageSet
from training.augment import to_unit
from training.evaluation.counting import ATTACKS, outcomes_of
from training.evaluation.suites.crosscheck import art_apgd

pytestmark = pytest.mark.slow


@pytest.mark.filterwarnings("ignore")
def test_a_third_party_agrees_with_our_auto_pgd() -> None:
    pytest.importorskip("art")
    torch.manual_seed(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.Tanh(), nn.Linear(32, 6, bias=False))
    with torch.no_grad():
        net[1].weight.mul_(3.0)
        net[1].bias.copy_(-0.5 * net[1].weight.sum(dim=1))
    net.eval().requires_grad_(False)
    images = np.random.default_rng(0).integers(0, 256, (200, 4, 4, 3), dtype=np.uint8)
    with torch.no_grad():
        labels_N = net(to_unit(torch.from_numpy(images))).argmax(dim=1).numpy()
    data = ImageSet(images, labels_N, tuple("abcdef"), "random")
    attack = ATTACKS["apgd-ce"].model_copy(update={"num_steps": 20})
    ours_N, theirs_N = outcomes_of(net, data, attack=attack), art_apgd(net, data, attack=attack)
    assert 20 < ours_N.sum() < 180
    assert abs(float(ours_N.mean() - theirs_N.mean())) <= 0.02
    assert (ours_N == theirs_N).mean() > 0.97
