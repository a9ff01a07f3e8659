"""Speak to the rclpy of every distribution alike: all that differs between Humble and later ones is here.

Humble's part is written from its sources (branch `humble` of ros2/rclpy) and has run nowhere; docs/ros.md says what is
tested. A distribution is known by what it has, never by its name.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher

from oat_perception.middleware import STEADY

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks

__all__ = ["SubscriptionEventCallbacks", "after_parameters", "counted_publisher", "from_handler", "to_handler"]

_COUNT_PERIOD_S = 0.2


def counted_publisher(node: Node, kind: Any, topic: str, depth: int, *, on_count: Callable[[int], None]) -> Publisher:
    """Create a publisher that tells the number of its subscribers when that changes.

    Humble has no event for that, so there a timer asks for the number until the publisher is destroyed.
    """

    @functools.wraps(on_count)  # a failure is counted under its name
    def on_matched(event: Any) -> None:
        on_count(event.current_count)

    try:
        events = PublisherEventCallbacks(matched=on_matched)
    except TypeError:
        return _polled_publisher(node, kind, topic, depth, on_count=on_count)
    return node.create_publisher(kind, topic, depth, event_callbacks=events)


def _polled_publisher(node: Node, kind: Any, topic: str, depth: int, *, on_count: Callable[[int], None]) -> Publisher:
    publisher = node.create_publisher(kind, topic, depth)

    def ask() -> None:
        if publisher in node.publishers:
            on_count(publisher.get_subscription_count())
        else:
            node.destroy_timer(timer)

    timer = node.create_timer(_COUNT_PERIOD_S, ask, clock=STEADY)
    return publisher


def after_parameters(node: Any, callback: Callable[[list[Parameter]], None]) -> None:
    """Call a function after parameters were set, before whoever set them hears of it.

    Humble has no callback for that. All its ways to set parameters end in one method, which is wrapped there.
    """
    if hasattr(node, "add_post_set_parameters_callback"):
        node.add_post_set_parameters_callback(callback)
        return
    stock = node._set_parameters_atomically

    @functools.wraps(stock)
    def set_and_tell(parameters: list[Parameter], *args: Any, **kwargs: Any) -> Any:
        result = stock(parameters, *args, **kwargs)
        if result.successful:
            callback(parameters)
        return result

    node._set_parameters_atomically = set_and_tell


def from_handler(take: Callable[[Any], Any], *call: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
    """Return what takes an entity's work and returns how to do it, or None, from what an executor makes a handler of.

    Since Jazzy that is one function; in Humble one takes and the other does.
    """
    if not call:
        return take
    return lambda entity: functools.partial(call[0], entity, take(entity))


def to_handler(take: Callable[[Any], Any], *call: Callable[[Any, Any], Any]) -> tuple[Callable[..., Any], ...]:
    """Undo `from_handler`: return the arguments that this distribution's executor makes a handler of."""
    if not call:
        return (take,)

    async def run(_: Any, execute: Callable[[], Any] | None) -> None:
        if execute is not None:
            await execute()

    return take, run
