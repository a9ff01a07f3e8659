"""Laws of augmentation: in range, one draw an image, off when it is off, the same from the same seed."""

import numpy as np
import pytest
import torch

from oat_runtime.data import SOURCES
from training.augment import augmented, crop_and_flip, cutout, jitter, to_unit
from training.config import TrainConfig


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(num: int = 40, side: int = 16) -> torch.Tensor:
    return torch.randint(256, (num, side, side, 3), generator=generator(9), dtype=torch.uint8)


def random_images(num: int, size: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (num, size, size, 3), dtype=np.uint8))


def test_unit_images_keep_every_value() -> None:
    images = random_images(2, 8)
    x_NCHW = to_unit(images)
    assert (x_NCHW.shape, x_NCHW.dtype) == ((2, 3, 8, 8), torch.float32)
    assert torch.equal((x_NCHW * 255).round().to(torch.uint8).permute(0, 2, 3, 1), images)


def test_every_augmented_image_is_a_window_of_its_padded_original_or_of_its_mirror_image() -> None:
    num, size, padding = 40, 6, 2
    images = random_images(num, size)
    out = crop_and_flip(images, padding=padding, generator=generator())
    assert (out.shape, out.dtype) == (images.shape, images.dtype)
    assert torch.equal(images, random_images(num, size))
    padded = np.pad(images.numpy(), ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    found = []
    for n in range(num):
        windows = {
            (top, left, flip): padded[n, top : top + size, left : left + size][:, :: -1 if flip else 1]
            for top in range(2 * padding + 1)
            for left in range(2 * padding + 1)
            for flip in (False, True)
        }
        found.append([key for key, window in windows.items() if np.array_equal(window, out[n].numpy())])
    assert all(len(keys) == 1 for keys in found)
    tops, lefts, flips = (set(values) for values in zip(*(keys[0] for keys in found), strict=True))
    assert tops == lefts == set(range(2 * padding + 1))
    assert flips == {False, True}
    assert any(keys[0][0] != keys[0][1] for keys in found)  # rows and columns are drawn apart


def test_augmentation_follows_the_seed() -> None:
    images = random_images(8, 6)
    first = crop_and_flip(images, padding=2, generator=generator(1))
    torch.manual_seed(77)
    assert torch.equal(crop_and_flip(images, padding=2, generator=generator(1)), first)
    assert not torch.equal(crop_and_flip(images, padding=2, generator=generator(2)), first)


def test_a_mirror_image_is_drawn_only_where_it_keeps_the_class() -> None:
    images = random_images(30, 6)
    straight = crop_and_flip(images, padding=0, generator=generator(1), mirror=False)
    assert torch.equal(straight, images)
    flipped = crop_and_flip(images, padding=0, generator=generator(1))
    assert not torch.equal(flipped, images)
    assert not SOURCES["svhn"].mirrors and not SOURCES["gtsrb"].mirrors and SOURCES["cifar10"].mirrors


def test_everything_stays_in_range_and_follows_the_seed() -> None:
    config = TrainConfig(jitter=0.4, cutout=5)
    first = augmented(images(), config, mirror=True, generator=generator(1))
    assert first.shape == (40, 3, 16, 16)
    assert first.min() >= 0.0 and first.max() <= 1.0
    assert torch.equal(augmented(images(), config, mirror=True, generator=generator(1)), first)
    assert not torch.equal(augmented(images(), config, mirror=True, generator=generator(2)), first)


def test_a_crop_moves_by_an_eighth_at_most_and_without_mirror_nothing_is_flipped() -> None:
    out = augmented(images(), TrainConfig(), mirror=False, generator=generator(1))
    padded = torch.nn.functional.pad(to_unit(images()), (2, 2, 2, 2))
    for image, source in zip(out, padded, strict=True):
        windows = [source[:, r : r + 16, c : c + 16] for r in range(5) for c in range(5)]
        assert any(torch.equal(image, window) for window in windows)


@pytest.mark.parametrize("size", [1, 5, 16])
def test_cutout_greys_a_square_of_its_size_and_nothing_else(size: int) -> None:
    x_NCHW = 0.1 * torch.rand(4000, 3, 16, 16, generator=generator(3))
    out = cutout(x_NCHW, size, generator=generator(4))
    grey = (out == 0.5).all(dim=1)
    assert torch.equal(out[~grey[:, None].expand_as(out)], x_NCHW[~grey[:, None].expand_as(out)])
    for mask in grey:
        rows, columns = mask.any(dim=1).sum(), mask.any(dim=0).sum()
        assert mask.sum() == rows * columns  # a rectangle
        assert max(rows, columns) <= size
    assert grey.flatten(1).sum(dim=1).max() == size * size or size == 16
    assert grey.any(dim=0).all()  # anywhere


def test_jitter_scales_brightness_and_contrast_within_its_strength() -> None:
    x_NCHW = 0.4 + 0.2 * torch.rand(300, 3, 8, 8, generator=generator(5))
    out = jitter(x_NCHW, 0.3, generator=generator(6))
    brightness = out.mean(dim=(1, 2, 3)) / x_NCHW.mean(dim=(1, 2, 3))
    contrast = out.std(dim=(1, 2, 3)) / x_NCHW.std(dim=(1, 2, 3)) / brightness
    for factor in (brightness, contrast):
        assert 0.699 < factor.min() < 0.75
        assert 1.25 < factor.max() < 1.301
    assert torch.corrcoef(torch.stack([brightness, contrast]))[0, 1].abs() < 0.2
