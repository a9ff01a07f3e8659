"""Give the launch files what they have in common, in ROS's own Python, which may have neither NumPy nor pydantic."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.parameter_descriptions import ParameterValue

from oat_perception.core.launching import file_of, profile_to_load, value_of

if TYPE_CHECKING:
    from launch.launch_context import LaunchContext

AS_IN_FILE = "; empty: as the parameter file says"
"""Ends the description of an argument of `given_parameters`, whose default is empty."""


def given_parameters(context: LaunchContext, kinds: Mapping[str, type]) -> list[dict[str, Any]]:
    """Return what stands behind the parameter file: the parameters of those launch arguments that are not empty.

    Args:
        context: of the launch.
        kinds: type of each parameter that has an argument of its name.

    Raises:
        ValueError: an argument is not of its type.
    """
    given = {
        name: ParameterValue(value_of(name, text, kind), value_type=kind)  # a text stays one, even if it is a number
        for name, kind in kinds.items()
        if (text := LaunchConfiguration(name).perform(context))
    }
    return [given] if given else []


def fastdds_profile(config: Path, *, whose: str) -> list[Any]:
    """Return the argument `fastdds_profile`, and what loads it for all nodes of the launch.

    Args:
        config: folder of this package's own profile, which is the default where the user has chosen none.
        whose: which other process must load the profile too, for the argument's description.
    """

    def load(context: LaunchContext) -> list[Any]:
        if not (profile := LaunchConfiguration("fastdds_profile").perform(context)):
            return []
        path = file_of("fastdds_profile", profile)
        return [
            SetEnvironmentVariable(f"{name}_DEFAULT_PROFILES_FILE", path)
            for name in ("FASTRTPS", "FASTDDS")  # up to Jazzy, and later
        ]

    return [
        DeclareLaunchArgument(
            "fastdds_profile",
            default_value=profile_to_load(os.environ, shipped=str(config / "fastdds.xml")),
            description=f"Fast DDS profile, which {whose} must load too; empty: the environment's",
        ),
        OpaqueFunction(function=load),
    ]
