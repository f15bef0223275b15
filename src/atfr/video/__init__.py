"""Videos: a path becomes frames with times, and frames become the clips that a network reads."""
