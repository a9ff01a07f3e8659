"""The attacker stays within ε on bytes, repeats itself, and the comparison attacks each fixed point anew."""

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")
from oat_perception.attacker import PGD10, Attacker
from oat_perception.comparison import fixed_answers
from oat_perception.treatment import disturb

from oat_runtime.data import ImageSet
from oat_runtime.errors import InputError
from oat_runtime.operating_point import OperatingPoint
from oat_runtime.runtime import OATRuntime

LEAST, MOST = OperatingPoint(0.0, 1.0), OperatingPoint(1.0, 1.0)
EPSILON_LEVELS = 8


@pytest.fixture(scope="module")
def attacker(tiny_bundle):
    return Attacker(tiny_bundle)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (6, 4, 4, 3), np.uint8)
    smooth = np.stack([cv2.resize(image, (32, 32), interpolation=cv2.INTER_CUBIC) for image in coarse])
    return ImageSet(smooth, rng.integers(0, 10, 6), (), "smooth")


def test_the_attack_is_what_it_is_called():
    assert (PGD10.epsilon, PGD10.num_steps) == (EPSILON_LEVELS / 255, 10)


def test_an_attacked_frame_stays_within_epsilon_and_leaves_its_input_alone(attacker, images):
    clean = images.images_NHWC[0].copy()
    attacked = attacker.attack(images.images_NHWC[0], int(images.labels_N[0]), point=MOST, seed=1)
    assert attacked.dtype == np.uint8 and attacked.shape == clean.shape
    assert np.abs(attacked.astype(int) - clean).max() == EPSILON_LEVELS
    assert np.array_equal(images.images_NHWC[0], clean)


def test_the_same_seed_and_point_give_the_same_frame_and_others_do_not(attacker, images):
    frame_HWC, label = images.images_NHWC[1], int(images.labels_N[1])
    first, again, other_seed, other_point = (
        attacker.attack(frame_HWC, label, point=point, seed=seed)
        for point, seed in ((MOST, 1), (MOST, 1), (MOST, 2), (LEAST, 1))
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other_seed)
    assert not np.array_equal(first, other_point)


def test_a_frame_that_would_be_resampled_is_refused(attacker):
    with pytest.raises(InputError, match="set frame_side_px"):
        attacker.attack(np.zeros((48, 64, 3), np.uint8), 0, point=MOST, seed=0)


def test_fixed_points_see_recorded_pixels_but_meet_an_attack_of_their_own(tmp_path, tiny_bundle, attacker, images):
    """Recorded attacks were made against λ=1; λ=0 must not be scored on those."""
    seed, truth = 5, []
    for number in range(6):
        corruption = "gaussian_noise" if number % 2 else "none"
        image = disturb(images.images_NHWC[number], corruption, 3, seed=seed, sequence=number)
        attacked = number >= 2
        if attacked:
            image = attacker.attack(image, int(images.labels_N[number]), point=MOST, seed=seed + number)
        cv2.imwrite(str(tmp_path / f"{number}.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        truth.append(
            {"sequence": number, "stamp_ns": number, "index": number, "label": int(images.labels_N[number]),
             "corruption": corruption, "severity": 3, "attack": "pgd-10" if attacked else "none",
             "file": f"{number}.png"}
        )  # fmt: skip
    seen: list[tuple[OperatingPoint, np.ndarray]] = []

    class Recorder(OATRuntime):
        def predict(self, frame_HWC, *, at=None):
            seen.append((at, frame_HWC))
            return super().predict(frame_HWC, at=at)

    runtime = Recorder.load(tiny_bundle, backend="torch", num_threads=1)
    answers = fixed_answers(
        truth, frames_dir=tmp_path, images=images, runtime=runtime, attacker=attacker, points=(LEAST, MOST), seed=seed,
        progress=lambda done: None,
    )  # fmt: skip
    runtime.close()
    assert [(a["stamp_ns"], a["lambda"]) for a in answers] == [(n, lam) for n in range(6) for lam in (0.0, 1.0)]
    for (point, frame), answer in zip(seen, answers, strict=True):
        recorded = cv2.cvtColor(cv2.imread(str(tmp_path / f"{answer['stamp_ns']}.png")), cv2.COLOR_BGR2RGB)
        same_pixels = truth[answer["stamp_ns"]]["attack"] == "none" or point == MOST
        assert np.array_equal(frame, recorded) == same_pixels
