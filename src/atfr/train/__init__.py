"""Training: the Lightning module and its schedule, the loaders, and `fit`."""
