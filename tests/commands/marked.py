"""The one list of documented commands that the tests do not run as they are typed, each with its reason."""

from __future__ import annotations

_APT = "needs root and ROS 2 from apt"
_ROS2 = "needs the `ros2` command, which the wheels do not bring; the node's tests set the same over the same graph"
_NETWORK = "fetches packages from the network"
_MAKE = "takes minutes and changes .venv; CI calls it, and a dry run is made here"
_OWN = "tests/ros runs the same commands on a graph, with a shipped bundle and other frames"
_MINUTES = "takes minutes on a real graph; tests/ros holds what it measures"

MARKED = {
    "make demo": _MAKE,
    "make demo DEMO_ARGS=--robot": _MAKE,
    "make demo DEMO_ARGS=--robot && cp out/demo/picture.webp docs/images/robot.webp": _MAKE,
    "make test": _MAKE,
    "make setup": _MAKE,
    "make dist": _MAKE,
    "python -m oat_perception.camera_replay_node --ros-args -p source:=0": "needs a webcam",
    "python -m oat_perception.camera_replay_node --ros-args -p source:=my_frames": _OWN,
    "python -m oat_perception.perception_node --ros-args -p bundle:=bundles/mine -p auto_activate:=true": _OWN,
    "sudo apt install ros-jazzy-ros-base ros-jazzy-vision-msgs python3-colcon-common-extensions python3-rosdep "
    "python3-venv": _APT,
    "sudo rosdep init; rosdep update": _APT,
    "source /opt/ros/jazzy/setup.bash": _APT,
    "python3 -m venv --system-site-packages venv && . venv/bin/activate": _APT,
    "pip install -e '.[onnxruntime]' --constraint ros2_ws/src/oat_perception/robot/constraints.txt": _NETWORK,
    "(cd ros2_ws && rosdep install --from-paths src --ignore-src -y && colcon build) && . ros2_ws/install/setup.bash": (
        _APT
    ),
    "ros2 launch oat_perception perception.launch.py bundle:=cifar10-wrn-16-4": _ROS2,
    "ros2 param set /oat_perception lambda 0.8": _ROS2,
    "ros2 param set /oat_perception width 0.5": _ROS2,
    "ros2 param set /oat_perception lambda -1": _ROS2,
    "ros2 service call /oat_perception/set_operating_point oat_msgs/srv/SetOperatingPoint "
    '"{lambda_value: 1.0, width: 0.75, expiry_s: 30.0}"': _ROS2,
    "ros2 param describe": _ROS2,
    "ros2 bag record /oat_perception/decision": _ROS2,
    "ros2 param set /camera_replay corruption fog": _ROS2,
    "ros2 run oat_perception console": _ROS2,
    'ros2 topic pub --rate 5 /environment_confidence_value std_msgs/msg/Float32 "{data: 0.8}"': _ROS2,
    "python examples/localization_confidence.py --ros-args -r pose:=/amcl_pose -p good_m:=0.1 -p lost_m:=1.0": (
        "runs until it is interrupted; tests/ros/test_localization_confidence.py runs it on a graph"
    ),
    "pip install '.[onnxruntime]'": _NETWORK,
    "pip download --dest dist/aarch64 --only-binary=:all: --implementation cp --python-version 3.12 --platform "
    "manylinux_2_28_aarch64 --platform manylinux2014_aarch64 --constraint "
    'ros2_ws/src/oat_perception/robot/constraints.txt "$(ls dist/*.whl)[onnxruntime]"': _NETWORK,
    "python -m oat_perception.bench": _MINUTES,
    "python -m oat_runtime.bench": "takes minutes; tests/oat_runtime/test_bench.py runs it with --quick",
    "python -m policy.bench --bundle bundles/NAME --days": (
        "needs a bundle that was trained on boxes; tests/policy/test_days.py plays one with --quick"
    ),
}

ON_THE_GRAPH = (
    "python -m oat_perception.perception_node --ros-args -p bundle:=bundles/cifar10-wrn-16-4 -p auto_activate:=true",
    "python -m oat_perception.console",
    "python -m oat_perception.console --node camera_replay corruption=fog severity=5",
    "python -m oat_perception.console lambda=0.8 width=0.5",
)
"""Commands that tests/ros/test_documented_commands.py runs."""
