"""Say why a transition of a managed node failed; stock rclpy does not."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, TypeVar

from rcl_interfaces.msg import SetParametersResult
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter

from oat_perception.middleware import STEADY
from oat_perception.node.guard import Failures
from oat_runtime.errors import OATError, one_line, quoted

_MOST_SHOWN = 1000
"""Characters of a reason: a path, and what is expected there."""
_OVER = "finalized"
_LAST_ANSWERS_S = 2.0
_THROTTLE_S = 5.0


class GuardedLifecycleNode(LifecycleNode):
    """A managed node that counts its failures.

    Attributes:
        problem: why the last transition failed; empty where it did not.
        asked_by: who asks for transitions, for the log; rclpy does not tell which caller of the service it was.
    """

    problem = ""
    _finalized_s: float | None = None
    asked_by = "the service change_state"

    @property
    def state(self) -> str:
        """The name of the lifecycle state."""
        return str(self._state_machine.current_state[1])

    @functools.cached_property
    def failures(self) -> Failures:
        """Failures of callbacks and of images in work."""
        return Failures(self.get_logger())

    def refusal(self, transition: str) -> str:
        """Return why the node cannot do something in this state, and the transition that it needs first."""
        return f"the node is {self.state}: {'start it again' if self.state == _OVER else f'{transition} it first'}"

    def set_parameters_atomically(self, parameter_list: list[Parameter]) -> Any:
        """Set all of them or none; once the node is finalized, none."""
        if self.state == _OVER:
            return SetParametersResult(successful=False, reason=self.refusal(""))
        return super().set_parameters_atomically(parameter_list)

    def _LifecycleNodeMixin__on_change_state(self, request: Any, response: Any) -> Any:
        """Refuse a transition that this state does not have. rclpy would raise, as if the node had failed."""
        asked = request.transition.label or request.transition.id
        offered = {label: number for number, label, *_ in self._state_machine.available_transitions}
        if asked in {*offered, *offered.values()}:
            return super()._LifecycleNodeMixin__on_change_state(request, response)  # type: ignore[misc]
        known = " or ".join(offered) or "none"
        self.get_logger().warning(
            f"no transition {quoted(asked)}: the node is {self.state}, from where there is {known}",
            throttle_duration_sec=_THROTTLE_S,
            throttle_time_source_type=STEADY,
        )
        return response

    def outcome(self) -> int | None:
        """Return the process's exit status once the node is finalized, so that whoever started the process sees it.

        Its services answer for two more seconds: who shut it down asks for its state, as nav2's manager does.
        """
        if self.state != _OVER:
            return None
        if self._finalized_s is None:
            self._finalized_s = time.monotonic()
            self.get_logger().info(f"finalized: the process ends in {_LAST_ANSWERS_S:g} s")
        if time.monotonic() - self._finalized_s < _LAST_ANSWERS_S:
            return None
        return 1 if self.problem else 0


_DONE = {
    "on_configure": "configured",
    "on_activate": "activated",
    "on_deactivate": "deactivated",
    "on_cleanup": "cleaned up",
    "on_shutdown": "shut down",
    "on_error": "cleaned up after an error",
}
_Node = TypeVar("_Node", bound=GuardedLifecycleNode)
_Transition = Callable[[_Node, LifecycleState], None]


def guarded(transition: _Transition[_Node]) -> Callable[[_Node, LifecycleState], TransitionCallbackReturn]:
    """Make a transition callback of a method. It reports exceptions, which rclpy would swallow.

    An error that people can mend (OATError, OSError) leaves the node in its state. Any other exception leads to
    `on_error`, which cleans up.
    """

    @functools.wraps(transition)
    def run(node: _Node, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            transition(node, state)
        except (OATError, OSError) as error:
            node.problem = f"{transition.__name__}: {one_line(error, most=_MOST_SHOWN)}"
            node.get_logger().error(node.problem)
            return TransitionCallbackReturn.FAILURE
        except Exception as error:
            if not node.context.ok():  # rclpy's own complaint, where an interrupt came in the middle
                return TransitionCallbackReturn.FAILURE
            node.problem = node.failures.tell(transition.__name__, error)
            return TransitionCallbackReturn.ERROR
        if transition.__name__ != "on_error":
            node.problem = ""
        node.get_logger().info(f"{_DONE[transition.__name__]}; by {node.asked_by}")
        return TransitionCallbackReturn.SUCCESS

    return run
