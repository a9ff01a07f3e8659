"""The launch files leave to the parameter file what is not given. `launch` is replaced: no wheel brings it."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "ros2_ws" / "src" / "oat_perception" / "launch"
Launch = Callable[..., Any]


class Entity:
    """Any part of a launch description: it holds what it was made of."""

    def __init__(self, *given: Any, **named: Any) -> None:
        self.given, self.named = given, named

    def perform(self, context: Any) -> str:
        """As a LaunchConfiguration does it."""
        value: str = context.launch_configurations[self.given[0]]
        return value


MODULES = {
    "ament_index_python": {},
    "ament_index_python.packages": {"get_package_share_directory": lambda _: "/share"},
    "launch": dict.fromkeys(("LaunchContext", "LaunchDescription", "LaunchDescriptionEntity"), Entity),
    "launch.actions": dict.fromkeys(
        ("DeclareLaunchArgument", "EmitEvent", "OpaqueFunction", "SetEnvironmentVariable"), Entity
    ),
    "launch.conditions": {"IfCondition": Entity},
    "launch.events": {"Shutdown": Entity},
    "launch.substitutions": dict.fromkeys(("LaunchConfiguration", "PythonExpression"), Entity),
    "launch_ros": {},
    "launch_ros.actions": dict.fromkeys(("LifecycleNode", "Node"), Entity),
    "launch_ros.parameter_descriptions": {"ParameterValue": Entity},
}


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Launch]:
    """Give a node as a launch file starts it with these arguments, all others at their defaults."""
    for name, members in MODULES.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    parts = "oat_perception.node.launch_parts"
    monkeypatch.delitem(sys.modules, parts, raising=False)

    def launch(file: str, **arguments: str) -> Any:
        (entities,) = runpy.run_path(str(FOLDER / f"{file}.launch.py"))["generate_launch_description"]().given
        declared = {
            entity.given[0]: entity.named["default_value"] for entity in entities if "default_value" in entity.named
        }
        assert arguments.keys() <= declared.keys() | {"bundle"}
        context = SimpleNamespace(launch_configurations={"bundle": "", **declared, **arguments})
        functions = [entity.named["function"] for entity in entities if "function" in entity.named]
        (node,) = functions[0](context)
        return node

    yield launch
    sys.modules.pop(parts, None)


def parameters(node: Any) -> dict[str, tuple[str, type]]:
    """Name, argument and type of each parameter that stands behind the parameter file."""
    file, *behind = node.named["parameters"]
    assert file.given == ("params_file",)
    assert all(behind), "an empty set of parameters is left out"
    return {
        name: (value.given[0].given[0], value.named["value_type"]) for given in behind for name, value in given.items()
    }


def test_the_camera_replays_parameter_file_counts_where_no_argument_is_given(launched: Launch) -> None:
    """Regression: source, rate, bundle and scenario of the file were replaced by the arguments' defaults."""
    assert parameters(launched("camera_replay")) == {}
    given = launched("camera_replay", source="0", rate_hz="20.0")
    assert parameters(given) == {"source": ("source", str), "rate_hz": ("rate_hz", float)}, "a webcam's number is text"


def test_the_nodes_parameter_file_counts_where_no_argument_is_given_but_for_auto_activate(launched: Launch) -> None:
    assert parameters(launched("perception", bundle="x")) == {
        "bundle": ("bundle", str), "auto_activate": ("auto_activate", bool),
    }  # fmt: skip
    assert parameters(launched("perception", bundle="x", auto_activate="", max_regions="3")) == {
        "bundle": ("bundle", str), "max_regions": ("max_regions", int),
    }  # fmt: skip
