"""Similarity Guided Sampling in float64 NumPy, one explicit loop per symbol of the paper (Eq. 1-8).

Written from the paper alone, without atfr: slow, literal, and the oracle of the tests in ``tests/sgs``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

COUNTS_ABOVE = 1e-4
"""A frame counts when its kernel weight exceeds this."""

MEAN_FLOOR = 1e-2
"""The least sum of weights that ``linear_mean`` divides by."""

KERNELS = ("linear", "linear_mean", "kronecker")


@dataclass(frozen=True)
class SampledClip:
    """What SGS makes of one clip."""

    magnitude: np.ndarray  # T: Delta_t
    half_width: float  # gamma
    centers: np.ndarray  # B: beta_b
    assignment: np.ndarray  # T: bin 0..B-1, -1 where the frame is dropped
    weights: np.ndarray  # T: share of each frame in its output map, 0 where dropped
    order: list[int]  # the active bins in the order of the output maps
    maps: np.ndarray  # A C H W
    fell_back: bool  # the kernel gave every frame weight 0

    @property
    def active_bins(self) -> int:
        return len(self.order)


def magnitudes(embedding: np.ndarray) -> np.ndarray:
    """Eq. 1, Delta_t = ||Z_t||."""
    delta = np.zeros(len(embedding))
    for t in range(len(embedding)):
        total = 0.0
        for value in embedding[t]:
            total += float(value) ** 2
        delta[t] = total**0.5
    return delta


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


def sample(
    features: np.ndarray,
    embedding: np.ndarray,
    num_bins: int | None = None,
    kernel: str = "linear",
    top_edge: str = "center",
    order: str = "magnitude",
    maximum: float | None = None,
) -> SampledClip:
    """Sample one clip, C T H W with embedding T L; ``maximum`` holds the bins fixed, for finite differences."""
    features = np.asarray(features, dtype=np.float64)
    frames = features.shape[1]
    num_bins = frames if num_bins is None else num_bins
    delta = magnitudes(np.asarray(embedding, dtype=np.float64))
    top = max(delta) if maximum is None else maximum
    gamma = half_width(top, num_bins, top_edge)
    beta = centers(gamma, num_bins)

    assignment = np.full(frames, -1, dtype=np.int64)
    psi = np.zeros(frames)
    for t in range(frames):
        if top == 0:  # a clip without any magnitude: its frames are alike, each of them is the largest
            b, value = num_bins - 1, 0.0 if top_edge == "paper" else 1.0
        else:
            b = bin_of(delta[t], gamma, beta)
            on_outer_edge = top_edge == "paper" and delta[t] >= top
            value = kernel_value(delta[t], beta[b], gamma, kernel, on_outer_edge)
        if value > COUNTS_ABOVE:
            assignment[t], psi[t] = b, value

    fell_back = bool(np.all(assignment == -1))
    if fell_back:
        assignment[:] = num_bins - 1
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

    active = [b for b in range(num_bins) if np.any(assignment == b)]
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
    return SampledClip(delta, gamma, beta, assignment, weights, active, maps, fell_back)


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
