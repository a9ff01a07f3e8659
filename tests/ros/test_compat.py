"""With no more than Humble's rclpy has, the node still notices its readers and applies parameters at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from oat_perception import compat
from rclpy.node import Node


class _HumblesPublisherEvents:
    """Has no `matched`."""

    def __init__(self, *, deadline: Any = None, liveliness: Any = None, incompatible_qos: Any = None) -> None:
        raise AssertionError("is not made without the event that it lacks")


def test_the_node_runs_on_what_humble_has(start_graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "PublisherEventCallbacks", _HumblesPublisherEvents)
    monkeypatch.delattr(Node, "add_post_set_parameters_callback")
    peer = start_graph(listen=False).peer
    peer.until(lambda: "nobody subscribes" in peer.diagnoses["camera"].message, "without a reader it does not listen")
    peer.listen()
    peer.until(peer.image.get_subscription_count, "a reader came")
    assert all(result.successful for result in peer.set(lambda_=0.5, width=0.5))
    assert (peer.ask().lambda_value, peer.ask().width) == (0.5, 0.5)
    assert peer.set_together(lambda_=-1.0, width=1.0).successful
    assert peer.ask().width == 1.0
    for subscription in list(peer.subscriptions):
        if subscription.topic_name.endswith("/perception"):
            peer.destroy_subscription(subscription)
    peer.until(lambda: not peer.image.get_subscription_count(), "the last reader left")


def test_a_handler_of_one_function_and_one_of_two_do_the_same_work() -> None:
    done = []

    async def work(entity: str, taken: str) -> None:
        done.append((entity, taken))

    async def handle(entity: str, take: Any, *call: Any) -> None:
        """As the executors of Jazzy and of Humble."""
        found = take(entity)
        if call:
            await call[0](entity, found)
        elif found is not None:
            await found()

    def one(entity: str) -> Any:
        return lambda: work(entity, "message")

    two = (lambda entity: "message", work)
    for taking in ((one,), two):
        take = compat.from_handler(*taking)
        asyncio.run(handle("topic", *compat.to_handler(take, *taking[1:])))
        asyncio.run(handle("topic", *compat.to_handler(lambda entity: None, *taking[1:])))
    assert done == [("topic", "message")] * 2
