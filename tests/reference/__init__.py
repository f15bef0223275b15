"""Slow, plain implementations that the tests compare atfr against; nothing here imports atfr."""
