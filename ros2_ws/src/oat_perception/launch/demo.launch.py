"""Run the demo's scripted day, to watch with rqt or RViz; `make demo` adds the operator and the report."""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, EmitEvent, RegisterEventHandler
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.parameter_descriptions import ParameterValue

_CONFIG = Path(get_package_share_directory("oat_perception")) / "config"


def generate_launch_description() -> LaunchDescription:
    """Return the perception node and the camera replay; when the camera ends, the launch ends."""
    bundle = ParameterValue(LaunchConfiguration("bundle"), value_type=str)
    perception = LifecycleNode(
        package="oat_perception",
        executable="perception_node",
        name="oat_perception",
        namespace="",
        output="screen",
        parameters=[
            str(_CONFIG / "perception.yaml"),
            {"bundle": bundle, "auto_activate": True, "use_battery": True},
        ],
    )
    camera = Node(
        package="oat_perception",
        executable="camera_replay_node",
        name="camera_replay",
        output="screen",
        parameters=[
            str(_CONFIG / "camera_replay.yaml"),
            {
                "bundle": bundle,
                "scenario": ParameterValue(LaunchConfiguration("scenario"), value_type=str),
                "rate_hz": ParameterValue(LaunchConfiguration("rate_hz"), value_type=float),
            },
        ],
    )
    return LaunchDescription(
        [
            DeclareLaunchArgument("bundle", description="the trained network: a folder, or a shipped name"),
            DeclareLaunchArgument("scenario", default_value="day", description="'day' or a JSON file"),
            DeclareLaunchArgument("rate_hz", default_value="10.0", description="images a second"),
            perception,
            camera,
            RegisterEventHandler(
                OnProcessExit(target_action=camera, on_exit=[EmitEvent(event=Shutdown(reason="the day is over"))])
            ),
        ]
    )
