"""What SGS is compared with at the same place: controls that do not look at similarity, and temporal attention."""

from atfr.baselines.attention import TemporalDoubleAttention
from atfr.baselines.controls import Average, Control, Random, Uniform

__all__ = ["Average", "Control", "Random", "TemporalDoubleAttention", "Uniform"]
