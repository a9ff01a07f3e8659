"""Laws of paired differences: they count images that only one network gets right, and their intervals hold."""

import numpy as np
import pytest

from oat_runtime.operating_point import OperatingPoint
from training.evaluation.paired import Difference, differences_checks


def test_a_made_up_case() -> None:
    """100 images: both right on 80, only the first on 3, only the second on 7, neither on 10."""
    first_N = np.repeat([True, True, False, False], [80, 3, 7, 10])
    second_N = np.repeat([True, False, True, False], [80, 3, 7, 10])
    found = Difference.of(first_N, second_N)
    assert (found.mean, found.num_total) == (-4.0, 100)
    # Agresti and Min: b = 3.5, c = 7.5, n = 102.
    centre, half = -4 / 102, 1.96 * np.sqrt(11 - 16 / 102) / 102
    assert found.low == pytest.approx(100 * (centre - half)) and found.high == pytest.approx(100 * (centre + half))
    back = Difference.of(second_N, first_N)
    assert (back.mean, back.low) == pytest.approx((4.0, -found.high))
    assert str(found).startswith("-4.00 (-10.25 to ")


def test_answers_that_are_alike_still_have_an_interval() -> None:
    alike_N = np.ones(1000, np.bool_)
    found = Difference.of(alike_N, alike_N)
    assert found.mean == 0.0 and found.low == pytest.approx(-found.high) and found.high > 0.1


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng, covered = np.random.default_rng(0), 0
    for _ in range(500):
        kinds_N = rng.choice(4, 300, p=[0.6, 0.02, 0.05, 0.33])
        found = Difference.of(np.isin(kinds_N, (0, 1)), np.isin(kinds_N, (0, 2)))
        covered += found.low <= -3.0 <= found.high
    assert 0.92 <= covered / 500 <= 0.99


def test_outcomes_of_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match="expected outcomes of the same images, got 3 and 4"):
        Difference.of(np.ones(3, np.bool_), np.ones(4, np.bool_))


def test_each_limit_is_held_where_it_says() -> None:
    def verdicts(clean: Difference, attacked: Difference) -> list[bool]:
        good = Difference(0.0, -0.2, 0.2, 1000)
        points = {OperatingPoint(0.0, 1.0): (good, good), OperatingPoint(1.0, 1.0): (clean, attacked)}
        return [check.ok for check in differences_checks(points)]

    good = Difference(0.0, -0.2, 0.2, 1000)
    assert verdicts(good, good) == [True, True, True]
    assert verdicts(Difference(-0.6, -0.9, -0.3, 1000), good) == [False, True, True]
    assert verdicts(good, Difference(-1.2, -3.0, -0.5, 1000)) == [True, False, True]
    assert verdicts(good, Difference(-1.2, -1.4, -1.05, 1000)) == [True, False, False]
    assert verdicts(good, Difference(-0.9, -3.0, 0.2, 1000)) == [True, True, True]
