"""The node without ROS: it decides, computes and counts. Messages come in as plain values or duck-typed."""
