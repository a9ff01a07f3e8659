"""Replay images in place of a camera: `ros2 launch oat_perception camera_replay.launch.py source:=/path/to/bag`."""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, EmitEvent, OpaqueFunction
from launch.events import Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from oat_perception.core.launching import file_of, namespace_of, value_of
from oat_perception.node.launch_parts import AS_IN_FILE, fastdds_profile, given_parameters

_CONFIG = Path(get_package_share_directory("oat_perception")) / "config"
_PARAMETERS = {"source": str, "rate_hz": float, "bundle": str, "scenario": str}  # a webcam's number stays a string
"""Arguments that set the parameter of their name, unless they are empty."""


def generate_launch_description() -> LaunchDescription:
    """One node; arguments that are given override the parameter file."""
    about = {
        "source": "cifar10, foolbox, frames with boxes (robocup/20260502_r5), a webcam's number, or a path",
        "rate_hz": "images a second",
        "bundle": "bundle to attack; only attacks need it",
        "scenario": "'day', 'robot' or a JSON file",
    }
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "params_file",
                default_value=str(_CONFIG / "camera_replay.yaml"),
                description="parameter file of the node",
            ),
            DeclareLaunchArgument("namespace", default_value="", description="namespace of the node, the perception's"),
            *(
                DeclareLaunchArgument(name, default_value="", description=f"{words}{AS_IN_FILE}")
                for name, words in about.items()
            ),
            DeclareLaunchArgument("image_topic", default_value="image", description="where images are published"),
            DeclareLaunchArgument("end_launch", default_value="false", description="true: the launch ends with it"),
            *fastdds_profile(_CONFIG, whose="the perception node's process"),
            OpaqueFunction(function=_node),
        ]
    )


def _node(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    given = {name: LaunchConfiguration(name).perform(context) for name in ("params_file", "namespace", "end_launch")}
    ends = [OpaqueFunction(function=_end)] if value_of("end_launch", given["end_launch"], bool) else None
    return [
        Node(
            package="oat_perception",
            executable="camera_replay_node",
            name="camera_replay",
            namespace=namespace_of(given["namespace"]),
            output="screen",
            parameters=[file_of("params_file", given["params_file"]), *given_parameters(context, _PARAMETERS)],
            remappings=[("image", LaunchConfiguration("image_topic"))],
            on_exit=ends,
        )
    ]


def _end(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """End the launch with the camera, if Ctrl-C has not ended it: launch_ros ends only once."""
    return [] if context.is_shutdown else [EmitEvent(event=Shutdown(reason="the camera ended"))]
