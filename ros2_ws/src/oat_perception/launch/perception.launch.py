"""Start the node on a camera: `ros2 launch oat_perception perception.launch.py bundle:=... image:=/cam/image`."""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from oat_perception.core.launching import file_of, namespace_of, value_of
from oat_perception.node.launch_parts import AS_IN_FILE, fastdds_profile, given_parameters

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
    arguments = {
        "params_file": (str(_CONFIG / "perception.yaml"), "parameter file of the node"),
        "namespace": ("", "namespace of the node, one a camera"),
        "image": ("image", "the camera's image topic"),
        "battery_state": ("battery_state", "the battery's topic"),
        "environment_confidence": ("environment_confidence", "topic of the environment's confidence"),
        "environment_confidence_value": ("environment_confidence_value", "its topic as a bare std_msgs/Float32"),
        "regions": ("regions", "the detector's topic"),
        "auto_activate": ("true", f"false: a lifecycle manager activates the node{AS_IN_FILE}"),
        "confidence_required": ("", f"whether this robot has an environment confidence{AS_IN_FILE}"),
        "use_battery": ("", f"whether the battery limits width and rate{AS_IN_FILE}"),
        "max_regions": ("", f"most regions of an image that are classified{AS_IN_FILE}"),
        "image_transport": ("", f"raw or compressed{AS_IN_FILE}"),
        "use_sim_time": ("", f"whether stamps follow /clock{AS_IN_FILE}"),
        "log_level": ("", "debug, info, warn, error or fatal; empty: ROS's own"),
        "respawn": ("false", "true: a node that ended is started again"),
    }
    return LaunchDescription(
        [
            DeclareLaunchArgument("bundle", description="the trained network: a folder, or a shipped name"),
            *(
                DeclareLaunchArgument(name, default_value=default, description=description)
                for name, (default, description) in arguments.items()
            ),
            *fastdds_profile(_CONFIG, whose="the camera's process"),
            OpaqueFunction(function=_node),
        ]
    )


def _node(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    others = ("params_file", "namespace", "log_level", "respawn")
    given = {name: LaunchConfiguration(name).perform(context) for name in (*_TOPICS, *others)}
    return [
        LifecycleNode(
            package="oat_perception",
            executable="perception_node",
            name="oat_perception",
            namespace=namespace_of(given["namespace"]),
            output="screen",
            arguments=["--ros-args", "--log-level", given["log_level"]] if given["log_level"] else [],
            parameters=[file_of("params_file", given["params_file"]), *given_parameters(context, _PARAMETERS)],
            remappings=[(topic, given[topic]) for topic in _TOPICS if given[topic] != topic],
            respawn=value_of("respawn", given["respawn"], bool),
            respawn_delay=_RESPAWN_DELAY_S,
        )
    ]
