"""Run the demo's scripted day, to watch with rqt or RViz; `make demo` adds the operator and the report.

`scenario:=robot max_regions:=64` plays a robot's day.
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

_SHARE = Path(get_package_share_directory("oat_perception"))


def generate_launch_description() -> LaunchDescription:
    """Return the perception node and the camera replay; when the camera ends, the launch ends."""
    return LaunchDescription(
        [
            DeclareLaunchArgument("bundle", description="the trained network: a folder, or a shipped name"),
            DeclareLaunchArgument("scenario", default_value="day", description="'day', 'robot' or a JSON file"),
            DeclareLaunchArgument("rate_hz", default_value="10.0", description="images a second"),
            _include("perception", use_battery="true"),
            _include("camera_replay", end_launch="true"),
        ]
    )


def _include(name: str, **arguments: str) -> IncludeLaunchDescription:
    """Include another file of this folder, which also sees this launch's own arguments, and those of one before it."""
    source = PythonLaunchDescriptionSource(str(_SHARE / "launch" / f"{name}.launch.py"))
    passed = {
        "bundle": LaunchConfiguration("bundle"),
        "params_file": str(_SHARE / "config" / f"{name}.yaml"),
        **arguments,
    }
    return IncludeLaunchDescription(source, launch_arguments=passed.items())
