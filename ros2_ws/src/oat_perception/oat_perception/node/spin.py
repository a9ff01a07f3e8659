"""Run a node until it is done or interrupted, and end with an exit status instead of a traceback."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import rclpy
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args

from oat_perception.core.parameters import Spec
from oat_perception.interrupts import Interrupts
from oat_perception.middleware import STEADY
from oat_perception.node.guard import GuardedExecutor
from oat_runtime.commands import REFUSED, Parser, print_anything
from oat_runtime.errors import ConfigError, OATError, one_line

_BEAT_S = 0.5
_OURS = ("oat_runtime", "policy", "oat_perception")
_Node = TypeVar("_Node", bound=Node)


def spin(
    make_node: Callable[[], _Node],
    *,
    name: str,
    args: list[str] | None = None,
    parser: Parser | None = None,
    outcome: Callable[[_Node], int | None] = lambda _: None,
) -> int:
    """Make a node and run it, from the main thread, with rclpy's own global context.

    Args:
        make_node: called once rclpy is there.
        name: the node's, for the log as long as there is no node.
        args: command line; None: the process's own.
        parser: what --help prints, and what refuses arguments that are not ROS's; None: they have been read already.
        outcome: asked after each callback for the exit status; None as long as the node has not finished.

    Returns:
        Exit status: 0 if it was interrupted, `outcome` if it has finished, `REFUSED` if it cannot start; the log says
        why.
    """
    print_anything()
    given = sys.argv[1:] if args is None else args
    if parser is not None and {"-h", "--help"} & set(given):
        parser.print_help()
        return 0
    node: _Node | None = None
    with Interrupts() as interrupts:
        try:
            keeps_log = _can_keep_log()
            try:
                rclpy.init(
                    args=given if keeps_log else [*given, "--ros-args", "--disable-external-lib-logs"],
                    signal_handler_options=SignalHandlerOptions.NO,
                )
            except RuntimeError as error:  # a parameter file or an argument that rclpy cannot read
                raise ConfigError(str(error)) from error
            if parser is not None:
                parser.parse_args(remove_ros_args(given))
            node = make_node()
            if not keeps_log:
                node.get_logger().warning("no log file is kept: ROS_LOG_DIR and HOME name no folder to write in")
            with _LogOf(node):
                try:
                    return _spin(node, outcome, interrupts)
                finally:
                    if interrupts.came:
                        node.get_logger().info(f"{interrupts.came[0].name} came: the node ends")
                    node.destroy_node()
        except (OATError, InvalidParameterTypeException, InvalidParameterValueException) as error:
            rclpy.logging.get_logger(name).fatal(str(error))
            return REFUSED
        except OSError as error:  # a file that the node was told to write, at its start or when the disk is full
            rclpy.logging.get_logger(name).fatal(one_line(error))
            return REFUSED if node is None else 1
        finally:
            rclpy.try_shutdown()


def _can_keep_log() -> bool:
    """Return whether there is a folder for log files; rclpy does not start without one."""
    named = next(filter(None, (os.environ.get(name) for name in ("ROS_LOG_DIR", "ROS_HOME", "HOME"))), "")
    folder = Path(os.path.expanduser(named)) if named else Path("/")
    there = next((place for place in (folder, *folder.parents) if place.exists()), folder)
    return bool(named) and there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def node_parser(module: str, about: str, specs: Iterable[Spec]) -> Parser:
    """Return the parser of a node that takes ROS arguments alone; its help names each parameter with its default."""
    rows = [f"  {spec.name} ({json.dumps(spec.default)}): {spec.meaning}" for spec in specs]
    return Parser(
        prog=f"python -m oat_perception.{module}",
        usage="%(prog)s [-h] [--ros-args [-p NAME:=VALUE] [--params-file FILE] [-r FROM:=TO] ...]",
        description=about,
        epilog="\n".join(["parameters, with their defaults (docs/parameters.md has ranges and units):", *rows]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _spin(node: _Node, outcome: Callable[[_Node], int | None], interrupts: Interrupts) -> int:
    executor = GuardedExecutor(ending=lambda: bool(interrupts.came))
    executor.add_node(node)
    # Only a callback ends a wait for the next one, and so lets Python see a signal. rclpy's own handlers would wake it,
    # but also take its context away from whatever is at work.
    node.create_timer(_BEAT_S, lambda: None, clock=STEADY)
    try:
        while rclpy.ok() and not interrupts.came:
            if (status := outcome(node)) is not None:
                return status
            executor.spin_once()
    except ExternalShutdownException:
        pass
    finally:
        executor.shutdown(timeout_sec=0)  # one that the garbage collector finds may complain with a traceback
    return 0


class _LogOf(logging.Handler):
    """Within `with`, what this project's packages log goes to a node's log, with its name."""

    def __init__(self, node: Node) -> None:
        super().__init__(logging.INFO)
        self._logger: Any = node.get_logger()

    def __enter__(self) -> None:
        for name in _OURS:
            logging.getLogger(name).addHandler(self)
            logging.getLogger(name).setLevel(logging.INFO)

    def __exit__(self, *_: object) -> None:
        for name in _OURS:
            logging.getLogger(name).removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        words = one_line(record.getMessage(), most=1000)
        if record.exc_info:
            words = "\n".join(
                [words, *map(one_line, logging.Formatter().formatException(record.exc_info).splitlines())]
            )
        if record.levelno >= logging.ERROR:
            self._logger.error(words)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(words)
        else:
            self._logger.info(words)
