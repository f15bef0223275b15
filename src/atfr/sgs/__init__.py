"""Similarity Guided Sampling: the paper's equations, and the layer made of them."""

from atfr.sgs.layer import SimilarityGuidedSampling, SimilarityNet

__all__ = ["SimilarityGuidedSampling", "SimilarityNet"]
