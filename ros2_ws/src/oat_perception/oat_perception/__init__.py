"""The ROS 2 node that classifies camera images with a network whose robustness and width are set while it runs."""
