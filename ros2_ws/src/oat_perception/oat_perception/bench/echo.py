"""Answer each image with an empty result, without reading its pixels. This measures the cost of transport alone."""

from __future__ import annotations

import sys
from typing import Any

import rclpy
from oat_msgs.msg import Perception
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

from oat_perception.node.spin import node_parser, spin


def main() -> int:
    """Echo until interrupted."""
    return spin(_echo, name="echo", parser=node_parser("bench.echo", __doc__, ()))


def _echo() -> Node:
    node = rclpy.create_node("echo")
    answers = node.create_publisher(Perception, "echo/perception", 5)

    def answer(image: Any) -> None:
        answers.publish(Perception(header=image.header))

    node.create_subscription(Image, "echo/image", answer, qos_profile_sensor_data)
    return node


if __name__ == "__main__":
    sys.exit(main())
