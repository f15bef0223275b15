"""Evaluation: predictions of videos, and the multi-view test with accuracy, cost and time."""
