"""Choose under a belief: what a point is worth, when it may be taken, what time and energy allow."""
