"""An improbable class is not told, and a track's mean follows its images in bounded memory."""

from __future__ import annotations

import math

import numpy as np
import pytest
from oat_perception.core.answers import MAX_TRACKS, TrackMeans, is_unknown

from oat_runtime.operating_point import OperatingPoint
from oat_runtime.prediction import Prediction

NAMES = ("cat", "dog", "ship")


def prediction(*probabilities: float) -> Prediction:
    probabilities_K = np.array(probabilities, np.float32)
    label = int(probabilities_K.argmax())
    return Prediction(
        OperatingPoint(0.4, 0.75), label, NAMES[label], float(probabilities_K[label]), probabilities_K,
        np.zeros(3, np.float32), 0.0, 0.0,
    )  # fmt: skip


def test_a_class_is_told_from_the_least_confidence_on() -> None:
    seen = prediction(0.5, 0.25, 0.25)
    assert not is_unknown(seen, 0.0)
    assert not is_unknown(seen, 0.5)
    assert is_unknown(seen, 0.51)
    assert is_unknown(seen, 1.0)


def test_a_tracks_mean_weighs_each_image_by_its_age() -> None:
    means = TrackMeans(2.0, NAMES)
    images = [(0.0, (1.0, 0.0, 0.0)), (0.5, (0.0, 1.0, 0.0)), (3.0, (0.0, 0.2, 0.8)), (3.0, (0.6, 0.4, 0.0))]
    for number, (now_s, probabilities) in enumerate(images, start=1):
        (found,) = means.smoothed(["a"], [prediction(*probabilities)], now_s=now_s)
        weights = np.array([math.exp((at_s - now_s) / 2.0) for at_s, _ in images[:number]])
        expected = weights @ np.array([of for _, of in images[:number]]) / weights.sum()
        assert found is not None
        np.testing.assert_allclose(found.probabilities_K, expected, atol=1e-6)
        assert found.probabilities_K.dtype == np.float32
        assert found.probabilities_K.sum() == pytest.approx(1.0)
        assert found.label == int(found.probabilities_K.argmax())
        assert found.class_name == NAMES[found.label]
        assert found.confidence == found.probabilities_K[found.label]


def test_only_regions_that_one_id_names_are_smoothed() -> None:
    means = TrackMeans(10.0, NAMES)
    first, second = prediction(1.0, 0.0, 0.0), prediction(0.0, 1.0, 0.0)
    ids = ["", "twice", "twice", "once", "nothing"]
    means.smoothed(ids, [first, first, first, first, None], now_s=0.0)
    found = means.smoothed(ids, [second, second, second, second, None], now_s=0.1)
    assert found[:3] == (second, second, second)
    assert found[3] is not None and 0.4 < found[3].probabilities_K[0] < 0.6
    assert found[4] is None
    untouched = TrackMeans(0.0, NAMES)
    untouched.smoothed(["a"], [first], now_s=0.0)
    assert untouched.smoothed(["a"], [second], now_s=0.1) == (second,)


def test_a_track_that_was_gone_for_long_begins_anew_and_memory_is_bounded() -> None:
    means = TrackMeans(1.0, NAMES)
    means.smoothed(["a"], [prediction(1.0, 0.0, 0.0)], now_s=0.0)
    (found,) = means.smoothed(["a"], [prediction(0.0, 1.0, 0.0)], now_s=100.0)
    assert found is not None and found.probabilities_K[1] == 1.0
    for number in range(3 * MAX_TRACKS):
        means.smoothed([f"track {number}"], [prediction(1.0, 0.0, 0.0)], now_s=100.0)
    assert len(means._tracks) == MAX_TRACKS
