"""The attacker stays within ε on bytes, and repeats itself."""

import numpy as np
import pytest

pytest.importorskip("torch")
from oat_perception.replay.attacker import PGD10

from oat_runtime.errors import InputError
from oat_runtime.operating_point import OperatingPoint

LEAST, MOST = OperatingPoint(0.0, 1.0), OperatingPoint(1.0, 1.0)
EPSILON_LEVELS = 8


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
