"""Tell the perception node how far to trust the surroundings: as far as the robot knows where it is.

python examples/localization_confidence.py
python examples/localization_confidence.py --ros-args -r pose:=/amcl_pose -p good_m:=0.1 -p lost_m:=1.0

A robot that knows its place sees what its map says. Where its localisation is unsure, the view has changed: people
stand in it, lights are off, or somebody moved the robot. It needs geometry_msgs/PoseWithCovarianceStamped on `pose`,
as AMCL, robot_localization and RTAB-Map send it, and says a std_msgs/Float32 on `environment_confidence_value`.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import PoseWithCovarianceStamped
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.clock import Clock, ClockType
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.utilities import remove_ros_args
from std_msgs.msg import Float32

_PERIOD_S = 0.2  # the perception node forgets a confidence after `confidence_max_age_s`, 2 s by default


def uncertainty_m(covariance_66: Sequence[float]) -> float:
    """Return the standard deviation of the position in its worst direction on the floor; NaN if it is not given.

    Args:
        covariance_66: 36 numbers, row by row, of x, y, z and three rotations. All zeros mean "unknown" in ROS.
    """
    xy_22 = np.array(covariance_66, np.float64).reshape(6, 6)[:2, :2]
    if not np.isfinite(xy_22).all() or not xy_22.any():
        return math.nan
    largest = float(np.linalg.eigvalsh(xy_22).max())
    return math.sqrt(largest) if largest >= 0 else math.nan


def confidence(std_m: float, age_s: float, *, good_m: float, lost_m: float, max_age_s: float) -> float:
    """Return 1 where the robot knows its place to `good_m`, and 0 from `lost_m` on; NaN if nothing is known.

    Between them it falls with the logarithm of the uncertainty. It falls with the age of the pose as well.
    """
    if not math.isfinite(std_m) or not 0 <= age_s <= max_age_s:
        return math.nan
    share = math.log(lost_m / max(std_m, 1e-6)) / math.log(lost_m / good_m)
    return min(1.0, max(0.0, share)) * (1.0 - age_s / max_age_s)


def limits(values: Mapping[str, Any]) -> dict[str, float]:
    """Return `good_m`, `lost_m` and `max_age_s` as they were set.

    Raises:
        ValueError: no numbers, or such that a robot which is lost would count as one that knows its place.
    """
    try:
        found = {name: float(value) for name, value in values.items()}
    except (TypeError, ValueError):
        found = dict.fromkeys(values, math.nan)
    if not (0 < found["good_m"] < found["lost_m"] < math.inf and 0 < found["max_age_s"] < math.inf):
        got = ", ".join(f"{name} {value}" for name, value in values.items())
        raise ValueError(f"expected numbers with 0 < good_m < lost_m and 0 < max_age_s, got {got}: correct them")
    return found


class LocalizationConfidence(Node):
    """Says the confidence five times a second, and nothing where nothing is known: the node then stays at its safest λ.

    AMCL sends a pose only while the robot moves. Give it a `max_age_s` as long as your robot may stand still.
    """

    def __init__(self, context: Context | None = None) -> None:
        """Subscribe, and start to speak.

        Raises:
            ValueError: parameters that say nothing; see `limits`.
        """
        super().__init__("localization_confidence", context=context)
        as_set = ParameterDescriptor(dynamic_typing=True, read_only=True)  # 1 is as good as 1.0
        defaults = {"good_m": 0.1, "lost_m": 1.0, "max_age_s": 10.0}
        self._limits = limits({name: self.declare_parameter(name, at, as_set).value for name, at in defaults.items()})
        for name in sorted(name for name in self._parameter_overrides if not self.has_parameter(name)):
            self.get_logger().warning(f"there is no parameter {name!r}: expected {', '.join(defaults)}; it is ignored")
        self._std_m, self._received_s = math.nan, -math.inf
        self.create_subscription(PoseWithCovarianceStamped, "pose", self._on_pose, 5)
        self._publisher = self.create_publisher(Float32, "environment_confidence_value", 5)
        # Not the node's own clock: that one stands still where a simulation pauses or somebody sets the time back.
        self.create_timer(_PERIOD_S, self._speak, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _on_pose(self, message: PoseWithCovarianceStamped) -> None:
        # A steady clock from receipt: a wrong clock elsewhere must not make an old pose young.
        self._std_m, self._received_s = uncertainty_m(message.pose.covariance), time.monotonic()

    def _speak(self) -> None:
        value = confidence(self._std_m, time.monotonic() - self._received_s, **self._limits)
        if math.isfinite(value):
            self._publisher.publish(Float32(data=value))


def main() -> int:
    """Run until Ctrl-C; return 2 where arguments or parameters say nothing."""
    if others := remove_ros_args(sys.argv)[1:]:
        got = " ".join(others)
        print(f"localization_confidence: expected --ros-args and what follows it, got {got!r}", file=sys.stderr)
        return 2
    rclpy.init()
    try:
        node = LocalizationConfidence()
    except ValueError as error:
        print(f"localization_confidence: {error}", file=sys.stderr)
        rclpy.try_shutdown()
        return 2
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
