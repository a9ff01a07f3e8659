"""Join the core to ROS: parameters, subscriptions, publishers, lifecycle and diagnostics of the nodes."""
