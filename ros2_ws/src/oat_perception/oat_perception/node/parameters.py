"""Answer for a node's parameters: describe them with type and range, and say which name may be meant by a wrong one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from oat_perception.core.parameters import Spec, no_such_parameter
from oat_perception.node.messages import parameter_descriptor


class SpecifiedParameters(Node):
    """To be mixed into a node whose own parameters are `Spec`s.

    Attributes:
        specs: the node's own parameters, by name.
    """

    specs: Mapping[str, Spec] = {}

    def warn_of_unknown_parameters(self) -> None:
        """Warn of each parameter that was given at the start, on the command line or in a file, and has no effect."""
        for name in sorted(name for name in self._parameter_overrides if not self.has_parameter(name)):
            if objection := self.unknown_parameter_objection(name):
                self.get_logger().warning(objection)

    def unknown_parameter_objection(self, name: str) -> str:
        """Return why a given parameter that is not declared has no effect, or an empty text if it has one."""
        return f"{no_such_parameter(name, self.specs)}; it is ignored"

    def describe_parameter(self, name: str) -> ParameterDescriptor:
        """Describe a parameter as declared, with its type, and with the range that the node enforces and explains."""
        if name not in self.specs:
            return super().describe_parameter(name)
        descriptor = parameter_descriptor(self.specs[name], with_range=True)
        # rclpy leaves out the type of a number that may be typed as an integer.
        descriptor.type = Parameter.Type.from_parameter_value(self.specs[name].default).value
        return descriptor

    def set_parameters_atomically(self, parameter_list: list[Parameter]) -> Any:
        """Set all of them or none; a name that the node does not have is refused by name, and the nearest suggested."""
        for parameter in parameter_list:
            if not self.has_parameter(parameter.name):
                reason = no_such_parameter(parameter.name, self._parameters)
                return SetParametersResult(successful=False, reason=reason)
        return super().set_parameters_atomically(parameter_list)
