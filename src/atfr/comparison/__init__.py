"""Train networks that differ in a sampler alone on the same videos, compare them, and say what to take."""

from atfr.comparison.quickstart import Quickstart, quickstart
from atfr.comparison.run import Comparison, compare

__all__ = ["Comparison", "Quickstart", "compare", "quickstart"]
