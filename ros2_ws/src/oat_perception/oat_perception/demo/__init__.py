"""Run the ROS graph through a scripted day, from the start of its processes to the report: `make demo`."""
