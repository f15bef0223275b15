"""Results of tests that were never run, as large and as odd as wished."""

from __future__ import annotations

from typing import Any

import numpy as np

from atfr.adapt.trace import MapCounts
from atfr.evaluate.result import TestResult, VideoResult

SGS = {"after": "res2", "kernel": "linear"}


def made_up(
    classes: int = 6,
    videos: int = 60,
    views: int = 3,
    sites: dict[str, int] | None = None,
    seed: int = 0,
    accuracy: float = 0.8,
    network: dict[str, Any] | None = None,
) -> TestResult:
    """A network that is right so often, and keeps more maps of the clips with more motion.

    Args:
        sites: the maps T that come into each; none of a static network.
    """
    sites = {"res2": 16} if sites is None else sites
    rng = np.random.default_rng(seed)
    labels = tuple(f"class {number:03d}" for number in range(classes))
    rows = []
    for number in range(videos):
        label = number % classes
        probability = float(rng.uniform(1 / classes, 1))
        right = rng.random() < accuracy
        prediction = label if right else int((label + rng.integers(1, min(4, classes))) % classes)
        motion = rng.gamma(2, 0.02, views)
        counts = {site: some_counts(rng, maps, motion) for site, maps in sites.items()}
        kept = [sum(one.active_bins[view] / maps for one, maps in zip(counts.values(), sites.values(), strict=True))
                for view in range(views)]  # fmt: skip
        gflops = tuple(0.4 + 0.6 * share / len(sites) if sites else 1.0 for share in kept)
        rows.append(
            VideoResult(
                f"/data/{labels[label]}/{number:05d}.mp4",
                labels[label],
                labels[prediction],
                probability,
                1 if right else 2,
                counts,
                gflops,
                tuple(float(f"{one:.5g}") for one in motion),
                None,
            )
        )
    sgs = {**SGS, "after": list(sites) if len(sites) > 1 else next(iter(sites))} if sites else None
    return TestResult(
        videos=tuple(rows),
        skipped=(),
        labels=labels,
        network=network or {"model": "resnet3d_18", "arguments": {"num_classes": classes}, "sgs": sgs},
        views={"clips": views, "crops": 1, "places": "uniform", "frames": 16, "stride": 2, "size": 112, "resize": 128},
        static_gflops_per_clip=1.0,
        ms_per_clip=12.0,
        timing={"batch_size": 8, "device": "a CPU", "threads": 2, "torch": "2.9", "clip_shape": [3, 16, 112, 112]},
    )


def some_counts(rng: np.random.Generator, maps: int, motion: np.ndarray) -> MapCounts:
    """More maps where there is more motion; of the others some are dropped or down-weighted."""
    kept = np.clip(np.round(maps * (0.2 + 4 * motion) + rng.normal(0, 1, len(motion))), 1, maps).astype(int)
    dropped = rng.binomial(maps - kept, 0.2)
    weak = rng.binomial(maps - kept - dropped, 0.3)
    return MapCounts((maps,) * len(motion), *(tuple(one.tolist()) for one in (kept, dropped, weak)))
