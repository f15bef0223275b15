"""Layers whose embedding the test chooses, and clips whose bins are known by construction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

import atfr
from tests.reference import sgs as reference


class ChosenEmbedding(nn.Module):
    """Stands in for f_s: ignores the features and returns the embedding N T L it was given."""

    def __init__(self, embedding: Tensor) -> None:
        super().__init__()
        self.embedding = embedding

    def forward(self, features: Tensor) -> Tensor:
        return self.embedding


def chosen_layer(embedding: Tensor, channels: int, **options: object) -> atfr.SimilarityGuidedSampling:
    """An SGS layer whose frames have this embedding (N T L)."""
    layer = atfr.SimilarityGuidedSampling(channels, embedding_dim=embedding.shape[-1], **options)
    layer.similarity = ChosenEmbedding(embedding)
    return layer


def run(layer: nn.Module, features: Tensor) -> tuple[list[Tensor], object]:
    """The output maps of each clip (C A H W) and what the layer says it did."""
    with atfr.record(nn.Sequential(layer)) as trace:
        packed = layer(features)
    (site,) = trace.sites.values()
    maps = packed.unpack()
    assert packed.lengths == tuple(m.shape[1] for m in maps)
    return maps, site


def expected(features: Tensor, embedding: Tensor, **options: object) -> list[reference.SampledClip]:
    """The oracle's answer for every clip."""
    return [
        reference.sample(clip.detach().double().numpy(), z.detach().double().numpy(), **options)
        for clip, z in zip(features, embedding, strict=True)
    ]


@dataclass(frozen=True)
class KnownClip:
    """A clip built bin first: frame t was put into ``assignment[t]``, away from every edge."""

    magnitude: list[float]
    assignment: list[int]


@st.composite
def known_clips(draw: st.DrawFn, frames: int, num_bins: int, top_edge: str, away: float = 0.05) -> KnownClip:
    """One largest frame, and others at least ``away`` half widths from edges and centres."""
    maximum = draw(st.floats(0.25, 8.0))
    gamma = reference.half_width(maximum, num_bins, top_edge)
    top = draw(st.integers(0, frames - 1))
    magnitude, assignment = [], []
    for t in range(frames):
        if t == top:
            magnitude.append(maximum)
            assignment.append(num_bins - 1)
            continue
        b = draw(st.integers(0, num_bins - 1))
        upper = top_edge == "paper" or b < num_bins - 1  # with the top at the centre, no frame lies above it
        offset = draw(st.floats(away, 1 - away)) * (draw(st.sampled_from([-1, 1])) if upper else -1)
        magnitude.append(gamma * (2 * b + 1 + offset))
        assignment.append(b)
    return KnownClip(magnitude, assignment)


def embed(magnitude: list[list[float]], dim: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """N T magnitudes to N T L embeddings with random directions of those lengths."""
    generator = np.random.default_rng(seed)
    length = np.array(magnitude)[..., None]
    direction = generator.normal(size=(*np.shape(magnitude), dim))
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    return torch.from_numpy(length * direction).to(dtype)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
