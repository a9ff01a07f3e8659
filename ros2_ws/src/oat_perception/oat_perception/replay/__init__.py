"""Make what the camera replay plays, without ROS: images, the scripted day, corruptions, and attacks."""
