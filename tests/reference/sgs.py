"""Similarity Guided Sampling in float64 NumPy, one explicit loop per symbol of the paper (Eq. 1-9).

Written from the paper alone, without atfr: slow, literal, and the oracle of the tests in ``tests/sgs``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

COUNTS_ABOVE = 1e-4
"""A frame counts when its kernel weight exceeds this."""

MEAN_FLOOR = 1e-2
"""The least sum of weights that ``linear_mean`` divides by."""

KERNELS = ("linear", "linear_mean", "kronecker")

SIMILARITIES = ("magnitude", "angular", "spherical")


@dataclass(frozen=True)
class SampledClip:
    """What SGS makes of one clip."""

    coordinates: np.ndarray  # T K: Delta_t^k
    half_widths: list[float]  # K: gamma of each coordinate
    grid: list[np.ndarray]  # K of B_k: beta_b of each coordinate
    assignment: np.ndarray  # T: bin 0..B-1, -1 where the frame is dropped; the first coordinate's bin counts slowest
    weights: np.ndarray  # T: share of each frame in its output map, 0 where dropped
    order: list[int]  # the active bins in the order of the output maps
    maps: np.ndarray  # A C H W
    fell_back: bool  # the kernel gave every frame weight 0

    @property
    def active_bins(self) -> int:
        return len(self.order)

    @property
    def magnitude(self) -> np.ndarray:
        """T: Delta_t, where the magnitude is the first coordinate."""
        return self.coordinates[:, 0]

    @property
    def half_width(self) -> float:
        """The first coordinate's gamma."""
        return self.half_widths[0]

    @property
    def centers(self) -> np.ndarray:
        """The first coordinate's beta_b."""
        return self.grid[0]


def magnitudes(embedding: np.ndarray) -> np.ndarray:
    """Eq. 1, Delta_t = ||Z_t||."""
    delta = np.zeros(len(embedding))
    for t in range(len(embedding)):
        total = 0.0
        for value in embedding[t]:
            total += float(value) ** 2
        delta[t] = total**0.5
    return delta


def angles(embedding: np.ndarray) -> np.ndarray:
    """The L - 1 angles of spherical coordinates: in [0, pi] but for the last, which goes all round in [0, 2 pi)."""
    frames, dim = embedding.shape
    theta = np.zeros((frames, dim - 1))
    for t in range(frames):
        for k in range(dim - 2):
            rest = 0.0
            for value in embedding[t, k + 1 :]:
                rest += float(value) ** 2
            theta[t, k] = math.atan2(math.sqrt(rest), float(embedding[t, k]) + 0.0)
        last = math.atan2(float(embedding[t, dim - 1]) + 0.0, float(embedding[t, dim - 2]) + 0.0)
        theta[t, dim - 2] = last + 2 * math.pi if last < 0 else last
    return theta


def point(coordinates: Sequence[float]) -> np.ndarray:
    """The embedding with these spherical coordinates, radius first."""
    radius, *theta = coordinates
    z, left = [], radius
    for angle in theta:
        z.append(left * math.cos(angle))
        left *= math.sin(angle)
    return np.array([*z, left])


def coordinates_of(embedding: np.ndarray, similarity: str) -> np.ndarray:
    """Delta_t^k, T K: the magnitude, the angles, or the magnitude and then the angles."""
    delta = magnitudes(embedding)[:, None]
    if similarity == "magnitude":
        return delta
    if similarity == "angular":
        return angles(embedding)
    if similarity == "spherical":
        return np.concatenate([delta, angles(embedding)], axis=1)
    raise ValueError(similarity)


def half_width(maximum: float, num_bins: int, top_edge: str) -> float:
    """Eq. 2, gamma: literally (``paper``), or with Delta_max at the centre of the last bin (``center``)."""
    if top_edge == "paper":
        return maximum / (2 * num_bins)
    if top_edge == "center":
        return maximum / (2 * num_bins - 1)
    raise ValueError(top_edge)


def centers(gamma: float, num_bins: int) -> np.ndarray:
    """Eq. 3, beta_b = (2b - 1) gamma for b = 1..B."""
    return np.array([(2 * b - 1) * gamma for b in range(1, num_bins + 1)])


def bin_of(delta: float, gamma: float, beta: np.ndarray) -> int:
    """The one bin [beta - gamma, beta + gamma) that holds the frame; the last bin is closed."""
    for b in range(len(beta) - 1):
        if delta < beta[b] + gamma:
            return b
    return len(beta) - 1


def kernel_value(delta: float, beta: float, gamma: float, kernel: str, on_outer_edge: bool) -> float:
    """Psi(Delta_t, beta_b) of a frame in its own bin, before any division (Eq. 5 and 6)."""
    if kernel == "kronecker":
        return 0.0 if on_outer_edge else 1.0
    return 0.0 if on_outer_edge else max(0.0, 1.0 - abs(delta - beta) / gamma)


def one_for_each(value: float | Sequence[float], count: int) -> list:
    """The value for every coordinate, or the values themselves."""
    values = list(value) if isinstance(value, Sequence) else [value] * count
    assert len(values) == count
    return values


def sample(
    features: np.ndarray,
    embedding: np.ndarray,
    num_bins: int | Sequence[int] | None = None,
    kernel: str = "linear",
    top_edge: str = "center",
    order: str = "magnitude",
    maximum: float | Sequence[float] | None = None,
    similarity: str = "magnitude",
) -> SampledClip:
    """Sample one clip, C T H W with embedding T L; ``maximum`` holds the bins fixed, for finite differences."""
    features = np.asarray(features, dtype=np.float64)
    frames = features.shape[1]
    delta = coordinates_of(np.asarray(embedding, dtype=np.float64), similarity)
    count = delta.shape[1]
    bins = one_for_each(frames if num_bins is None else num_bins, count)
    tops = [max(delta[:, k]) for k in range(count)] if maximum is None else one_for_each(maximum, count)
    gammas = [half_width(tops[k], bins[k], top_edge) for k in range(count)]
    grid = [centers(gammas[k], bins[k]) for k in range(count)]

    assignment = np.full(frames, -1, dtype=np.int64)
    psi = np.zeros(frames)
    for t in range(frames):
        cell, value = 0, 1.0
        for k in range(count):  # Eq. 9: the product of the kernels, the first coordinate slowest in the bin's number
            if tops[k] == 0:  # a clip without any of this coordinate: its frames are alike, each of them is the largest
                b, psi_k = bins[k] - 1, 0.0 if top_edge == "paper" else 1.0
            else:
                b = bin_of(delta[t, k], gammas[k], grid[k])
                on_outer_edge = top_edge == "paper" and delta[t, k] >= tops[k]
                psi_k = kernel_value(delta[t, k], grid[k][b], gammas[k], kernel, on_outer_edge)
            cell, value = cell * bins[k] + b, value * psi_k
        if value > COUNTS_ABOVE:
            assignment[t], psi[t] = cell, value

    fell_back = bool(np.all(assignment == -1))
    if fell_back:
        assignment[:] = math.prod(bins) - 1
        weights = np.full(frames, 1.0 / frames)
    else:
        weights = np.zeros(frames)
        for t in range(frames):
            if assignment[t] < 0:
                continue
            total = 0.0
            for s in range(frames):
                if assignment[s] == assignment[t]:
                    total += psi[s]
            divisor = {"linear": 1.0, "linear_mean": max(total, MEAN_FLOOR), "kronecker": total}[kernel]
            weights[t] = psi[t] / divisor

    active = [b for b in range(math.prod(bins)) if np.any(assignment == b)]
    if order == "time":
        active.sort(key=lambda b: mean_time(assignment, weights, b))
    elif order != "magnitude":
        raise ValueError(order)

    channels, _, height, width = features.shape
    maps = np.zeros((len(active), channels, height, width))
    for a, b in enumerate(active):
        for t in range(frames):
            if assignment[t] == b:
                maps[a] += weights[t] * features[:, t]
    return SampledClip(delta, gammas, grid, assignment, weights, active, maps, fell_back)


@dataclass(frozen=True)
class SampledBlocks:
    """What SGS inside temporal blocks makes of one clip: each block is a clip of its own, one behind the other."""

    blocks: list[SampledClip]
    assignment: np.ndarray  # T: the bins of a block are numbered behind those of the block before it
    weights: np.ndarray  # T
    maps: np.ndarray  # A C H W

    @property
    def active_bins(self) -> int:
        return sum(block.active_bins for block in self.blocks)


def sample_blocks(features: np.ndarray, embedding: np.ndarray, size: int, **options: object) -> SampledBlocks:
    """Sample blocks of ``size`` frames, the last one shorter where they do not divide the clip."""
    starts = range(0, features.shape[1], size)
    blocks = [sample(features[:, s : s + size], embedding[s : s + size], **options) for s in starts]
    assignment, before = [], 0
    for block in blocks:
        assignment += [b if b < 0 else b + before for b in block.assignment]
        before += math.prod(len(beta) for beta in block.grid)
    weights = np.concatenate([block.weights for block in blocks])
    return SampledBlocks(blocks, np.array(assignment), weights, np.concatenate([block.maps for block in blocks]))


def mean_time(assignment: np.ndarray, weights: np.ndarray, b: int) -> float:
    """The mean time of the frames of bin b, weighted as they are in its map."""
    moment, total = 0.0, 0.0
    for t in range(len(assignment)):
        if assignment[t] == b:
            moment += t * weights[t]
            total += weights[t]
    return moment / total


def kernel_slope(delta: float, beta: float, gamma: float) -> float:
    """Eq. 8 without its I_t, with its factor 1/gamma: the slope of the linear kernel in Delta_t."""
    if abs(delta - beta) >= gamma:
        return 0.0
    return 1.0 / gamma if delta <= beta else -1.0 / gamma


def similarity(
    features: np.ndarray,
    hidden_weight: np.ndarray,
    hidden_bias: np.ndarray,
    output_weight: np.ndarray,
    output_bias: np.ndarray,
) -> np.ndarray:
    """f_s of one clip, C T H W -> T L: mean over space, C -> C, ReLU, C -> L."""
    channels, frames, height, width = features.shape
    embedding = np.zeros((frames, len(output_weight)))
    for t in range(frames):
        pooled = np.zeros(channels)
        for c in range(channels):
            pooled[c] = features[c, t].astype(np.float64).sum() / (height * width)
        hidden = np.zeros(len(hidden_weight))
        for i in range(len(hidden_weight)):
            hidden[i] = max(0.0, float(np.dot(hidden_weight[i], pooled)) + hidden_bias[i])
        for j in range(len(output_weight)):
            embedding[t, j] = float(np.dot(output_weight[j], hidden)) + output_bias[j]
    return embedding
