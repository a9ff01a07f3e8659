"""Replay images in place of a camera: `ros2 launch oat_perception camera_replay.launch.py source:=/path/to/bag`."""

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, EmitEvent, OpaqueFunction, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.events import Shutdown
from launch.substitutions import LaunchConfiguration, PythonExpression
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from oat_perception.core.launching import profile_to_load

_CONFIG = Path(get_package_share_directory("oat_perception")) / "config"


def generate_launch_description() -> LaunchDescription:
    """One node; arguments override the parameter file."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "params_file",
                default_value=str(_CONFIG / "camera_replay.yaml"),
                description="parameter file of the node",
            ),
            DeclareLaunchArgument("namespace", default_value="", description="namespace of the node, the perception's"),
            DeclareLaunchArgument(
                "source", default_value="cifar10", description="cifar10, foolbox, a webcam's number, or a path"
            ),
            DeclareLaunchArgument("rate_hz", default_value="10.0", description="images a second"),
            DeclareLaunchArgument("bundle", default_value="", description="bundle to attack; empty: no attacks"),
            DeclareLaunchArgument("scenario", default_value="", description="'day', a JSON file, or empty: none"),
            DeclareLaunchArgument("image_topic", default_value="image", description="where images are published"),
            DeclareLaunchArgument("end_launch", default_value="false", description="true: the launch ends with it"),
            DeclareLaunchArgument(
                "fastdds_profile",
                default_value=profile_to_load(os.environ, shipped=str(_CONFIG / "fastdds.xml")),
                description="Fast DDS profile, the perception node's; empty: the environment's",
            ),
            *(
                SetEnvironmentVariable(
                    f"{name}_DEFAULT_PROFILES_FILE",
                    LaunchConfiguration("fastdds_profile"),
                    condition=IfCondition(PythonExpression(["bool('", LaunchConfiguration("fastdds_profile"), "')"])),
                )
                for name in ("FASTRTPS", "FASTDDS")  # up to Jazzy, and later
            ),
            Node(
                package="oat_perception",
                executable="camera_replay_node",
                name="camera_replay",
                namespace=LaunchConfiguration("namespace"),
                output="screen",
                parameters=[
                    LaunchConfiguration("params_file"),
                    {
                        # A webcam's number must stay a string.
                        "source": ParameterValue(LaunchConfiguration("source"), value_type=str),
                        "rate_hz": ParameterValue(LaunchConfiguration("rate_hz"), value_type=float),
                        "bundle": ParameterValue(LaunchConfiguration("bundle"), value_type=str),
                        "scenario": ParameterValue(LaunchConfiguration("scenario"), value_type=str),
                    },
                ],
                remappings=[("image", LaunchConfiguration("image_topic"))],
                on_exit=[OpaqueFunction(function=_on_exit)],
            ),
        ]
    )


def _on_exit(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """End the launch with the camera, if that is wanted, and if Ctrl-C has not ended it: launch_ros ends only once."""
    if context.is_shutdown or LaunchConfiguration("end_launch").perform(context).lower() != "true":
        return []
    return [EmitEvent(event=Shutdown(reason="the camera ended"))]
