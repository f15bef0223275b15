"""Weights in files: our checkpoints, other people's, and published ones."""
