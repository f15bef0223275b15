"""The tables of docs/results.md from what benchmarks/study.py wrote.

    python benchmarks/study_report.py docs/studies/ut_interaction

Top-1 is over the held-out videos of all folds together, once a seed; only seeds with every fold count. Differences are
paired, video by video: correctness is averaged over seeds, and the interval is that of 10,000 bootstrap samples of the
videos. Five classes: the same six-class predictions, restricted to videos and scores of the other five.
"""

import argparse
import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from atfr.evaluate.analysis import rank_correlation

SAMPLES = 10_000


@dataclass
class Video:
    """One held-out video of a run."""

    name: str
    label: int
    scores: np.ndarray
    gflops: np.ndarray
    active_bins: np.ndarray
    motion: np.ndarray

    def correct(self, without: int | None = None) -> bool:
        """Whether the best class is the right one, among all or all but one."""
        scores = self.scores.copy()
        if without is not None:
            scores[without] = -1
        return int(scores.argmax()) == self.label


Runs = Mapping[tuple[str, int], Sequence[Video]]  # by variant and seed


def read(folder: Path, classes: int, folds: int) -> Runs:
    """Return the videos of all folds of each variant and seed, where all folds are there."""
    with (folder / "runs.csv").open(newline="", encoding="utf-8") as file:
        done = {key_of(row) for row in csv.DictReader(file)}
    videos = defaultdict(dict)
    seen = defaultdict(set)
    with (folder / "videos.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if key_of(row) in done and int(row["classes"]) == classes:
                key = (row["variant"], int(row["seed"]))
                videos[key][row["video"]] = video_of(row)  # a run that was interrupted is written again
                seen[key].add(row["fold"])
    return {key: [found[name] for name in sorted(found)] for key, found in videos.items() if len(seen[key]) == folds}


def key_of(row: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(row[name] for name in ("variant", "classes", "fold", "seed"))


def video_of(row: Mapping[str, str]) -> Video:
    numbers = {name: np.array(row[name].split(), dtype=float) for name in ("scores", "gflops", "active_bins", "motion")}
    return Video(row["video"], int(row["label"]), **numbers)


def seeds_of(runs: Runs, variant: str) -> list[int]:
    return sorted(seed for name, seed in runs if name == variant)


def correctness(runs: Runs, variant: str, seeds: Iterable[int], without: int | None = None) -> np.ndarray:
    """Return seeds x videos of 0 and 1; videos of the class `without` are left out."""
    rows = []
    for seed in seeds:
        rows.append([video.correct(without) for video in runs[variant, seed] if video.label != without])
    return np.array(rows, dtype=float)


def difference(runs: Runs, variant: str, other: str) -> str:
    """Return the paired difference in points with its 95 % interval, over the seeds that both have."""
    seeds = sorted({*seeds_of(runs, variant)} & {*seeds_of(runs, other)})
    if not seeds or variant == other:
        return ""
    gaps = 100 * (correctness(runs, variant, seeds) - correctness(runs, other, seeds)).mean(0)
    picks = np.random.default_rng(0).integers(0, len(gaps), (SAMPLES, len(gaps)))
    low, high = np.quantile(gaps[picks].mean(1), (0.025, 0.975))
    return f"{gaps.mean():+.1f} ({low:+.1f} to {high:+.1f})"


def table(runs: Runs, reference: str, left_out: int) -> None:
    """Print accuracy, cost and maps of each variant."""
    print("| network | seeds | top-1 (%) | 5 classes (%) | GFLOPs per clip | maps A | against static | against SGS |")
    print("|---|---|---|---|---|---|---|---|")
    for variant in dict.fromkeys(name for name, _ in runs):
        seeds = seeds_of(runs, variant)
        six, five = (100 * correctness(runs, variant, seeds, without).mean(1) for without in (None, left_out))
        videos = [video for seed in seeds for video in runs[variant, seed]]
        gflops, kept = (np.concatenate([getattr(v, name) for v in videos]) for name in ("gflops", "active_bins"))
        maps = f"{kept.mean():.2f}, {np.quantile(kept, 0.05):.0f} to {np.quantile(kept, 0.95):.0f}" if len(kept) else ""
        cells = [
            variant,
            ", ".join(map(str, seeds)),
            spread(six),
            spread(five),
            f"{gflops.mean():.3f} ± {gflops.std():.3f}",
            maps,
            difference(runs, variant, "static"),
            difference(runs, variant, reference),
        ]
        print("| " + " | ".join(cells) + " |")


def spread(values: np.ndarray) -> str:
    """Return the mean over seeds, and each seed's value where there are several."""
    each = f" ({', '.join(f'{value:.1f}' for value in values)})" if len(values) > 1 else ""
    return f"{values.mean():.1f}{each}"


def motion(runs: Runs, variant: str) -> None:
    """Print how the maps that clips keep go with their motion, between videos and within a class."""
    rows = []
    for seed in seeds_of(runs, variant):
        videos = runs[variant, seed]
        kept, energy = (
            np.array([getattr(video, name).mean() for video in videos]) for name in ("active_bins", "motion")
        )
        labels = np.array([video.label for video in videos])
        within = [rank_correlation(kept[labels == label], energy[labels == label]) for label in np.unique(labels)]
        rows.append((rank_correlation(kept, energy), float(np.nanmean(within))))
    if rows:
        whole, within = np.array(rows).T
        print(
            f"{variant}: rank correlation of A with motion energy {spread(whole * 100)} / 100 over videos, "
            f"{spread(within * 100)} / 100 within a class (mean over classes)"
        )
        by_class = defaultdict(list)
        for seed in seeds_of(runs, variant):
            for video in runs[variant, seed]:
                by_class[video.name.partition("/")[0]].append(video.active_bins.mean())
        print(
            "  mean A by class: " + ", ".join(f"{name} {np.mean(kept):.2f}" for name, kept in sorted(by_class.items()))
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="what benchmarks/study.py wrote")
    parser.add_argument("--classes", type=int, default=6)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--left_out", type=int, default=3, help="the class that the five-class figures leave out")
    parser.add_argument("--reference", default="linear_mean_32_in_time")
    options = parser.parse_args()
    runs = read(options.folder, options.classes, options.folds)
    table(runs, options.reference, options.left_out)
    print()
    for variant in dict.fromkeys(name for name, _ in runs):
        if any(len(video.active_bins) for video in runs[variant, seeds_of(runs, variant)[0]]):
            motion(runs, variant)


if __name__ == "__main__":
    main()
