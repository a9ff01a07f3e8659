"""What transport alone costs: a node that answers each image with an empty result and never looks at the pixels."""

from __future__ import annotations

import sys

import rclpy
from oat_msgs.msg import Perception
from rclpy.executors import ExternalShutdownException
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image


def main() -> int:
    """Echo until interrupted."""
    rclpy.init()
    node = rclpy.create_node("echo")
    answers = node.create_publisher(Perception, "echo/perception", 5)
    node.create_subscription(
        Image, "echo/image", lambda image: answers.publish(Perception(header=image.header)), qos_profile_sensor_data
    )
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
