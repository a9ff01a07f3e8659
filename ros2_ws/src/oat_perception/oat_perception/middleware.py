"""Hold what all nodes ask of the middleware alike: a clock that nobody sets, topics that keep their last message."""

from __future__ import annotations

from rclpy.clock import Clock, ClockType
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

STEADY = Clock(clock_type=ClockType.STEADY_TIME)
"""Of all timers, ages, expiries and throttled log lines. A simulated clock may stop, and a wall clock may be set back:
what waits for either would stand still for that long.
"""
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
"""Of a topic whose last message reaches who comes later, too."""
