"""The managed node `oat_perception`: images in, classes and the operating point that gave them out.

Two threads. The executor's receives, checks, answers services and never computes; the inference thread takes the newest
image, runs it and publishes. They share a one-slot mailbox and a few references that are swapped whole.
"""

from __future__ import annotations

import functools
import math
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.context import Context
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rclpy.time import Time

from diagnostic_msgs.msg import DiagnosticArray
from oat_msgs.msg import DecisionRecord, EnvironmentConfidence, LabelInfo, OperatingPoint, Perception
from oat_msgs.srv import GetTable, SetOperatingPoint
from oat_perception import conversions, messages
from oat_perception.core import (
    DecisionLog,
    ExternalSignals,
    Frame,
    FrameResult,
    Mailbox,
    Pace,
    PerceptionCore,
    Received,
)
from oat_perception.diagnostics import Health, Tally, statuses
from oat_perception.parameters import (
    ADAPTIVE,
    OVERRIDES,
    SPECS,
    Spec,
    objection,
    override_objection,
    policy_config,
)
from oat_runtime.errors import InputError, OATError
from oat_runtime.runtime import OATRuntime
from policy.signals import Override, SignalState
from sensor_msgs.msg import BatteryState, CompressedImage, Image
from std_msgs.msg import Header

_LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
_THROTTLE_S = 5.0
_Transition = Callable[["PerceptionNode", LifecycleState], TransitionCallbackReturn]


@dataclass(frozen=True, slots=True)
class _Mail:
    """An image message that passed the structural check."""

    message: Any
    received_s: float


@dataclass(slots=True)
class _Loaded:
    """What exists from configure to cleanup."""

    runtime: OATRuntime
    core: PerceptionCore
    log: DecisionLog | None
    values: Mapping[str, Any]

    def close(self) -> None:
        """Give back what is not just memory."""
        self.runtime.close()
        if self.log is not None:
            self.log.close()


@dataclass(slots=True)
class _Running:
    """What exists from activate to deactivate."""

    mailbox: Mailbox[_Mail]
    tally: Tally
    thread: threading.Thread
    sequence: int = 0
    pace: Pace = None  # type: ignore[assignment]
