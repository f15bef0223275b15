"""Training: the Lightning module, its schedule, `fit`, and the checkpoint folder that holds network and task."""
