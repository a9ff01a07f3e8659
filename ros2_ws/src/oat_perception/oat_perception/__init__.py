"""The ROS 2 node that classifies camera images with a network whose robustness and width are set while it runs."""

from oat_perception.interrupts import take_early

take_early()
