"""A bad value is a state, never a number."""

import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oat_runtime.errors import InputError
from oat_runtime.operating_point import OperatingPoint
from policy.image import UNUSABLE, image_statistics
from policy.signals import NetworkSignals, Override, Reading, SignalState, image_state, network_signals, opposite


@pytest.mark.parametrize(
    ("value", "age_s", "expected"),
    [
        (0.5, 0.1, SignalState.OK),
        (0.0, 2.0, SignalState.OK),
        (1.0, 0.0, SignalState.OK),
        (None, 0.0, SignalState.MISSING),
        (0.5, 2.1, SignalState.STALE),
        (0.5, math.nan, SignalState.STALE),
        (0.5, math.inf, SignalState.STALE),
        (0.5, -0.1, SignalState.CLOCK_REGRESSED),
        (math.nan, 0.1, SignalState.INVALID),
        (math.inf, 0.1, SignalState.INVALID),
        (87.0, 0.1, SignalState.INVALID),
        (-0.01, 0.1, SignalState.INVALID),
    ],
)
def test_reading_states(value: float | None, age_s: float, expected: SignalState) -> None:
    assert Reading(value, age_s, "topic").state(low=0.0, high=1.0, max_age_s=2.0) is expected


@given(value=st.none() | st.floats(), age_s=st.floats())
def test_ok_means_a_fresh_number_in_range(value: float | None, age_s: float) -> None:
    state = Reading(value, age_s).state(low=0.0, high=1.0, max_age_s=2.0)
    fresh = value is not None and math.isfinite(value) and 0 <= value <= 1 and 0 <= age_s <= 2
    assert (state is SignalState.OK) == fresh


def test_nan_confidence_of_the_network_is_invalid() -> None:
    signals = NetworkSignals(OperatingPoint(0.0, 1.0), confidence=math.nan)
    assert signals.state(max_age_s=1.0) is SignalState.INVALID


def test_override_with_expiry_ends_and_does_not_hold_at_an_unknown_time() -> None:
    override = Override(0.8, expires_s=10.0)
    assert override.active(9.99)
    assert not override.active(10.0)
    assert not override.active(math.nan)
    assert Override(0.8).active(math.nan)


def _scene() -> np.ndarray:
    """Smooth blobs with a few edges, dark enough that haze can brighten them."""
    rng = np.random.default_rng(0)
    coarse = rng.random((5, 5, 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (32, 32), interpolation=cv2.INTER_CUBIC) * 0.7
    cv2.circle(smooth, (16, 16), 7, (0.6, 0.2, 0.1), -1)
    return np.ascontiguousarray(np.clip(smooth, 0, 1).transpose(2, 0, 1))


def test_statistics_follow_what_they_are_named_after() -> None:
    x_CHW = _scene()
    clean = image_statistics(x_CHW)
    noise = np.random.default_rng(1).normal(0, 0.08, x_CHW.shape).astype(np.float32)
    noisy = image_statistics(np.clip(x_CHW + noise, 0, 1))
    blurred = image_statistics(np.stack([cv2.GaussianBlur(plane, (0, 0), 1.0) for plane in x_CHW]))
    foggy = image_statistics(0.4 * x_CHW + np.float32(0.5))
    assert noisy.log_luma_noise > clean.log_luma_noise + 1
    assert noisy.log_chroma_noise > clean.log_chroma_noise + 1
    assert blurred.log_sharpness < clean.log_sharpness
    assert foggy.black_point > clean.black_point
    assert foggy.haze > clean.haze
    assert foggy.log_contrast < clean.log_contrast
    assert foggy.log_saturation < clean.log_saturation


def test_mirroring_the_scene_changes_no_statistic_and_the_input_is_left_alone() -> None:
    x_CHW = _scene()
    before = x_CHW.copy()
    mirrored = image_statistics(np.ascontiguousarray(x_CHW[:, :, ::-1]))
    assert image_statistics(x_CHW) == pytest.approx(mirrored, abs=1e-5)
    assert np.array_equal(x_CHW, before)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.1, 1.1])
def test_one_bad_pixel_makes_the_frame_invalid(bad: float) -> None:
    x_CHW = _scene()
    x_CHW[1, 4, 7] = bad
    stats = image_statistics(x_CHW)
    assert stats is UNUSABLE
    assert image_state(stats) is SignalState.INVALID
    assert image_state(None) is SignalState.MISSING


@pytest.mark.parametrize("flat", [0.0, 0.5, 1.0])
def test_a_constant_image_has_finite_statistics(flat: float) -> None:
    assert image_state(image_statistics(np.full((3, 32, 32), flat, np.float32))) is SignalState.OK


@pytest.mark.parametrize(
    "x", [np.zeros((32, 32, 3), np.float32), np.zeros((3, 32, 32)), np.zeros((3, 8, 32), np.float32)]
)
def test_statistics_refuse_what_is_not_a_network_input(x: np.ndarray) -> None:
    with pytest.raises(InputError, match="expected a float32 RGB array"):
        image_statistics(x)


def test_network_signals_of_one_image_are_its_own_and_those_of_regions_are_median_and_share() -> None:
    point = OperatingPoint(0.0, 1.0)
    whole = network_signals([0.7], [3], [4], of_regions=False, point=point, latency_ms=2.0)
    assert whole == NetworkSignals(point, 0.7, True, 2.0, 0.0)
    assert type(whole.disagrees) is bool
    of_regions = network_signals([0.9, 0.2, 0.6], [1, 2, 3], [1, 0, 3], of_regions=True, point=point, latency_ms=None)
    assert (of_regions.confidence, of_regions.disagrees) == (0.6, 1 / 3)
    nothing = network_signals([], [], of_regions=True, point=point, latency_ms=2.0)
    assert (nothing.confidence, nothing.disagrees, nothing.latency_ms) == (None, None, 2.0)
    assert nothing.state(max_age_s=1.0) is SignalState.MISSING


def test_a_frame_without_regions_is_no_lost_image() -> None:
    assert image_state(None, num_regions=0) is SignalState.NOTHING
    assert image_state(None, num_regions=2) is SignalState.MISSING
    assert image_state(None) is SignalState.MISSING


@given(lambdas=st.lists(st.floats(0, 1), min_size=2, max_size=6, unique=True).map(sorted), data=st.data())
def test_a_probe_never_looks_with_the_lambda_that_it_doubts(lambdas: list[float], data: st.DataObject) -> None:
    """Regression: a network trained on λ up to 0.3 was probed at 0.3 there, so that no label ever changed."""
    lam = data.draw(st.sampled_from(lambdas))
    assert opposite(lam, tuple(lambdas)) in {lambdas[0], lambdas[-1]} - {lam}


def test_a_probe_of_the_whole_range_turns_at_the_middle() -> None:
    lambdas = (0.0, 0.1, 0.2, 0.3, 0.4, 1.0)
    assert [opposite(lam, lambdas) for lam in (0.0, 0.4, 0.49, 0.5, 1.0)] == [1.0, 1.0, 1.0, 0.0, 0.0]
