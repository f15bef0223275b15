"""Samplers: layers that say which maps of a clip go on. SGS is the paper's; the controls are what to compare with."""

from atfr.samplers.attention import TemporalDoubleAttention
from atfr.samplers.change import ChangeGuidedSampling
from atfr.samplers.controls import Average, Control, Random, Uniform
from atfr.samplers.sampler import TemporalSampler
from atfr.samplers.sgs import SimilarityGuidedSampling, SimilarityNet

WITH_BINS = SimilarityGuidedSampling, ChangeGuidedSampling
"""The samplers that find themselves how many maps a clip keeps, up to a number of bins."""

__all__ = [
    "WITH_BINS",
    "Average",
    "ChangeGuidedSampling",
    "Control",
    "Random",
    "SimilarityGuidedSampling",
    "SimilarityNet",
    "TemporalDoubleAttention",
    "TemporalSampler",
    "Uniform",
]
