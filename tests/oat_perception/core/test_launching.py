"""Launch files refuse what they cannot use, and leave the user's own Fast DDS profile alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from oat_perception.core.launching import camera_names, file_of, namespace_of, profile_to_load, value_of


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


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("True", bool, True),
        ("off", bool, False),
        ("1", bool, True),
        ("64", int, 64),
        ("10", float, 10.0),
        ("0", str, "0"),
    ],
)
def test_an_argument_has_the_type_of_its_parameter(text: str, kind: type, value: object) -> None:
    found = value_of("name", text, kind)
    assert found == value and type(found) is kind


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("maybe", bool, "true or false"),
        ("2", bool, "true or false"),
        ("2.5", int, "a whole number"),
        ("x", float, "a number"),
    ],
)
def test_an_argument_of_another_type_is_named(text: str, kind: type, expected: str) -> None:
    """Regression: the line was `invalid literal for int() with base 10: '2.5'`, of whichever argument."""
    with pytest.raises(ValueError, match=f"^max_regions must be {expected}, got '{text}'$"):
        value_of("max_regions", text, kind)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: with a mistyped parameter file, the node ran with the defaults."""
    file = tmp_path / "o'neil.yaml"
    file.touch()
    assert file_of("params_file", str(file)) == str(file)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert file_of("params_file", f"~/{file.name}") == str(file)
    for text in ("~/other.yaml", str(tmp_path), ""):
        with pytest.raises(ValueError, match=f"^params_file must be a file, and there is none at '{text}'$"):
            file_of("params_file", text)


def test_a_namespace_is_checked_in_one_line() -> None:
    for text in ("", "/", "front", "/fleet/robot_2"):
        assert namespace_of(text) == text
    for text in ("2nd", "a b", "front/", "//front"):
        with pytest.raises(ValueError, match=f"namespace must be .* got '{text}'$") as refused:
            namespace_of(text)
        assert "\n" not in str(refused.value)
