"""What is believed about the environment: kinds of image, their densities, and an alarm."""
