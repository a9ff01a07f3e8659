"""Watch over the node: log and report, once each, that a part fell silent, and what it does when that is over."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node

from oat_perception.middleware import STEADY
from oat_perception.node.diagnostics import Health, next_silence_s, part_of, statuses, troubles
from oat_perception.node.subscriptions import camera_topic

_PERIOD_S = 0.1
"""Period of the checks. One more check comes at the very moment at which a silence reaches its limit."""
_JUST_AFTER_S = 0.0005
"""Delay of that check, so that rounding of the clock cannot make it too early."""
_DIAGNOSTICS_PERIOD_S = 1.0
_IDLE = ("unconfigured", "inactive")
_IDLE_S = 5.0
"""A lifecycle manager takes its time before it activates the node."""


class Watch:
    """Publish /diagnostics once a second, and at once when a part becomes better or worse."""

    def __init__(self, node: Node, *, health: Callable[[], Health], announce: Callable[[str], None]) -> None:
        """Start the checks.

        Args:
            node: the node.
            health: returns the present health.
            announce: told when the policy falls silent, because results cannot say so then.
        """
        self._node, self._health, self._announce = node, health, announce
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 1)
        self._levels: dict[str, bytes] = {}
        self._has_images = False
        self._idle_since_s: float | None = None
        self._published_s = 0.0
        self._timer = node.create_timer(_PERIOD_S, self._look, clock=STEADY)

    def _look(self) -> None:
        health = self._health()
        found = statuses(health)
        bad = troubles(found)
        now = {part_of(status): status.message or "well again" for status in found}
        before, self._levels = self._levels, {part: status.level for part, status in bad.items()}
        for part, _ in self._levels.items() - before.items():
            self._node.get_logger().warning(f"{part}: {bad[part].message}")
        for part in before.keys() - self._levels.keys():
            self._node.get_logger().info(f"{part}: {now.get(part, 'no longer watched')}")
        if self._levels.get("policy") == DiagnosticStatus.ERROR != before.get("policy"):
            self._announce(f"the policy is {bad['policy'].message}")
        self._tell_of_images(health)
        # Half a period early, so that a timer's jitter does not stretch the second by a whole one.
        due = health.now_s - self._published_s >= _DIAGNOSTICS_PERIOD_S - _PERIOD_S / 2
        if due or before != self._levels:
            array = DiagnosticArray(status=found)
            array.header.stamp = self._node.get_clock().now().to_msg()
            self._publisher.publish(array)
            self._published_s = health.now_s
        self._look_again_by(next_silence_s(health) + _JUST_AFTER_S)

    def _tell_of_images(self, health: Health) -> None:
        """Log the first image of an active node, and warn once of a camera whose images an idle one does not take."""
        log = self._node.get_logger()
        heard = health.tally is not None and health.tally.last_received_s is not None
        if heard and not self._has_images:
            log.info("camera: the first image came")
        self._has_images = heard
        if health.state not in _IDLE:
            self._idle_since_s = None
        elif self._idle_since_s is None:
            self._idle_since_s = health.now_s
        elif health.now_s - self._idle_since_s > _IDLE_S and self._node.count_publishers(camera_topic(self._node)):
            self._idle_since_s = math.inf
            log.warning(
                f"a camera publishes on {camera_topic(self._node)}, but this node is {health.state} and takes no "
                "image: activate it"
            )

    def _look_again_by(self, moment_s: float) -> None:
        period_s = min(_PERIOD_S, max(_JUST_AFTER_S, moment_s - time.monotonic()))
        self._timer.timer_period_ns = round(1e9 * period_s)
        self._timer.reset()
