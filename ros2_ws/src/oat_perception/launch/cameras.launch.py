"""Start one node for each camera: `ros2 launch oat_perception cameras.launch.py bundle:=... cameras:=front,rear`.

Camera `front` is expected at `/front/image`; its results are at `/front/oat_perception/...`. All share one battery.
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

_SHARE = Path(get_package_share_directory("oat_perception"))


def generate_launch_description() -> LaunchDescription:
    """Return one `perception.launch.py` for each camera."""
    return LaunchDescription(
        [
            DeclareLaunchArgument("bundle", description="the trained network: a folder, or a shipped name"),
            DeclareLaunchArgument("cameras", description="namespaces of the cameras, with commas between them"),
            DeclareLaunchArgument(
                "image", default_value="image", description="image topic of each camera, within its namespace"
            ),
            DeclareLaunchArgument("battery_state", default_value="/battery_state", description="the battery's topic"),
            DeclareLaunchArgument(
                "params_file",
                default_value=str(_SHARE / "config" / "perception.yaml"),
                description="parameter file of every node; sections by node name tell them apart",
            ),
            OpaqueFunction(function=_a_node_each),
        ]
    )


def _a_node_each(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    cameras = [name.strip() for name in LaunchConfiguration("cameras").perform(context).split(",")]
    passed = {
        name: LaunchConfiguration(name).perform(context) for name in ("bundle", "image", "battery_state", "params_file")
    }
    return [
        # A source of its own each: one that is shared would give every camera the same node object.
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(_SHARE / "launch" / "perception.launch.py")),
            launch_arguments={**passed, "namespace": camera}.items(),
        )
        for camera in cameras
    ]
