"""The attacker stays within ε on bytes, and repeats itself."""

import numpy as np
import pytest

pytest.importorskip("torch")
from oat_perception.replay.attacker import PGD10, Attacker

from oat_runtime.architecture import InputSpec
from oat_runtime.bundle import Bundle
from oat_runtime.errors import InputError
from oat_runtime.image import enlarged
from oat_runtime.operating_point import OperatingPoint
from oat_runtime.runtime import OATRuntime
from tests.conftest import make_tiny_bundle

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


BOXES_N4 = np.array([[3, 5, 43, 45], [30, 20, 75, 60], [90, 4, 110, 60]])  # the first two overlap
LABELS_N = np.array([1, 2, 3])


@pytest.fixture(scope="module", params=[None, 0.1], ids=["as they are", "with a margin"])
def on_boxes(request, tmp_path_factory):
    """(bundle, attacker) of a network that takes regions, and enlarges them or not."""
    spec = InputSpec(height=32, width=32, region_margin=request.param)
    path = make_tiny_bundle(tmp_path_factory.mktemp("boxes") / "tiny", spec)
    return path, Attacker(path)


def _frame() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (80, 120, 3), np.uint8)


def test_an_attack_on_regions_changes_what_they_show_within_epsilon_and_nothing_else(on_boxes):
    bundle, attacker = on_boxes
    clean_HWC = _frame()
    attacked_HWC = attacker.attack_regions(clean_HWC, BOXES_N4, LABELS_N, point=MOST, seed=1)
    change_HW = np.abs(attacked_HWC.astype(int) - clean_HWC).max(axis=2)
    assert change_HW.max() == EPSILON_LEVELS
    shown_HW = np.zeros((80, 120), bool)
    for box in BOXES_N4.tolist():
        left, top, right, bottom = enlarged(tuple(box), height=80, width=120, spec=Bundle.load(bundle).input)
        shown_HW[top:bottom, left:right] = True
    assert not change_HW[~shown_HW].any()
    assert all((change_HW[top:bottom, left:right] > 0).mean() > 0.5 for left, top, right, bottom in BOXES_N4.tolist())
    assert np.array_equal(clean_HWC, _frame())


def test_the_deployed_network_is_less_sure_of_every_attacked_region(on_boxes):
    """Through the bytes and the resampling of the runtime; random pixels within ε do far less."""
    bundle, attacker = on_boxes
    runtime = OATRuntime.load(bundle, backend="torch", num_threads=1)
    runtime.prepare([MOST])

    def of_truth(frame_HWC: np.ndarray) -> np.ndarray:
        answers = runtime.predict_regions(frame_HWC, BOXES_N4, at=MOST)
        return np.array([answer.probabilities_K[label] for answer, label in zip(answers, LABELS_N, strict=True)])

    clean_HWC = _frame()
    noise_HWC = np.random.default_rng(3).choice([-EPSILON_LEVELS, EPSILON_LEVELS], clean_HWC.shape)
    noisy_HWC = np.clip(clean_HWC + noise_HWC, 0, 255).astype(np.uint8)
    attacked = of_truth(attacker.attack_regions(clean_HWC, BOXES_N4, LABELS_N, point=MOST, seed=1))
    random = of_truth(noisy_HWC)
    runtime.close()
    assert (attacked < random).all() and attacked.sum() < 0.9 * random.sum(), (attacked, random)


def test_regions_are_attacked_the_same_way_again_and_no_regions_not_at_all(on_boxes):
    _, attacker = on_boxes
    first, again, other = (
        attacker.attack_regions(_frame(), BOXES_N4, LABELS_N, point=MOST, seed=seed) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    nothing = attacker.attack_regions(_frame(), BOXES_N4[:0], LABELS_N[:0], point=MOST, seed=1)
    assert np.array_equal(nothing, _frame())
