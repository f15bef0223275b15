"""Evaluation: the task of a checkpoint, predictions of videos, the multi-view test with accuracy, cost and time."""
