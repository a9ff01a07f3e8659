"""Benchmark the node from outside, over DDS, as a camera and an operator meet it."""
