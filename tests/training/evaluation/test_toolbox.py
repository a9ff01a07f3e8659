"""The Adversarial Robustness Toolbox's attacks and ours leave about the same images standing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from oat_runtime.data import ImageSet
from training.augment import to_unit
from training.evaluation import cache
from training.evaluation.counting import ATTACKS, outcomes_of
from training.evaluation.suite import Job
from training.evaluation.suites import SUITES, autoattack
from training.evaluation.toolbox import art_apgd, art_autoattack

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
ATTACK = ATTACKS["apgd-ce"].model_copy(update={"num_steps": 20, "epsilon": 4 / 255})


@pytest.fixture
def curved() -> tuple[nn.Module, ImageSet]:
    """A small network that is not linear, and 200 images that it classifies correctly."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.Tanh(), nn.Linear(32, 6, bias=False))
    with torch.no_grad():
        net[1].weight.mul_(2.0)
        net[1].bias.copy_(-0.5 * net[1].weight.sum(dim=1))
    net.eval().requires_grad_(False)
    images = np.random.default_rng(0).integers(0, 256, (200, 8, 8, 3), dtype=np.uint8)
    with torch.no_grad():
        labels_N = net(to_unit(torch.from_numpy(images))).argmax(dim=1).numpy()
    return net, ImageSet(images, labels_N, tuple("abcdef"), "random")


def test_a_third_party_agrees_with_our_auto_pgd(curved: tuple[nn.Module, ImageSet]) -> None:
    net, data = curved
    ours_N, theirs_N = outcomes_of(net, data, attack=ATTACK), art_apgd(net, data, attack=ATTACK)
    assert 20 < ours_N.sum() < 180
    assert abs(float(ours_N.mean() - theirs_N.mean())) <= 0.02
    assert (ours_N == theirs_N).mean() > 0.97


def test_a_third_partys_autoattack_breaks_what_its_auto_pgd_breaks(curved: tuple[nn.Module, ImageSet]) -> None:
    net, data = curved
    weaker_N = art_apgd(net, data, attack=ATTACK)
    found_N = art_autoattack(net, data, attack=ATTACK, num_queries=20)
    assert 20 < found_N.sum() < weaker_N.sum() < 180
    assert not (found_N & ~weaker_N).any()


def test_a_third_partys_autoattack_takes_two_classes(curved: tuple[nn.Module, ImageSet]) -> None:
    """Regression: a loss that looks at the third largest logit ended in an IndexError, after our own attacks."""
    net, data = curved
    two = nn.Sequential(*net[:3], nn.Linear(32, 2, bias=False)).eval().requires_grad_(False)
    with torch.no_grad():
        labels_N = two(to_unit(torch.from_numpy(data.images_NHWC[:]))).argmax(dim=1).numpy()
    found_N = art_autoattack(
        two, replace(data, labels_N=labels_N, class_names=("a", "b")), attack=ATTACK, num_queries=3
    )
    assert 0 < found_N.sum() < 200


def test_the_suite_autoattack_goes_on_with_the_parts_that_it_kept(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "commit_of_code", lambda: 40 * "a")
    monkeypatch.setattr(autoattack, "_PART", 4)
    monkeypatch.setattr(autoattack, "_NUM_QUERIES", 3)
    small = replace(job, num_steps=2, cache_folder=tmp_path)
    found = SUITES["autoattack"].run(small)
    monkeypatch.setattr(autoattack, "art_autoattack", lambda *_, **__: pytest.fail("counted again"))
    assert SUITES["autoattack"].run(replace(small)) == found
    names = ["clean", "apgd-ce", "apgd-t", "autoattack, toolbox", "worst-case"]
    assert [row["condition"] for row in found.rows[:5]] == names
    assert {row["num_total"] for row in found.rows} == {6}
    assert found.checks[0].limit == 0.0
