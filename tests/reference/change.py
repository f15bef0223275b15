"""Change-guided sampling as loops over numbers, in float64: written from its description, not from the code."""

from itertools import pairwise

import numpy as np


def cell_means(picture: np.ndarray, cells: int = 8) -> np.ndarray:
    """Means of an H x W picture in cells of one size, the last of a row or column cut."""
    height, width = (-(-side // cells) for side in picture.shape)
    return np.array(
        [
            picture[y : y + height, x : x + width].mean()
            for y in range(0, picture.shape[0], height)
            for x in range(0, picture.shape[1], width)
        ]
    )


def kept_maps(
    clip: np.ndarray, num_bins: int | None, mix: float = 0.15, dead_zone: float | None = None, edge_maps: int = 0
) -> list[int]:
    """The maps of a clip C x T x H x W that are kept."""
    frames = clip.shape[1]
    most = frames if num_bins is None else min(num_bins, frames)
    described = [np.concatenate([cell_means(channel) for channel in clip[:, t]]) for t in range(frames)]
    size = np.mean([np.abs(one).mean() for one in described])
    steps = [np.abs(b - a).mean() / size if size else 0.0 for a, b in pairwise(described)]
    inner = [step for t, step in enumerate(steps) if t >= edge_maps and t + 1 < frames - edge_maps]
    if edge_maps and inner:
        steps = [min(max(step, min(inner)), max(inner)) for step in steps]
    if dead_zone is None:
        dead_zone = min(sorted(steps)[(len(steps) - 1) // 2], max(steps) / 8) if steps else 0.0
    steps = [max(0.0, step - dead_zone) if step > 1e-5 else 0.0 for step in steps]
    if not any(steps):
        return [frames // 2]
    lengths = in_bins(steps, most)
    place, bins = 0.0, [0]
    for t, length in enumerate(lengths, 1):
        place += length
        even = (1 - mix) * place + mix * most * t / frames
        bins.append(min(most - 1, int(np.floor(even + 1e-4))))
    return sorted(middle([t for t in range(frames) if bins[t] == own]) for own in set(bins))


def in_bins(steps: list[float], most: int) -> list[float]:
    """Steps times the scale, found by halving, at which they sum up to `most` when each is cut to 1."""
    if sum(step > 0 for step in steps) <= most:
        return [float(step > 0) for step in steps]
    low, high = 0.0, most / min(step for step in steps if step > 0)
    for _ in range(200):
        scale = (low + high) / 2
        low, high = (scale, high) if sum(min(1.0, scale * step) for step in steps) < most else (low, scale)
    return [min(1.0, high * step) for step in steps]


def middle(times: list[int]) -> int:
    """The middle of some times, the later of two."""
    return times[len(times) // 2]
