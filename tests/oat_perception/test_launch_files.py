"""The launch files pass on what is given, and refuse what they cannot use. `launch` is replaced: no wheel brings it."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

PACKAGE = Path(__file__).parents[2] / "ros2_ws" / "src" / "oat_perception"
Launch = Callable[..., list[Any]]


class Entity:
    """Any part of a launch description: it holds what it was made of."""

    def __init__(self, *given: Any, **named: Any) -> None:
        self.given, self.named = given, named

    def perform(self, context: Any) -> str:
        """As a LaunchConfiguration does it."""
        value: str = context.launch_configurations[self.given[0]]
        return value


class Argument(Entity):
    """Stands in for a declared argument, which is known by its name."""

    @property
    def name(self) -> str:
        return str(self.given[0])


def described(path: str) -> Any:
    """What a launch file describes."""
    (entities,) = runpy.run_path(path)["generate_launch_description"]().given
    return SimpleNamespace(entities=entities)


MODULES = {
    "ament_index_python": {},
    "ament_index_python.packages": {"get_package_share_directory": lambda _: str(PACKAGE)},
    "launch": dict.fromkeys(("LaunchContext", "LaunchDescription", "LaunchDescriptionEntity"), Entity),
    "launch.actions": {
        "DeclareLaunchArgument": Argument,
        **dict.fromkeys(("EmitEvent", "IncludeLaunchDescription", "OpaqueFunction", "SetEnvironmentVariable"), Entity),
    },
    "launch.events": {"Shutdown": Entity},
    "launch.launch_description_sources": {
        "PythonLaunchDescriptionSource": Entity,
        "get_launch_description_from_python_launch_file": described,
    },
    "launch.substitutions": {"LaunchConfiguration": Entity},
    "launch_ros": {},
    "launch_ros.actions": dict.fromkeys(("LifecycleNode", "Node"), Entity),
    "launch_ros.parameter_descriptions": {"ParameterValue": Entity},
}


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Launch]:
    """Give what a launch file starts with these arguments, all others at their defaults; the node is the last of it."""
    for name, members in MODULES.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    parts = "oat_perception.node.launch_parts"
    monkeypatch.delitem(sys.modules, parts, raising=False)

    def launch(file: str, **arguments: str) -> list[Any]:
        entities = described(str(PACKAGE / "launch" / f"{file}.launch.py")).entities
        declared = {
            entity.given[0]: entity.named["default_value"] for entity in entities if "default_value" in entity.named
        }
        assert arguments.keys() <= declared.keys() | {"bundle", "cameras"}
        context = SimpleNamespace(launch_configurations={"bundle": "", **declared, **arguments})
        functions = [entity.named["function"] for entity in entities if "function" in entity.named]
        return [started for function in functions for started in function(context)]

    yield launch
    sys.modules.pop(parts, None)


def parameters(started: list[Any], file: str) -> dict[str, tuple[Any, type]]:
    """Name, value and type of each parameter that stands behind the parameter file."""
    first, *behind = started[-1].named["parameters"]
    assert first == str(PACKAGE / "config" / file)
    assert all(behind), "an empty set of parameters is left out"
    return {name: (value.given[0], value.named["value_type"]) for given in behind for name, value in given.items()}


def test_the_camera_replays_parameter_file_counts_where_no_argument_is_given(launched: Launch) -> None:
    """Regression: source, rate, bundle and scenario of the file were replaced by the arguments' defaults."""
    assert parameters(launched("camera_replay"), "camera_replay.yaml") == {}
    given = launched("camera_replay", source="0", rate_hz="20")
    assert parameters(given, "camera_replay.yaml") == {"source": ("0", str), "rate_hz": (20.0, float)}, (
        "a webcam's number is text"
    )


def test_the_nodes_parameter_file_counts_where_no_argument_is_given_but_for_auto_activate(launched: Launch) -> None:
    given = launched("perception", bundle="x")
    assert parameters(given, "perception.yaml") == {"bundle": ("x", str), "auto_activate": (True, bool)}
    given = launched("perception", bundle="x", auto_activate="", max_regions="3")
    assert parameters(given, "perception.yaml") == {"bundle": ("x", str), "max_regions": (3, int)}


@pytest.mark.parametrize("file", ["perception", "camera_replay"])
@pytest.mark.parametrize(
    ("argument", "value"),
    [("params_file", "/nowhere.yaml"), ("fastdds_profile", "/nowhere.xml"), ("namespace", "2nd")],
)
def test_what_a_node_cannot_use_is_refused_before_it_starts(
    launched: Launch, file: str, argument: str, value: str
) -> None:
    """Regression: with a mistyped parameter file, the node ran with the defaults."""
    with pytest.raises(ValueError, match=f"^{argument} must be .*'{value}'$"):
        launched(file, **{argument: value})


@pytest.mark.parametrize(
    ("file", "argument"), [("perception", "max_regions"), ("perception", "respawn"), ("camera_replay", "end_launch")]
)
def test_an_argument_of_another_type_is_named(launched: Launch, file: str, argument: str) -> None:
    """Regression: `end_launch:=maybe` was false, and of a parameter only the value was told."""
    with pytest.raises(ValueError, match=f"^{argument} must be .*, got 'maybe'$"):
        launched(file, **{argument: "maybe"})


def test_several_cameras_have_their_own_images_and_boxes(launched: Launch) -> None:
    """Regression: with `image:=/cam/image`, each node answered for the same camera."""
    started = launched("cameras", cameras="front,rear", image="image_raw", environment_confidence="/confidence")
    passed = [dict(each.named["launch_arguments"]) for each in started]
    assert [(given["namespace"], given["image"]) for given in passed] == [("front", "image_raw"), ("rear", "image_raw")]
    assert len(launched("cameras", cameras="front", image="/cam/image")) == 1
    for argument in ("image", "regions"):
        with pytest.raises(ValueError, match=f"^{argument} must be a name within .*got '/x', which all 2 cameras"):
            launched("cameras", cameras="front,rear", **{argument: "/x"})


def test_a_fast_dds_profile_may_have_any_path(launched: Launch, tmp_path: Path) -> None:
    """Regression: a path with an apostrophe ended the launch in a syntax error."""
    profile = tmp_path / "o'neil.xml"
    profile.touch()
    *variables, _ = launched("perception", fastdds_profile=str(profile))
    assert [each.given for each in variables] == [
        (f"{name}_DEFAULT_PROFILES_FILE", str(profile)) for name in ("FASTRTPS", "FASTDDS")
    ]
    assert len(launched("perception", fastdds_profile="")) == 1


def test_the_launch_ends_with_the_camera_only_if_that_is_wanted(launched: Launch) -> None:
    assert launched("camera_replay")[-1].named["on_exit"] is None
    (ending,) = launched("camera_replay", end_launch="True")[-1].named["on_exit"]
    end = ending.named["function"]
    assert len(end(SimpleNamespace(is_shutdown=False))) == 1
    assert end(SimpleNamespace(is_shutdown=True)) == [], "Ctrl-C has ended it"
