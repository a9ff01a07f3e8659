"""Laws of the fifteen corruptions: chance comes from the generator, severity hurts, regimes mean something."""

import itertools
import subprocess
import sys

import cv2
import numpy as np
import pytest

from oat_runtime.errors import InputError
from oat_runtime.operating_point import Regime
from oat_runtime.stress.corruptions import (
    CORRUPTIONS,
    FITTING_KINDS,
    HELD_OUT_KINDS,
    corrupt,
    corrupt_batch,
)
from oat_runtime.stress.textures import ice_pane, plasma

KINDS = tuple(CORRUPTIONS)
WITHOUT_CHANCE = {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"}
LOW = {name for name in KINDS if CORRUPTIONS[name].regime is Regime.LOW_FREQUENCY}


def _scenes(count: int, *, side: int = 32) -> np.ndarray:
    """Coloured 1/f^1.3 fields with a box in front, uint8 NHWC: about the spectrum of photographs, with real edges."""
    rng = np.random.default_rng(7)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]) * side
    field = np.fft.irfft2(
        np.fft.rfft2(rng.normal(size=(count, 4, side, side))) / np.maximum(frequency, 1) ** 1.3, (side, side)
    )
    field /= field.std(axis=(2, 3), keepdims=True)
    scenes = (0.45 + 0.12 * field[:, 3:] + 0.07 * field[:, :3]).transpose(0, 2, 3, 1)
    for scene in scenes:
        top, left = rng.integers(4, side // 2, size=2)
        height, width = rng.integers(6, side // 2, size=2)
        scene[top : top + height, left : left + width] += rng.uniform(-0.35, 0.35, size=3)
    return np.rint(np.clip(scenes, 0, 1) * 255).astype(np.uint8)


SCENES = _scenes(48)


def _apply(name: str, severity: int, images: np.ndarray = SCENES) -> np.ndarray:
    return corrupt_batch(images, name, severity, rng=np.random.default_rng(3))


def _laplacian_energy(images: np.ndarray) -> float:
    return float(
        np.mean([cv2.Laplacian(cv2.cvtColor(i, cv2.COLOR_RGB2GRAY).astype(np.float32), -1).var() for i in images])
    )


def _mean_change(name: str, severity: int) -> float:
    return float(np.abs(_apply(name, severity).astype(np.float32) - SCENES).mean())


@pytest.mark.parametrize("name", KINDS)
def test_the_generator_is_the_only_source_of_chance(name: str) -> None:
    first, again, other = (corrupt(SCENES[0], name, 3, rng=np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert np.array_equal(first, again)
    assert np.array_equal(first, other) == (name in WITHOUT_CHANCE)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("shape", [(32, 32), (8, 8), (24, 50), (97, 61)])
def test_shape_and_type_are_kept_and_the_input_is_not_touched(name: str, shape: tuple[int, int]) -> None:
    image = _scenes(1, side=128)[0][: shape[0], : shape[1]]  # a view with foreign strides
    image.flags.writeable = False  # writing to it would raise
    before = image.copy()
    for severity in (1, 5):
        result = corrupt(image, name, severity, rng=np.random.default_rng(0))
        assert result.shape == image.shape
        assert result.dtype == np.uint8
        assert not np.shares_memory(result, image)
        assert np.array_equal(result, corrupt(before, name, severity, rng=np.random.default_rng(0)))
    assert np.array_equal(image, before)


@pytest.mark.parametrize("name", [name for name in KINDS if name not in ("elastic_transform", "frost", "glass_blur")])
def test_a_higher_severity_changes_more(name: str) -> None:
    # Motion blur 3 and 4 differ by a kernel's tail alone, so a step may also stand still within half a percent.
    changes = [_mean_change(name, severity) for severity in range(1, 6)]
    assert all(harder > 0.995 * easier for easier, harder in itertools.pairwise(changes)), changes
    assert changes[-1] > 1.2 * changes[0]


def test_glass_changes_more_with_each_further_round() -> None:
    # As published, severities 1..3 shuffle once and 4..5 twice; within a group only the smoothing differs.
    changes = [_mean_change("glass_blur", severity) for severity in range(1, 6)]
    assert min(changes[3:]) > 1.2 * max(changes[:3])


def test_frost_hides_more_of_the_image() -> None:
    # As published, severity 4 is darker than 3, so compare ice with image: the rest and the slope of a line fit.
    hidden = []
    for severity in range(1, 6):
        slope, rest, *_ = np.polyfit(SCENES.ravel() / 255.0, _apply("frost", severity).ravel() / 255.0, 1, full=True)
        hidden.append(float(rest[0]) ** 0.5 / slope[0])
    assert hidden == sorted(hidden)
    assert hidden[-1] > 1.5 * hidden[0]


def test_elastic_bends_lines_more() -> None:
    # As published, the affine part shrinks with severity while the bending grows: an affine map keeps a ramp a plane.
    side = 64
    ramp = np.repeat(np.tile(np.arange(side, dtype=np.uint8) * 4, (side, 1))[..., None], 3, axis=2)
    inner = slice(side // 4, 3 * side // 4)
    rows, columns = (axis[inner, inner].ravel() for axis in np.indices((side, side)))
    plane = np.stack([rows, columns, np.ones_like(rows)], axis=1)
    bending = []
    for severity in range(1, 6):
        rests = []
        for rng in np.random.default_rng(1).spawn(16):
            bent = corrupt(ramp, "elastic_transform", severity, rng=rng)[inner, inner, 0].ravel()
            rests.append(np.linalg.lstsq(plane, bent, rcond=None)[1][0])
        bending.append(float(np.mean(rests)))
    assert bending == sorted(bending)
    assert bending[-1] > 4 * bending[1]


@pytest.mark.parametrize("name", KINDS)
def test_the_regime_tells_where_the_change_lies(name: str) -> None:
    change = (_apply(name, 5).astype(np.float32) - SCENES).mean(axis=3)
    power = (np.abs(np.fft.fft2(change)) ** 2).sum(axis=0)
    frequency = np.hypot(np.fft.fftfreq(32)[:, None], np.fft.fftfreq(32)[None]) * 32
    share = power[frequency <= 4].sum() / power.sum()
    assert share > 0.65 if name in LOW else share < 0.5, share


@pytest.mark.parametrize(
    ("name", "raises"),
    [
        *((name, True) for name in ("gaussian_noise", "shot_noise", "impulse_noise", "glass_blur")),
        *((name, False) for name in ("defocus_blur", "motion_blur", "zoom_blur", "fog", "contrast")),
    ],
)
def test_noise_raises_and_blur_and_haze_lower_the_laplacian_energy(name: str, raises: bool) -> None:
    ratio = _laplacian_energy(_apply(name, 4)) / _laplacian_energy(SCENES)
    assert ratio > 1.2 if raises else ratio < 0.6


@pytest.mark.parametrize(
    "name",
    ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "contrast", "elastic_transform", "pixelate"],
)
def test_what_only_moves_or_mixes_pixels_leaves_a_flat_image_flat(name: str) -> None:
    flat = np.full((32, 32, 3), (40, 130, 220), np.uint8)
    for severity in range(1, 6):
        assert np.array_equal(corrupt(flat, name, severity, rng=np.random.default_rng(0)), flat)


@pytest.mark.parametrize("severity", range(1, 6))
def test_the_strengths_are_the_published_ones(severity: int) -> None:
    rng = np.random.default_rng(0)
    grey = np.full((200, 200, 3), 128, np.uint8)
    ramp = np.tile(np.arange(256, dtype=np.uint8)[:, None, None], (1, 8, 3))

    def corrupted(name: str, image: np.ndarray = grey) -> np.ndarray:
        return corrupt(image, name, severity, rng=rng) / 255

    sigma = (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1]
    photons = (500, 250, 100, 75, 50)[severity - 1]
    impulses = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    shift = (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]
    slope = (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1]
    assert corrupted("gaussian_noise").std() == pytest.approx(sigma, rel=0.02)
    assert corrupted("shot_noise").std() == pytest.approx((128 / 255 / photons) ** 0.5, rel=0.02)
    assert np.mean(corrupted("impulse_noise") == 0) == pytest.approx(impulses / 2, rel=0.1)
    assert np.mean(corrupted("impulse_noise") == 1) == pytest.approx(impulses / 2, rel=0.1)
    assert corrupted("brightness").mean() == pytest.approx(128 / 255 + shift, abs=1 / 255)
    assert np.ptp(corrupted("contrast", ramp)) == pytest.approx(slope, abs=1 / 255)


def test_a_batch_is_its_images_in_order() -> None:
    rng = np.random.default_rng(11)
    one_by_one = np.stack([corrupt(image, "snow", 4, rng=rng) for image in SCENES[:5]])
    assert np.array_equal(corrupt_batch(SCENES[:5], "snow", 4, rng=np.random.default_rng(11)), one_by_one)
    assert corrupt_batch(SCENES[:0], "snow", 4, rng=rng).shape == (0, 32, 32, 3)


def test_the_kinds_are_split_in_two_halves_with_both_regimes_in_each() -> None:
    assert len(CORRUPTIONS) == 15
    assert set(FITTING_KINDS).isdisjoint(HELD_OUT_KINDS)
    assert set(FITTING_KINDS) | set(HELD_OUT_KINDS) == set(KINDS)
    for half in (FITTING_KINDS, HELD_OUT_KINDS):
        assert {CORRUPTIONS[name].regime for name in half} == {Regime.HIGH_FREQUENCY, Regime.LOW_FREQUENCY}
        assert len(half) in (7, 8)
        assert 2 <= sum(name in LOW for name in half) <= 3
    assert all(corruption.name == name for name, corruption in CORRUPTIONS.items())


@pytest.mark.parametrize(
    ("image", "name", "severity", "says"),
    [
        (SCENES[0], "rain", 1, "unknown corruption 'rain': choose one of gaussian_noise, shot_noise"),
        (SCENES[0], "fog", 0, r"severity must be a whole number from 1 \(mild\) to 5 \(strong\), got 0"),
        (SCENES[0], "fog", 6, "got 6"),
        (SCENES[0], "fog", 2.5, "got 2.5"),
        (SCENES[0], "fog", True, "got True"),
        (SCENES[0].astype(np.float32), "fog", 1, "must be a uint8 array.*got float32: scale"),
        (SCENES[0].tolist(), "fog", 1, "got list"),
        (SCENES[0][..., 0], "fog", 1, "HxWx3"),
        (SCENES[0][:7], "elastic_transform", 1, r"at least 8x8 pixels, got shape \(7, 32, 3\)"),
        (SCENES, "fog", 1, "use corrupt_batch"),
    ],
)
def test_bad_input_is_refused_with_a_remedy(image: np.ndarray, name: str, severity: int, says: str) -> None:
    with pytest.raises(InputError, match=says):
        corrupt(image, name, severity, rng=np.random.default_rng(0))


def test_a_bad_batch_is_refused_even_when_empty() -> None:
    with pytest.raises(InputError, match="use corrupt for one image"):
        corrupt_batch(SCENES[0], "fog", 1, rng=np.random.default_rng(0))
    with pytest.raises(InputError, match="unknown corruption"):
        corrupt_batch(SCENES[:0], "rain", 1, rng=np.random.default_rng(0))


def test_a_numpy_integer_is_a_severity() -> None:
    for severity in np.arange(1, 6):
        corrupt(SCENES[0], "contrast", severity, rng=np.random.default_rng(0))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("value", [0, 255])
def test_black_and_white_images_survive_every_kind(name: str, value: int) -> None:
    image = np.full((32, 32, 3), value, np.uint8)
    for severity in (1, 5):
        assert corrupt(image, name, severity, rng=np.random.default_rng(0)).shape == image.shape


@pytest.mark.parametrize("side", [8, 32, 40])
def test_plasma_fills_the_unit_range_on_a_torus(side: int) -> None:
    cloud = plasma(side, decay=3, rng=np.random.default_rng(0))
    assert cloud.shape[0] == cloud.shape[1] >= side
    assert (cloud.min(), cloud.max()) == (0, 1)
    steps = np.abs(np.diff(cloud, axis=0, append=cloud[:1]))
    assert steps[-1].mean() < 2 * steps[:-1].mean()  # the seam is no worse than the inside


def test_ice_is_a_bluish_pane_in_range() -> None:
    pane = ice_pane(32, 48, rng=np.random.default_rng(0))
    assert pane.shape == (32, 48, 3)
    assert pane.min() >= 0 and pane.max() <= 1
    assert np.all(pane[..., 0] <= pane[..., 2])
    assert pane[..., 2].std() > 0.1


def test_corruptions_load_without_torch() -> None:
    code = "import sys, oat_runtime.stress.corruptions, oat_runtime.image; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
