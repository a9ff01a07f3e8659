"""What hurts a network on purpose: attacks (torch) and corruptions (NumPy and OpenCV). Import the module you need."""
