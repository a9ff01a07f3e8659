"""A battery's charge is read on the stated scale, a hair above full is full, and anything else is unknown."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from oat_perception.core.battery import battery_charge


@pytest.mark.parametrize(
    ("percentage", "full", "charge"),
    [(1.0, 1.0, 1.0), (0.25, 1.0, 0.25), (87.0, 100.0, 0.87), (100.0, 100.0, 1.0), (0.0, 1.0, 0.0)],
)
def test_charge_on_the_stated_scale(percentage: float, full: float, charge: float) -> None:
    assert battery_charge(SimpleNamespace(percentage=percentage, present=True), percentage_full=full) == (charge, "")


@pytest.mark.parametrize(
    ("percentage", "full"), [(float(np.nextafter(np.float32(1), np.float32(2))), 1.0), (1.02, 1.0), (100.4, 100.0)]
)
def test_a_hair_above_full_is_full_and_is_said(percentage: float, full: float) -> None:
    """Regression: the fullest battery counted as unknown, so that the robot ran its narrowest network."""
    charge, words = battery_charge(SimpleNamespace(percentage=percentage, present=True), percentage_full=full)
    assert charge == 1.0
    assert repr(percentage) in words, "with all its digits: 1.0000001 is not 1"


@pytest.mark.parametrize(
    ("percentage", "present"),
    [(87.0, True), (1.06, True), (-0.01, True), (math.nan, True), (math.inf, True), (0.5, False), (1.02, False)],
)
def test_an_unusable_battery_is_unknown_and_never_rescaled(percentage: float, present: bool) -> None:
    charge, complaint = battery_charge(SimpleNamespace(percentage=percentage, present=present), percentage_full=1.0)
    assert math.isnan(charge)
    assert complaint
