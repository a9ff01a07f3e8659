"""Laws of augmentation: in range, one draw an image, off when it is off, the same from the same seed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from oat_runtime.data import SOURCES, ImageSet, load_dataset
from training.augment import augmented, blurred, crop_and_flip, cutout, jitter, noisy, to_unit, turned
from training.config import TrainConfig
from training.trainer import Trainer

Patches = Callable[..., ImageSet]


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
    out = crop_and_flip(images, padding=(padding, padding), generator=generator())
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
    first = crop_and_flip(images, padding=(2, 2), generator=generator(1))
    torch.manual_seed(77)
    assert torch.equal(crop_and_flip(images, padding=(2, 2), generator=generator(1)), first)
    assert not torch.equal(crop_and_flip(images, padding=(2, 2), generator=generator(2)), first)


def test_a_mirror_image_is_drawn_only_where_it_keeps_the_class() -> None:
    images = random_images(30, 6)
    straight = crop_and_flip(images, padding=(0, 0), generator=generator(1), mirror=False)
    assert torch.equal(straight, images)
    flipped = crop_and_flip(images, padding=(0, 0), generator=generator(1))
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


ALL_ON = {"rotation": 30.0, "scale": 0.2, "jitter": 0.3, "blur": 1.5, "noise": 0.1, "cutout": 5}


@pytest.mark.parametrize("name", sorted(ALL_ON))
def test_each_setting_stays_in_range_follows_the_seed_and_draws_for_each_image(name: str) -> None:
    config = TrainConfig.model_validate({name: ALL_ON[name]})
    one = images(1, 17).expand(30, -1, -1, -1)[:, :, :12]  # not square
    first = augmented(one, config, mirror=False, generator=generator(1))
    assert first.shape == (30, 3, 17, 12) and first.dtype == torch.float32
    assert first.min() >= 0.0 and first.max() <= 1.0
    assert torch.equal(augmented(one, config, mirror=False, generator=generator(1)), first)
    off = augmented(one, TrainConfig(), mirror=False, generator=generator(1))
    assert not torch.equal(off, first)
    # The crop is drawn first, so it is the same: what differs is the setting's, and from image to image.
    assert len({round(float(change), 6) for change in (first - off).abs().mean(dim=(1, 2, 3))}) > 20


def test_what_is_off_draws_nothing() -> None:
    """A run without the new settings is the same to the bit as before there were any."""
    ahead, behind = generator(1), generator(1)
    augmented(images(), TrainConfig(), mirror=True, generator=ahead)
    crop_and_flip(images(), padding=(2, 2), generator=behind)
    assert torch.equal(ahead.get_state(), behind.get_state())


def test_a_quarter_turn_and_a_scale_put_pixels_where_they_belong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda *shape, generator: torch.ones(shape))  # the largest of each draw
    x_NCHW = to_unit(images(3, 9))
    quarter = turned(x_NCHW, degrees=90.0, scale=0.0, generator=generator())
    turns = [torch.rot90(x_NCHW, k, dims=(2, 3)) for k in (1, 3)]
    assert min(float((quarter - turn).abs().max()) for turn in turns) < 1e-4
    bar = torch.zeros(1, 3, 12, 32)
    bar[:, :, 5:7, 12:20] = 1.0  # 2 x 8 in an image that is not square
    assert turned(bar, degrees=90.0, scale=0.0, generator=generator()).sum() == pytest.approx(48.0, rel=0.01)
    assert turned(bar, degrees=0.0, scale=0.5, generator=generator()).sum() == pytest.approx(48 * 2.25, rel=0.1)


def test_turning_by_nothing_blurring_by_nothing_and_noise_of_nothing_change_nothing() -> None:
    x_NCHW = to_unit(images())
    same = turned(x_NCHW, degrees=1e-9, scale=0.0, generator=generator())
    torch.testing.assert_close(same, x_NCHW, atol=1e-5, rtol=0)
    torch.testing.assert_close(blurred(x_NCHW, 1e-9, generator=generator()), x_NCHW)
    torch.testing.assert_close(noisy(x_NCHW, 1e-9, generator=generator()), x_NCHW)


def test_blur_keeps_an_even_image_and_takes_contrast_from_any_other() -> None:
    even = torch.full((4, 3, 10, 7), 0.3)
    torch.testing.assert_close(blurred(even, 3.0, generator=generator()), even)
    x_NCHW = to_unit(images())
    out = blurred(x_NCHW, 3.0, generator=generator())
    share_N = out.std(dim=(1, 2, 3)) / x_NCHW.std(dim=(1, 2, 3))  # a draw of nearly 0 leaves all of it
    assert share_N.max() < 1.0 + 1e-6 and share_N.median() < 0.5
    torch.testing.assert_close(out.mean(), x_NCHW.mean(), atol=0.01, rtol=0)


def test_noise_has_the_deviations_up_to_its_setting() -> None:
    grey = torch.full((400, 3, 16, 16), 0.5)
    deviation_N = (noisy(grey, 0.1, generator=generator()) - grey).std(dim=(1, 2, 3))
    assert deviation_N.max() < 0.106
    assert deviation_N.mean() == pytest.approx(0.05, abs=0.006)


def test_a_folder_is_mirrored_only_when_asked_for(tmp_path: Path) -> None:
    """Regression: arrows to the left and to the right were mirrored into each other without a word."""
    rng = np.random.default_rng(0)
    for name in ("left", "right"):
        (tmp_path / name).mkdir()
        for index in range(40):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{index}.png")
    data = load_dataset(str(tmp_path), "train")
    base = TrainConfig(batch_size=16)
    assert [Trainer(base.model_copy(update={"mirror": asked}), data).mirror for asked in (None, False, True)] == [
        False,
        False,
        True,
    ]


def test_a_set_whose_mirror_images_keep_their_class_is_mirrored_unless_forbidden(patches: Patches) -> None:
    base = TrainConfig(batch_size=16)
    assert [Trainer(base.model_copy(update={"mirror": asked}), patches(20)).mirror for asked in (None, False)] == [
        True,
        False,
    ]
