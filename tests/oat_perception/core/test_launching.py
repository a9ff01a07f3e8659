"""Launch files refuse names that are none, and leave the user's own Fast DDS profile alone."""

from __future__ import annotations

import pytest
from oat_perception.core.launching import camera_names, profile_to_load


def test_cameras_are_named_with_commas() -> None:
    assert camera_names("front") == ["front"]
    assert camera_names(" front, /rear/left_2 ") == ["front", "/rear/left_2"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("front,,rear", "'' is none"),
        ("", "'' is none"),
        ("front,", "'' is none"),
        ("front,front", "'front' occurs twice"),
        ("front,2nd", "'2nd' is none"),
        ("front rear", "'front rear' is none"),
        ("größe", "'größe' is none"),
    ],
)
def test_cameras_that_are_no_namespaces_are_refused_in_one_line(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refused:
        camera_names(text)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"])
@pytest.mark.parametrize("value", ["/home/me/mine.xml", ""])
def test_a_profile_of_ones_own_is_left_alone(name: str, value: str) -> None:
    assert profile_to_load({name: value}, shipped="/ours.xml") == ""
    assert profile_to_load({}, shipped="/ours.xml") == "/ours.xml"
