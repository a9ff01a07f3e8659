"""Start one node for each camera: `ros2 launch oat_perception cameras.launch.py bundle:=... cameras:=front,rear`.

Camera `front` is expected at `/front/image`; its results are at `/front/oat_perception/...`. All share one battery, and
one environment confidence with `environment_confidence:=/environment_confidence`.
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import (
    PythonLaunchDescriptionSource,
    get_launch_description_from_python_launch_file,
)
from launch.substitutions import LaunchConfiguration
from oat_perception.core.launching import camera_names, check_own_topic

_ONE = str(Path(get_package_share_directory("oat_perception")) / "launch" / "perception.launch.py")


def generate_launch_description() -> LaunchDescription:
    """Return one `perception.launch.py` for each camera. It takes the arguments of that file, but for the namespace."""
    return LaunchDescription(
        [
            DeclareLaunchArgument("cameras", description="namespaces of the cameras, with commas between them"),
            DeclareLaunchArgument("battery_state", default_value="/battery_state", description="the battery's topic"),
            *(argument for argument in _arguments() if argument.name not in ("namespace", "battery_state")),
            OpaqueFunction(function=_a_node_each),
        ]
    )


def _arguments() -> list[DeclareLaunchArgument]:
    entities = get_launch_description_from_python_launch_file(_ONE).entities
    return [entity for entity in entities if isinstance(entity, DeclareLaunchArgument)]


def _a_node_each(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    cameras = camera_names(LaunchConfiguration("cameras").perform(context))
    passed = {
        argument.name: LaunchConfiguration(argument.name).perform(context)
        for argument in _arguments()
        if argument.name != "namespace"
    }
    for name in ("image", "regions"):
        check_own_topic(name, passed[name], cameras)
    return [
        # A source of its own each: one that is shared would give every camera the same node object.
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(_ONE), launch_arguments={**passed, "namespace": camera}.items()
        )
        for camera in cameras
    ]
