"""Adapted networks outside of their own forward pass: split at SGS, exported, run by an inference runtime."""
