"""Watch and command the node from a terminal, even without the `ros2` command: `python -m oat_perception.console`.

Without arguments it prints the node's results, and every change of λ and width with its reason. With `NAME=VALUE ...`
it sets all named parameters or none, and ends: `lambda=0.8 width=0.5`, or `--node camera_replay corruption=fog`.
"""

from __future__ import annotations

import math
import sys
import time

import yaml
from oat_msgs.msg import OperatingPoint, Perception
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.node import Node
from rclpy.parameter import get_parameter_value
from rclpy.task import Future
from rclpy.utilities import remove_ros_args

from oat_perception.middleware import LATCHED, STEADY
from oat_perception.node.enums import REGIMES, SOURCE_NAMES
from oat_perception.node.spin import spin
from oat_runtime.commands import Parser, command
from oat_runtime.errors import ConfigError, OATError, one_line
from oat_runtime.text import plain

_NAME = "operator_console"
_ANSWER_S = 10.0
_LOOK_S = 0.05
_REPORT_S = 1.0
_MOST_SHOWN = 500


class Follower(Node):
    """Print the newest result once a second, and each operating point when it takes effect."""

    def __init__(self, target: str) -> None:
        """Subscribe to the results of the perception node `target`, which computes them from then on."""
        super().__init__(_NAME)
        self._target = target
        self._num, self._latest, self._in_force, self._column = 0, Perception(), "", 12
        self._rate_cause = ""
        self._reported: Perception | None = None
        self.create_subscription(OperatingPoint, f"{target}/operating_point", self._on_point, LATCHED)
        self.create_subscription(Perception, f"{target}/perception", self._on_result, 10)
        self.create_timer(_REPORT_S, self._report, clock=STEADY)

    def _on_point(self, point: OperatingPoint) -> None:
        lam, width = SOURCE_NAMES[point.lambda_source], SOURCE_NAMES[point.width_source]
        in_force = f"λ {point.lambda_value:g} ({lam}), width {point.width:g} ({width})"
        if in_force != self._in_force:
            print(f"now {in_force}: {one_line(point.reason, most=_MOST_SHOWN)}", flush=True)
        self._in_force = in_force

    def _on_result(self, result: Perception) -> None:
        self._num, self._latest = self._num + 1, result

    def _report(self) -> None:
        if not self._num:
            print(
                f"no results yet: is {plain(self._target)} active, and has it a camera? /diagnostics says more",
                flush=True,
            )
            return
        latest, num, self._num = self._latest, self._num, 0
        if latest.max_rate_cause != self._rate_cause:
            self._rate_cause = latest.max_rate_cause
            limit = f"at most {latest.max_rate_hz:.3g} images/s: {one_line(self._rate_cause, most=_MOST_SHOWN)}"
            print(f"now {limit if self._rate_cause else 'no limit of the rate'}", flush=True)
        mass, regime = max(zip(latest.regime_posterior, REGIMES, strict=True))
        looks = "" if math.isnan(mass) else f"looks {regime.value.replace('_', ' ')} ({mass:.0%}), "
        class_name = one_line(latest.class_name, most=_MOST_SHOWN)
        self._column = max(self._column, len(class_name))  # names are whole: "no passing" is not "… for trucks"
        point = f"λ {latest.lambda_value:<4.3g}  width {latest.width:<5g}"
        print(
            f"{class_name:<{self._column}} {latest.confidence:4.0%}  {point}  "
            f"{looks}{latest.inference_ms:.1f} ms, {num / _REPORT_S:.0f} images/s{self._left_out(latest)}",
            flush=True,
        )

    def _left_out(self, latest: Perception) -> str:
        """Return how many images had no result since the last report, by what left them out."""
        before, self._reported = self._reported, latest
        if before is None:  # what was counted before this console came is no news
            return ""
        dropped, skipped = latest.num_dropped - before.num_dropped, latest.num_skipped - before.num_skipped
        words = (dropped, "dropped since busy"), (skipped, "skipped for the rate")
        return "".join(f", {number} {what}" for number, what in words if number > 0)  # less: it was activated again


class Setter(Node):
    """Set parameters of another node, all or none.

    Attributes:
        done: whether they are set.
    """

    def __init__(self, target: str, parameters: list[Parameter]) -> None:
        """Look for the node `target`. If it does not set them, a callback raises an `OATError` that says why."""
        super().__init__(_NAME)
        self.done = False
        self._target, self._wanted = target, parameters
        self._future: Future | None = None
        self._until_s = time.monotonic() + _ANSWER_S
        self._client = self.create_client(SetParametersAtomically, f"{target}/set_parameters_atomically")
        self.create_timer(_LOOK_S, self._look, clock=STEADY)

    def _look(self) -> None:
        if self._future is None and self._client.service_is_ready():
            self._future = self._client.call_async(SetParametersAtomically.Request(parameters=self._wanted))
        if self._future is not None and self._future.done():
            result = self._future.result().result
            if not result.successful:
                raise OATError(f"{self._target} refused: {one_line(result.reason, most=_MOST_SHOWN)}")
            self.done = True
        elif time.monotonic() > self._until_s:
            raise OATError(f"{self._target} did not answer in {_ANSWER_S:g} s: does it run, in this ROS_DOMAIN_ID?")


def setting(text: str) -> Parameter:
    """Return `NAME=VALUE` as a parameter. Its type is guessed as `ros2 param set` does.

    Raises:
        ConfigError: it is not of that form.
    """
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ConfigError(f"expected NAME=VALUE, as in lambda=0.8, got {text!r}")
    try:
        return Parameter(name=name, value=get_parameter_value(value))
    except yaml.YAMLError:
        return Parameter(name=name, value=ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=value))


@command("console")
def main() -> int:
    """Follow the node until Ctrl-C, or set what is given."""
    parser = Parser(prog="python -m oat_perception.console", description=__doc__)
    parser.add_argument("settings", nargs="*", metavar="NAME=VALUE", help="parameters to set; lambda=-1 gives λ back")
    parser.add_argument("--node", default="oat_perception", help="whose (default: oat_perception)")
    asked = "--help" in sys.argv or "-h" in sys.argv  # which ROS would not let pass behind its own arguments
    args = parser.parse_args(["--help"] if asked else remove_ros_args(sys.argv)[1:])
    parameters = [setting(text) for text in args.settings]
    if parameters:
        return spin(lambda: Setter(args.node, parameters), name=_NAME, outcome=lambda node: 0 if node.done else None)
    return spin(lambda: Follower(args.node), name=_NAME)


if __name__ == "__main__":
    sys.exit(main())
