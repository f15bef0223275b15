"""The main job in one call: train a static and an adaptive network on the same videos, and compare them."""

from atfr.quickstart.compare import Comparison, Row, quickstart

__all__ = ["Comparison", "Row", "quickstart"]
