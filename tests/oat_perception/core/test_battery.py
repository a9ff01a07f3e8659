"""A battery's charge is read on the stated scale, or is unknown."""

import math
from types import SimpleNamespace

import pytest
from oat_perception.core.battery import battery_charge


@pytest.mark.parametrize(
    ("percentage", "full", "charge"),
    [(1.0, 1.0, 1.0), (0.25, 1.0, 0.25), (87.0, 100.0, 0.87), (100.0, 100.0, 1.0), (0.0, 1.0, 0.0)],
)
def test_charge_on_the_stated_scale(percentage: float, full: float, charge: float) -> None:
    assert battery_charge(SimpleNamespace(percentage=percentage, present=True), percentage_full=full) == (charge, "")


@pytest.mark.parametrize(("percentage", "present"), [(87.0, True), (-0.01, True), (math.nan, True), (0.5, False)])
def test_an_unusable_battery_is_unknown_and_never_rescaled(percentage: float, present: bool) -> None:
    charge, complaint = battery_charge(SimpleNamespace(percentage=percentage, present=present), percentage_full=1.0)
    assert math.isnan(charge)
    assert complaint
