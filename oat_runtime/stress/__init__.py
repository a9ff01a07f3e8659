"""Stress a network: attacks (torch) and corruptions (NumPy and OpenCV). Import the module you need."""
