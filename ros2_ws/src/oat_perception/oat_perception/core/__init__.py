"""The node without ROS: what decides, computes and keeps count. Messages come in as plain values or duck-typed."""
