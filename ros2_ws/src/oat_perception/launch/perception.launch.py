"""Start the node on a camera: `ros2 launch oat_perception perception.launch.py bundle:=... image:=/cam/image`."""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PythonExpression
from launch_ros.actions import LifecycleNode
from launch_ros.parameter_descriptions import ParameterValue

_CONFIG = Path(get_package_share_directory("oat_perception")) / "config"


def generate_launch_description() -> LaunchDescription:
    """Return one node. For several cameras start several, each in its own namespace."""
    return LaunchDescription(
        [
            DeclareLaunchArgument("bundle", description="the trained network: a folder, or a shipped name"),
            DeclareLaunchArgument(
                "params_file", default_value=str(_CONFIG / "perception.yaml"), description="parameter file of the node"
            ),
            DeclareLaunchArgument("namespace", default_value="", description="namespace of the node, one a camera"),
            DeclareLaunchArgument("image", default_value="image", description="the camera's image topic"),
            DeclareLaunchArgument("battery_state", default_value="battery_state", description="the battery's topic"),
            DeclareLaunchArgument(
                "auto_activate", default_value="true", description="false: a lifecycle manager activates the node"
            ),
            DeclareLaunchArgument(
                "fastdds_profile",
                default_value=str(_CONFIG / "fastdds.xml"),
                description="Fast DDS profile, which the camera's process must load too; empty: the default one",
            ),
            *(
                SetEnvironmentVariable(
                    f"{name}_DEFAULT_PROFILES_FILE",
                    LaunchConfiguration("fastdds_profile"),
                    condition=IfCondition(PythonExpression(["bool('", LaunchConfiguration("fastdds_profile"), "')"])),
                )
                for name in ("FASTRTPS", "FASTDDS")  # up to Jazzy, and later
            ),
            LifecycleNode(
                package="oat_perception",
                executable="perception_node",
                name="oat_perception",
                namespace=LaunchConfiguration("namespace"),
                output="screen",
                parameters=[
                    LaunchConfiguration("params_file"),
                    {
                        "bundle": ParameterValue(LaunchConfiguration("bundle"), value_type=str),
                        "auto_activate": ParameterValue(LaunchConfiguration("auto_activate"), value_type=bool),
                    },
                ],
                remappings=[
                    ("image", LaunchConfiguration("image")),
                    ("battery_state", LaunchConfiguration("battery_state")),
                ],
            ),
        ]
    )
