"""Run a node until it is done or interrupted, and end with an exit status instead of a traceback."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TypeVar

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions, install_signal_handlers, uninstall_signal_handlers

from oat_perception.node.guard import GuardedExecutor
from oat_runtime.errors import ConfigError, OATError

REFUSED = 2
"""Exit status if a parameter, file or bundle is refused, which starting again cannot mend."""
_BEAT_S = 0.5
_Node = TypeVar("_Node", bound=Node)


def spin(
    make_node: Callable[[], _Node], *, args: list[str] | None = None, done: Callable[[_Node], bool] = lambda _: False
) -> int:
    """Make a node and run it, from the main thread, with rclpy's own global context.

    Args:
        make_node: called once rclpy is there.
        args: command line; None: the process's own.
        done: asked after each callback whether the node has finished.

    Returns:
        Exit status: 0 if it was interrupted or is done, `REFUSED` if it cannot start; the log says why.
    """
    # Nothing is interrupted but the spin, which ends by rclpy's own handler. Python's would raise KeyboardInterrupt
    # wherever it likes, within rclpy's conversion of a message too, which turns it into a RuntimeError.
    interrupts: list[int] = []

    def remember(number: int, _: object) -> None:
        interrupts.append(number)
        if len(interrupts) > 1:  # whoever interrupts a third time wants an end, well or not
            signal.signal(signal.SIGINT, signal.SIG_DFL)

    handler = signal.signal(signal.SIGINT, remember)
    try:
        try:
            rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
        except RuntimeError as error:  # a parameter file or an argument that rclpy cannot read
            raise ConfigError(str(error)) from error
        node = make_node()
        try:
            _spin(node, done, interrupts)
        finally:
            node.destroy_node()
    except (OATError, InvalidParameterTypeException, InvalidParameterValueException) as error:
        rclpy.logging.get_logger("oat_perception").fatal(str(error))
        return REFUSED
    finally:
        rclpy.try_shutdown()
        uninstall_signal_handlers()
        signal.signal(signal.SIGINT, handler)
    return 0


def _spin(node: _Node, done: Callable[[_Node], bool], interrupts: list[int]) -> None:
    executor = GuardedExecutor(ending=lambda: bool(interrupts))
    executor.add_node(node)
    # rclpy wakes the spin and then shuts its context down: a spin that looks in between would wait for ever.
    node.create_timer(_BEAT_S, lambda: None, clock=Clock(clock_type=ClockType.STEADY_TIME))
    install_signal_handlers()
    try:
        while rclpy.ok() and not (interrupts or done(node)):
            executor.spin_once()
    except ExternalShutdownException:
        pass
