"""Start the node on a camera: `ros2 launch oat_perception perception.launch.py bundle:=... image:=/cam/image`."""

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PythonExpression
from launch_ros.actions import LifecycleNode
from launch_ros.parameter_descriptions import ParameterValue
from oat_perception.core.launching import profile_to_load

_CONFIG = Path(get_package_share_directory("oat_perception")) / "config"
_TOPICS = ("image", "battery_state", "environment_confidence", "environment_confidence_value", "regions")
_PARAMETERS = {
    "bundle": str,
    "auto_activate": bool,
    "confidence_required": bool,
    "use_battery": bool,
    "max_regions": int,
    "image_transport": str,
    "use_sim_time": bool,
}
"""Arguments that set the parameter of their name, unless they are empty."""
_RESPAWN_DELAY_S = 2.0


def generate_launch_description() -> LaunchDescription:
    """Return one node. For several cameras start several, each in its own namespace."""
    as_in_file = "; empty: as the parameter file says"
    arguments = {
        "params_file": (str(_CONFIG / "perception.yaml"), "parameter file of the node"),
        "namespace": ("", "namespace of the node, one a camera"),
        "image": ("image", "the camera's image topic"),
        "battery_state": ("battery_state", "the battery's topic"),
        "environment_confidence": ("environment_confidence", "topic of the environment's confidence"),
        "environment_confidence_value": ("environment_confidence_value", "its topic as a bare std_msgs/Float32"),
        "regions": ("regions", "the detector's topic"),
        "auto_activate": ("true", "false: a lifecycle manager activates the node"),
        "confidence_required": ("", f"whether this robot has an environment confidence{as_in_file}"),
        "use_battery": ("", f"whether the battery limits width and rate{as_in_file}"),
        "max_regions": ("", f"most regions of an image that are classified{as_in_file}"),
        "image_transport": ("", f"raw or compressed{as_in_file}"),
        "use_sim_time": ("", f"whether stamps follow /clock{as_in_file}"),
        "log_level": ("", "debug, info, warn, error or fatal; empty: ROS's own"),
        "respawn": ("false", "true: a node that ended is started again"),
        "fastdds_profile": (
            profile_to_load(os.environ, shipped=str(_CONFIG / "fastdds.xml")),
            "Fast DDS profile, which the camera's process must load too; empty: the environment's",
        ),
    }
    return LaunchDescription(
        [
            DeclareLaunchArgument("bundle", description="the trained network: a folder, or a shipped name"),
            *(
                DeclareLaunchArgument(name, default_value=default, description=description)
                for name, (default, description) in arguments.items()
            ),
            *(
                SetEnvironmentVariable(
                    f"{name}_DEFAULT_PROFILES_FILE",
                    LaunchConfiguration("fastdds_profile"),
                    condition=IfCondition(PythonExpression(["bool('", LaunchConfiguration("fastdds_profile"), "')"])),
                )
                for name in ("FASTRTPS", "FASTDDS")  # up to Jazzy, and later
            ),
            OpaqueFunction(function=_node),
        ]
    )


def _node(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    given = {name: LaunchConfiguration(name).perform(context) for name in (*_PARAMETERS, *_TOPICS, "log_level")}
    respawn = LaunchConfiguration("respawn").perform(context).lower()
    if respawn not in ("true", "false"):
        raise ValueError(f"respawn must be true or false, got {respawn!r}")
    return [
        LifecycleNode(
            package="oat_perception",
            executable="perception_node",
            name="oat_perception",
            namespace=LaunchConfiguration("namespace"),
            output="screen",
            arguments=["--ros-args", "--log-level", given["log_level"]] if given["log_level"] else [],
            parameters=[
                LaunchConfiguration("params_file"),
                {
                    name: ParameterValue(LaunchConfiguration(name), value_type=kind)
                    for name, kind in _PARAMETERS.items()
                    if given[name]
                },
            ],
            remappings=[(topic, given[topic]) for topic in _TOPICS if given[topic] != topic],
            respawn=respawn == "true",
            respawn_delay=_RESPAWN_DELAY_S,
        )
    ]
