"""Say why nothing arrives on a topic, as far as the graph tells."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

from rclpy.node import Node

_ASK_EVERY_S = 0.9
"""The watchdog looks far more often, and the graph changes seldom."""


class Cause:
    """Why a part is silent, asked while it is. It is logged where it becomes another one than the watchdog logged."""

    def __init__(self, node: Node, part: str, ask: Callable[[], str]) -> None:
        """Ask nothing yet.

        Args:
            node: whose logger is used.
            part: begins a line of the log.
            ask: returns the present cause; empty where the graph tells none.
        """
        self._node, self._part, self._ask = node, part, ask
        self._cause, self._asked_s, self._told = "", -math.inf, ""

    def __call__(self) -> str:
        """Return the cause, at most about a second old."""
        now_s = time.monotonic()
        since_s = now_s - self._asked_s
        if since_s < _ASK_EVERY_S:
            return self._cause
        if since_s > 2 * _ASK_EVERY_S:  # the part was well in between
            self._told = ""
        before, self._cause, self._asked_s = self._cause, self._ask(), now_s
        # The watchdog logs the first one. A publisher that has just come is given until the next look.
        if not self._told:
            self._told = self._cause
        elif self._cause == before != self._told:
            self._told = self._cause
            self._node.get_logger().warning(f"{self._part}: {self._cause}")
        return self._cause


def types_on(node: Node, topic: str) -> set[str]:
    """Return the types that a topic is published as, as `std_msgs/msg/Float32`; none: nobody publishes it."""
    return {info.topic_type for info in node.get_publishers_info_by_topic(topic)}


def another_type(topic: str, types: set[str], wanted: str) -> str:
    """Return in words that a topic is published, and not as the type that the node takes."""
    return f"{topic} is published as {', '.join(sorted(types))}, not as {wanted}"


def why_unheard(node: Node, wanted: Mapping[str, str]) -> str:
    """Return why nothing arrives on any of these topics.

    Args:
        node: the node.
        wanted: by topic, before it is resolved, the type that the node takes.
    """
    heard = [(node.resolve_topic_name(name), kind) for name, kind in wanted.items()]
    found = {topic: types_on(node, topic) for topic, _ in heard}
    for topic, kind in heard:
        if kind in found[topic]:
            return f"a publisher of {topic} matches, but nothing arrives"
    for topic, kind in heard:
        if found[topic]:
            return another_type(topic, found[topic], kind)
    return f"nobody publishes {' or '.join(found)}"
