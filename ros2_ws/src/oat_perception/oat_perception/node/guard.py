"""The one guard of all callbacks: whatever raises in them is told and counted, and the node goes on.

Stock rclpy raises a callback's exception out of the executor, which ends the process. Where a message cannot be taken,
it raises before it has released the callback group, so that all of the node's callbacks would rest from then on. And a
service that raises never answers.
"""

from __future__ import annotations

import functools
import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.service import Service

from oat_perception.compat import from_handler, to_handler
from oat_runtime.errors import one_line, quoted

_THROTTLE_S = 5.0
_PAUSE_S = 0.01
"""Whatever fails at once, and again and again, must not take a whole core."""


class Failures:
    """What failed where nothing may fail. Told with its traceback, each place at most every five seconds.

    Attributes:
        counts: how often each place failed.
    """

    def __init__(self, logger: Any) -> None:
        """Start with none; `logger` is a node's."""
        self.counts: Counter[str] = Counter()
        self._logger = logger
        self._told_s: dict[str, float] = {}
        self._last: tuple[float, str] | None = None

    def tell(self, where: str, error: Exception) -> str:
        """Count a failure and log it, from within its `except`; returns it in one line."""
        now_s, words = time.monotonic(), f"{where} failed: {quoted(error)}"
        self.counts[where] += 1
        self._last = now_s, words
        if now_s - self._told_s.get(where, -_THROTTLE_S) >= _THROTTLE_S:
            self._told_s[where] = now_s
            lines = traceback.format_exc().splitlines()
            self._logger.error("\n".join([f"{words}; {self.counts[where]} times so far", *map(one_line, lines[-20:])]))
        return words

    def recent(self, now_s: float) -> str:
        """The last failure in one line, for the five seconds that follow it; else empty."""
        return self._last[1] if self._last is not None and now_s - self._last[0] <= _THROTTLE_S else ""


class GuardedExecutor(SingleThreadedExecutor):
    """Spin a node whose callbacks may raise: subscriptions, timers, services, parameters, lifecycle and events alike.

    A service whose callback raises answers with an empty response, which means failure in every service here, and with
    the reason if the response has a field for it. A node that has `failures` is guarded. One that has none is a tool,
    which an error ends, as in rclpy.
    """

    def __init__(self, *, context: Context | None = None, ending: Callable[[], bool] = lambda: False) -> None:
        """Spin nothing yet.

        Args:
            context: rclpy's; None: the global one.
            ending: whether the process is on its way out, so that rclpy's own complaints are nobody's failure.
        """
        super().__init__(context=context)
        self._ending = ending

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """As in rclpy, but what the executor itself raises is told, unless the process is on its way out."""
        try:
            super().spin_once(timeout_sec)
        except ExternalShutdownException:
            raise
        except Exception as error:
            guarded: list[Failures] = [node.failures for node in self.get_nodes() if hasattr(node, "failures")]
            if self._is_over() and (guarded or isinstance(error, RuntimeError)):
                return
            if not guarded:
                raise
            guarded[0].tell("the executor", error)
            time.sleep(_PAUSE_S)

    def _is_over(self) -> bool:
        return not self.context.ok() or self._ending()

    def _make_handler(self, entity: Any, node: Any, *taking: Callable[..., Any]) -> Any:
        failures: Failures | None = getattr(node, "failures", None)
        if failures is None:
            return super()._make_handler(entity, node, *taking)
        if isinstance(entity, Service) and not isinstance(entity.callback, _Answering):
            entity.callback = _Answering(entity.callback, _name(entity), failures)

        take_work = from_handler(*taking)

        def tell(error: Exception) -> None:
            if not self._is_over():
                failures.tell(_name(entity), error)

        def take(entity: Any) -> Any:
            try:
                execute = take_work(entity)
            except Exception as error:
                tell(error)
                return None
            return None if execute is None else functools.partial(run, execute)

        async def run(execute: Any) -> None:
            try:
                await execute()
            except Exception as error:
                tell(error)

        return super()._make_handler(entity, node, *to_handler(take, *taking[1:]))


class _Answering:
    """A service's callback that answers in any case."""

    def __init__(self, callback: Callable[[Any, Any], Any], where: str, failures: Failures) -> None:
        self._callback, self._where, self._failures = callback, where, failures

    def __call__(self, request: Any, response: Any) -> Any:
        try:
            return self._callback(request, response)
        except Exception as error:
            done = list(getattr(response, "results", ()))  # rclpy sets one parameter after the other
            return _refusal(request, type(response)(), done, self._failures.tell(self._where, error))


def _refusal(request: Any, response: Any, done: list[SetParametersResult], reason: str) -> Any:
    refused = SetParametersResult(successful=False, reason=reason)
    if hasattr(response, "message"):
        response.message = reason
    elif hasattr(response, "result") and isinstance(response.result, SetParametersResult):
        response.result = refused
    elif hasattr(response, "results"):
        response.results = done + [refused] * (len(request.parameters) - len(done))
    return response


def _name(entity: Any) -> str:
    """What a callback belongs to, as in `service ~/get_table`; a timer or an event is known by its function."""
    function = getattr(getattr(entity, "callback", None), "__qualname__", "")
    name = getattr(entity, "topic", "") or getattr(entity, "srv_name", "") or function
    return f"{type(entity).__name__.removesuffix('Handler').lower()} {name}".strip()
