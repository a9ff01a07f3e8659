"""Take the operator's commands: parameters, and λ and width by parameter or by service."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from oat_msgs.msg import OperatingPoint
from oat_msgs.srv import SetOperatingPoint
from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from oat_perception.compat import after_parameters
from oat_perception.core.overrides import Overrides, what_changed
from oat_perception.core.parameters import ADAPTIVE, OVERRIDES, SPECS, Offered, objection
from oat_perception.middleware import STEADY
from oat_perception.node.messages import parameter_descriptor
from oat_runtime.errors import OperatingPointError, one_line
from oat_runtime.operating_point import OperatingPoint as Point
from oat_runtime.runtime import OATRuntime
from policy.config import PolicyConfig
from policy.signals import Override

Announce = Callable[[str], None]
_MAX_EXPIRY_S = 7 * 86400.0
"""A week: who wants an override for longer wants one that lasts."""
_LOCK = "safety_lock"
_BY_PARAMETER = "parameter"
_LEAST_WAIT_S = 0.0005
"""A timer must not come before the moment that it waits for, by the rounding of a clock."""


class Commands:
    """Parameters and overrides of one node. All runs on the executor's thread; any thread may read `overrides`.

    An override without expiry is a parameter, so a dumped parameter file brings it back. An override with an expiry is
    laid over the parameter and leaves it as it is, so no file can make it last, and the parameter holds again after it.
    """

    def __init__(self, node: Node, *, announce: Announce, changed: Callable[[], None]) -> None:
        """Declare all parameters with the values given at start.

        Args:
            node: the node.
            announce: told why an override ended.
            changed: called after any parameter was set.

        Raises:
            InvalidParameterValueException: an initial value is refused; the message says why.
        """
        self.overrides = Overrides()
        self._node, self._announce, self._changed = node, announce, changed
        self._offered: Offered | None = None
        self._timed: dict[str, Override] = {}
        self._by, self._is_locked = "the parameters at start", False
        self._expiry = node.create_timer(_MAX_EXPIRY_S, self._expire, clock=STEADY)
        self._expiry.cancel()
        node.add_on_set_parameters_callback(self._on_set)
        for spec in SPECS:
            node.declare_parameter(spec.name, spec.default, parameter_descriptor(spec, with_range=False))
        after_parameters(node, self._post_set)
        self._post_set([node.get_parameter(name) for name in (*OVERRIDES, _LOCK)])
        self._by = _BY_PARAMETER

    @property
    def values(self) -> dict[str, Any]:
        """Values of all parameters."""
        return {spec.name: self._node.get_parameter(spec.name).value for spec in SPECS}

    def bind(self, runtime: OATRuntime, config: PolicyConfig) -> None:
        """Check overrides against a bundle and the hard limits from now on; what it was loaded with is then fixed.

        Raises:
            OperatingPointError: the override in force is not offered.
        """
        offered = _offer(runtime, config)
        values = {knob: self._node.get_parameter(knob).value for knob in OVERRIDES}
        if problem := objection(values, current=values, offered=offered):
            raise OperatingPointError(problem)
        self._offered = offered

    def unbind(self) -> None:
        """Stop checking overrides, because the bundle is gone."""
        self._offered = None

    def suspend(self) -> str:
        """On deactivation, end overrides with an expiry. Return what to announce, or an empty text."""
        held = self.overrides.held
        self.overrides.end_timed()
        self._wait_for_expiry()
        self._log(held, "the deactivation")
        lasting = [knob for knob in held if knob in self.overrides.held]
        if not held:
            return ""
        reason = f"deactivated: the override of {' and '.join(held)} ended"
        return f"{reason}; parameter {' and '.join(lasting)} asks for it again on activation" if lasting else reason

    def set_operating_point(
        self, request: SetOperatingPoint.Request, *, active: OperatingPoint, runtime: OATRuntime, safest: Point
    ) -> str:
        """Set or release λ and width together.

        Args:
            request: what is asked.
            active: message with the active operating point; changed to the one that the next image will find, or that
                is compiled first, as its reason then says.
            runtime: knows at which λ an asked one runs, and what is compiled.
            safest: the point that the safety lock forces.

        Returns:
            Why the request is refused; empty if it is done.
        """
        asked = {"lambda": request.lambda_value, "width": request.width}
        wanted = {knob: value for knob, value in asked.items() if not math.isnan(value) and value != request.KEEP}
        if not 0 <= request.expiry_s <= _MAX_EXPIRY_S:
            return f"expiry_s must be in [0, {_MAX_EXPIRY_S:g}] s (0: never), got {request.expiry_s:g}"
        if problem := objection(wanted, current={}, offered=self._offered):
            return problem
        timed: dict[str, Override] = {}
        if request.expiry_s > 0:
            expires_s = time.monotonic() + request.expiry_s
            timed = {knob: Override(value, expires_s) for knob, value in wanted.items() if value != ADAPTIVE}
        lasting = [Parameter(knob, value=value) for knob, value in wanted.items() if knob not in timed]
        problem = ""
        self._by, self._timed = "the service set_operating_point", timed
        try:
            if lasting:
                problem = self._node.set_parameters_atomically(lasting).reason
            elif timed:
                self._put({})
        finally:
            self._by, self._timed = _BY_PARAMETER, {}
        self._foretell(active, runtime, safest)
        return problem

    def once(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Call a function once, on the executor, after a delay on the steady clock."""

        def fire() -> None:
            self._node.destroy_timer(timer)
            callback()

        timer = self._node.create_timer(delay_s, fire, clock=STEADY)

    def _foretell(self, point: OperatingPoint, runtime: OATRuntime, safest: Point) -> None:
        """Change a message to what will be in force and from when, as far as that is not the policy's to choose."""
        held, words = self.overrides.held, list[str]()
        if self._is_locked:
            point.lambda_value, point.width = safest.lam, safest.width
            point.lambda_source = point.width_source = OperatingPoint.SOURCE_SAFETY_LOCK
            point.reason = "the safety lock is set: the safest point runs until it is released"
            return
        if (override := held.get("lambda")) is not None:
            point.lambda_value = runtime.effective(lam=override.value, width=point.width).lam
            point.lambda_source = OperatingPoint.SOURCE_OPERATOR
            if point.lambda_value != override.value:
                words.append(f"λ {override.value:g} runs as {point.lambda_value:g}")
        elif point.lambda_source == OperatingPoint.SOURCE_OPERATOR:
            point.lambda_source = OperatingPoint.SOURCE_ADAPTIVE
            words.append("the policy chooses λ, here still the last one")
        if (override := held.get("width")) is not None:
            point.width, point.width_source = override.value, OperatingPoint.SOURCE_OPERATOR
        elif point.width_source == OperatingPoint.SOURCE_OPERATOR:
            point.width_source = OperatingPoint.SOURCE_ADAPTIVE
            words.append("the policy chooses the width, here still the last one")
        wanted, start = Point(point.lambda_value, point.width), "from the next image on"
        if not runtime.is_prepared(wanted):
            failure = runtime.failure_of(wanted)
            start = "once it is compiled; until then images run as before"
            if failure is not None:
                start = f"images run as before, since {wanted} cannot be prepared: {one_line(failure)}"
        point.reason = "; ".join([start, *words])

    def _on_set(self, parameters: list[Parameter]) -> SetParametersResult:
        """Check changes, without any effect."""
        changes = {parameter.name: parameter.value for parameter in parameters}
        current = {name: self._node.get_parameter(name).value for name in changes if self._node.has_parameter(name)}
        reason = objection(changes, current=current, offered=self._offered)
        return SetParametersResult(successful=not reason, reason=reason)

    def _post_set(self, parameters: list[Parameter]) -> None:
        """Apply the operator's λ and width. All other parameters are read where they are used."""
        for parameter in parameters:
            if parameter.name == _LOCK and parameter.value != self._is_locked:
                self._is_locked = bool(parameter.value)
                what = "set: the safest point runs" if self._is_locked else "released"
                self._node.get_logger().info(f"safety lock {what}; by {self._by}")
        wanted = {parameter.name: parameter.value for parameter in parameters if parameter.name in OVERRIDES}
        self._put({knob: None if value == ADAPTIVE else Override(float(value)) for knob, value in wanted.items()})

    def _put(self, lasting: Mapping[str, Override | None]) -> None:
        """Put in force what lasts or is released, with what the service lays over it, all at once."""
        held = self.overrides.held
        released = self.overrides.put({**lasting, **self._timed})
        self._wait_for_expiry()
        self._log(held, self._by)
        self._say(released, "released")
        self._changed()

    def _expire(self) -> None:
        held = self.overrides.held
        expired = self.overrides.expire(time.monotonic())
        self._wait_for_expiry()
        self._log(held, "its expiry")
        self._say(expired, "expired")

    def _wait_for_expiry(self) -> None:
        """Let the one timer of all overrides wait for the next that expires, if there is one."""
        self._expiry.cancel()
        if (next_s := self.overrides.next_expiry_s) is not None:
            self._expiry.timer_period_ns = round(1e9 * (max(0.0, next_s - time.monotonic()) + _LEAST_WAIT_S))
            self._expiry.reset()

    def _log(self, before: Mapping[str, Override], by: str) -> None:
        """Keep in the log what changed, and by what; rclpy does not tell which caller it was."""
        if changed := what_changed(before, self.overrides.held, now_s=time.monotonic()):
            self._node.get_logger().info(f"override: {changed}; by {by}")

    def _say(self, knobs: list[str], how: str) -> None:
        """Publish that these overrides ended, and what holds in their place."""
        held = self.overrides.held
        lasting = [f"parameter {knob} holds" for knob in knobs if knob in held]
        then = [*lasting, "the policy chooses"] if len(lasting) < len(knobs) else lasting
        if knobs:
            self._announce(f"the override of {' and '.join(knobs)} {how}: {' and '.join(then)} from the next image on")


def _offer(runtime: OATRuntime, config: PolicyConfig) -> Offered:
    """Return a check of the operator's λ and width against the bundle and the hard limits."""

    def check(lam: float | None, width: float | None) -> None:
        active = runtime.active
        runtime.effective(lam=active.lam if lam is None else lam, width=active.width if width is None else width)
        for knob, value, low, high in (
            ("lambda", lam, config.lam_min, config.lam_max),
            ("width", width, config.width_min, config.width_max),
        ):
            if value is not None and not low <= value <= high:
                raise OperatingPointError(
                    f"{knob} must be within this node's hard limits [{low:g}, {high:g}], got {value:g}: "
                    f"change {knob}_min or {knob}_max where that is safe"
                )

    return check
