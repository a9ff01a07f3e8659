"""Make a managed node survive impossible transitions, and say why one failed; stock rclpy does neither."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from oat_runtime.errors import OATError


class GuardedLifecycleNode(LifecycleNode):
    """A managed node that answers every transition request.

    Attributes:
        problem: why the last transition failed; empty where it did not.
    """

    problem = ""

    @property
    def state(self) -> str:
        """The name of the lifecycle state."""
        return str(self._state_machine.current_state[1])

    def guard_change_state(self) -> None:
        """Answer requests for impossible transitions; with the stock service they would end the executor."""
        service = self._service_change_state
        stock = service.callback

        def change_state(request: Any, response: Any) -> Any:
            try:
                return stock(request, response)
            except Exception as error:
                wanted = request.transition.label or request.transition.id
                self.get_logger().error(f"transition {wanted} is not possible while {self.state}: {error}")
                response.success = False
                return response

        service.callback = change_state


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
            node.problem = f"{transition.__name__}: {error}"
            node.get_logger().error(node.problem)
            return TransitionCallbackReturn.FAILURE
        except Exception as error:
            if not node.context.ok():  # rclpy's own complaint, where an interrupt came in the middle
                return TransitionCallbackReturn.FAILURE
            node.problem = f"{transition.__name__}: {error!r}"
            node.get_logger().error(f"{transition.__name__} failed unexpectedly\n{traceback.format_exc()}")
            return TransitionCallbackReturn.ERROR
        if transition.__name__ != "on_error":
            node.problem = ""
        return TransitionCallbackReturn.SUCCESS

    return run
