"""The watchdog: tells people and diagnostics, once each, that something fell silent or speaks again."""

from __future__ import annotations

from collections.abc import Callable

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node

from oat_perception.diagnostics import Health, silences, statuses

WATCH_PERIOD_S = 0.1
"""A silence is noticed at most this much after its configured time."""
_DIAGNOSTICS_PERIOD_S = 1.0


class Watch:
    """Publishes /diagnostics once a second, and at once when a part goes bad or becomes well."""

    def __init__(self, node: Node, *, announce: Callable[[str], None]) -> None:
        """Publish nothing yet.

        Args:
            node: the node.
            announce: told when the policy falls silent, which its own results then cannot say.
        """
        self._node, self._announce = node, announce
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 1)
        self._silences: dict[str, str] = {}
        self._published_s = 0.0

    def tick(self, health: Health) -> None:
        """Look; to be called every `WATCH_PERIOD_S`."""
        found = statuses(health)
        before, self._silences = self._silences, silences(found)
        for part in self._silences.keys() - before.keys():
            self._node.get_logger().warning(f"{part}: {self._silences[part]}")
        for part in before.keys() - self._silences.keys():
            self._node.get_logger().info(f"{part}: well again")
        if "policy" in self._silences.keys() - before.keys():
            self._announce(f"the policy is {self._silences['policy']}")
        # Half a watch period early, so that a timer's jitter does not stretch the second by a whole one.
        due = health.now_s - self._published_s >= _DIAGNOSTICS_PERIOD_S - WATCH_PERIOD_S / 2
        if due or before.keys() != self._silences.keys():
            array = DiagnosticArray(status=found)
            array.header.stamp = self._node.get_clock().now().to_msg()
            self._publisher.publish(array)
            self._published_s = health.now_s
