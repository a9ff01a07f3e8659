"""Laws of counting: outcomes are those by hand, in the order of the set, and the same every time."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oat_runtime.data import ImageSet
from oat_runtime.operating_point import AttackSpec, Proportion
from oat_runtime.stress.corruptions import CORRUPTIONS
from training.augment import to_unit
from training.evaluation.counting import ATTACKS, corrupted_sets, first_of, outcomes_of, proportion

Patches = Callable[..., ImageSet]


def by_brightness(x_NCHW: Tensor) -> Tensor:
    """Class 9 for the brightest, 0 for the darkest images."""
    level_N = (x_NCHW.mean(dim=(1, 2, 3)) * 10).clamp(0, 9).long()
    return nn.functional.one_hot(level_N, 10).float()


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 10))


@pytest.mark.parametrize("batch_size", [1, 7, 20, 1000])
def test_clean_counts_are_those_by_hand_at_any_batch_size(patches: Patches, batch_size: int) -> None:
    data = patches(20)
    data = ImageSet(data.images_NHWC, np.full(20, 4), data.class_names, "all of class 4")
    by_hand = [
        min(9, int(image.astype(np.float64).mean() / 25.5)) == label
        for image, label in zip(data.images_NHWC, data.labels_N, strict=True)
    ]
    correct_N = outcomes_of(by_brightness, data, attack=None, batch_size=batch_size)
    assert correct_N.tolist() == by_hand
    assert proportion(correct_N) == Proportion(sum(by_hand), 20)
    assert 0 < sum(by_hand) < 20


@pytest.mark.parametrize(("asked", "got"), [(3, 3), (4, 4), (5, 4)])
def test_fewer_images_than_asked_for_are_all_counted_and_it_is_said(
    patches: Patches, capsys: pytest.CaptureFixture[str], asked: int, got: int
) -> None:
    assert len(first_of(patches(4), asked, "--attacked")) == got
    said = "holds 4 images, and --attacked is 5: all of them count"
    assert (said in capsys.readouterr().err) is (got < asked)


def two_classes(num: int = 60) -> tuple[nn.Module, ImageSet]:
    """A hyperplane, and images on its right side, some of them within reach of the attack."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    images = np.random.default_rng(0).integers(40, 216, (num, 4, 4, 3), dtype=np.uint8)
    with torch.no_grad():
        logits = net(to_unit(torch.from_numpy(images)))
        net[1].bias[0] += (logits[:, 1] - logits[:, 0]).median()  # half of the images on each side
        labels = net(to_unit(torch.from_numpy(images))).argmax(dim=1).numpy()
    return net, ImageSet(images, labels, ("a", "b"), "two classes")


@pytest.mark.parametrize("attack", ["fgsm", "pgd-20"])
def test_attacked_counts_are_those_of_the_known_optimum(attack: str) -> None:
    net, data = two_classes()
    weight_C = (net[1].weight[1] - net[1].weight[0]).detach()
    with torch.no_grad():
        logits = net(to_unit(torch.from_numpy(data.images_NHWC)))
    margin_N = (logits[:, 1] - logits[:, 0]).abs()
    survives_N = margin_N > 8 / 255 * weight_C.abs().sum()  # no pixel is near 0 or 1, so the whole ball counts
    correct_N = outcomes_of(net, data, attack=ATTACKS[attack])
    assert 5 < correct_N.sum() < 55
    assert correct_N.tolist() == survives_N.tolist()
    assert outcomes_of(net, data, attack=None).all()


def test_the_same_attack_gives_the_same_outcomes(patches: Patches) -> None:
    net, data = linear(), patches(40)
    attack = AttackSpec(name="pgd-2", epsilon=8 / 255, step_size=1 / 255, num_steps=2, seed=3)
    outcomes = [outcomes_of(net, data, attack=attack, batch_size=16).tolist() for _ in range(2)]
    assert outcomes[0] == outcomes[1]


def test_fgsm_starts_at_the_image() -> None:
    starts: list[Tensor] = []

    def note(x_NCHW: Tensor) -> Tensor:
        starts.append(x_NCHW.detach().clone())
        return net(x_NCHW)

    net, data = two_classes(8)
    outcomes_of(note, data, attack=ATTACKS["fgsm"])
    assert torch.equal(starts[0], to_unit(torch.from_numpy(data.images_NHWC)))
    starts.clear()
    outcomes_of(note, data, attack=ATTACKS["pgd-7"])
    assert not torch.equal(starts[0], to_unit(torch.from_numpy(data.images_NHWC)))


def test_corrupted_pixels_are_the_same_every_time_and_labels_stay(patches: Patches) -> None:
    data = patches(4, size=16)
    kinds = tuple(CORRUPTIONS)[:4]
    once, again = (list(corrupted_sets(data, kinds, (2,))) for _ in range(2))
    alone = list(corrupted_sets(data, kinds[2:3], (2,)))
    assert [images.name for _, _, images in once] == [f"{kind}-2" for kind in kinds]
    for (_, _, first_set), (_, _, second_set) in zip(once, again, strict=True):
        np.testing.assert_array_equal(first_set.images_NHWC, second_set.images_NHWC)
        np.testing.assert_array_equal(first_set.labels_N, data.labels_N)
        assert not np.array_equal(first_set.images_NHWC, data.images_NHWC)
    np.testing.assert_array_equal(alone[0][2].images_NHWC, once[2][2].images_NHWC)
