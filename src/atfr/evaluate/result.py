"""What a test found: accuracy, cost, time and active bins, over all videos, by class and by video; JSON and CSV.

Per-video predictions are CSV alone: a test split has some ten thousand rows at most, which every tool reads at once.
"""

import csv
import io
import json
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Spread:
    """How a figure is distributed over clips; `std` is that of the clips themselves."""

    mean: float
    std: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Describe some values, one at least."""
        return cls(statistics.fmean(values), statistics.pstdev(values), min(values), max(values))


@dataclass(frozen=True)
class VideoResult:
    """One video of a test: what each of its views kept (by site) and cost (multiply-adds / 1e9)."""

    path: str
    label: str
    prediction: str
    probability: float
    rank: int
    active_bins: dict[str, tuple[int, ...]]
    view_gflops: tuple[float, ...]
    warning: str | None

    @property
    def correct(self) -> bool:
        """Whether the most probable class is the right one."""
        return self.rank == 1

    @property
    def gflops(self) -> float:
        """Multiply-adds / 1e9 of all its views together."""
        return sum(self.view_gflops)

    def to_dict(self) -> dict[str, Any]:
        """Turn the video's row into plain JSON values."""
        row = asdict(self)
        del row["view_gflops"]
        bins = {site: list(kept) for site, kept in self.active_bins.items()}
        return row | {"correct": self.correct, "gflops": self.gflops, "active_bins": bins}


@dataclass(frozen=True)
class ClassResult:
    """The tested videos of one class: the share that is right, and what their clips cost and kept (by site)."""

    label: str
    num_videos: int
    accuracy: float
    gflops_per_clip: Spread
    active_bins: dict[str, Spread]


@dataclass(frozen=True)
class Skipped:
    """A video that does not decode."""

    path: str
    reason: str


@dataclass(frozen=True)
class TestResult:
    """The result of a test; accuracies are shares of 1.

    Attributes:
        videos: one row a video, in the order of the list.
        skipped: the videos that do not decode, left out of every figure.
        num_classes: classes K of the network.
        views: the views of a video, as plain JSON values.
        static_gflops_per_clip: multiply-adds / 1e9 of a clip in the same network without SGS.
        ms_per_clip: the forward pass alone, median over clips.
        timing: under which conditions that was measured.
    """

    __test__: ClassVar[bool] = False  # no pytest class

    videos: tuple[VideoResult, ...]
    skipped: tuple[Skipped, ...]
    num_classes: int
    views: dict[str, Any]
    static_gflops_per_clip: float
    ms_per_clip: float
    timing: dict[str, Any]

    @property
    def top1(self) -> float:
        """The share of videos whose most probable class is the right one."""
        return sum(video.correct for video in self.videos) / len(self.videos)

    @property
    def top1_standard_error(self) -> float:
        """The binomial standard error of `top1`."""
        return math.sqrt(self.top1 * (1 - self.top1) / len(self.videos))

    @property
    def top5(self) -> float | None:
        """The share of videos whose class is among the five most probable; None with five classes or fewer."""
        if self.num_classes <= 5:
            return None
        return sum(video.rank <= 5 for video in self.videos) / len(self.videos)

    @property
    def mean_class_accuracy(self) -> float:
        """The mean, over the classes that are tested, of the share of their videos that is right."""
        return statistics.fmean(one.accuracy for one in self.classes)

    @property
    def gflops_per_clip(self) -> Spread:
        """Multiply-adds / 1e9, over all clips of all videos."""
        return _gflops(self.videos)

    @property
    def active_bins(self) -> dict[str, dict[int, int]]:
        """By site, how many clips kept how many maps there; empty for a network without SGS."""
        counts = {
            site: Counter(kept for video in self.videos for kept in video.active_bins[site])
            for site in self.videos[0].active_bins
        }
        return {site: dict(sorted(count.items())) for site, count in counts.items()}

    @property
    def classes(self) -> list[ClassResult]:
        """The same figures by class, in the order in which the classes come up."""
        of_class: dict[str, list[VideoResult]] = {}
        for video in self.videos:
            of_class.setdefault(video.label, []).append(video)
        return [
            ClassResult(
                label,
                len(videos),
                sum(video.correct for video in videos) / len(videos),
                _gflops(videos),
                {
                    site: Spread.of([kept for video in videos for kept in video.active_bins[site]])
                    for site in videos[0].active_bins
                },
            )
            for label, videos in of_class.items()
        ]

    def to_dict(self) -> dict[str, Any]:
        """Turn the result into plain JSON values."""
        return {
            "top1": self.top1,
            "top1_standard_error": self.top1_standard_error,
            "top5": self.top5,
            "mean_class_accuracy": self.mean_class_accuracy,
            "num_videos": len(self.videos),
            "num_skipped": len(self.skipped),
            "num_classes": self.num_classes,
            "views": self.views,
            "gflops_per_clip": asdict(self.gflops_per_clip),
            "static_gflops_per_clip": self.static_gflops_per_clip,
            "gflops_are": "multiply-adds / 1e9",
            "active_bins": self.active_bins,
            "ms_per_clip": self.ms_per_clip,
            "timing": self.timing,
            "skipped": [asdict(skip) for skip in self.skipped],
            "classes": [asdict(one) for one in self.classes],
            "videos": [video.to_dict() for video in self.videos],
        }

    def to_json(self) -> str:
        """Write the result as JSON."""
        return json.dumps(self.to_dict(), indent=2)

    def videos_csv(self) -> str:
        """Write the rows of the videos as CSV; what a video's views kept at a site is joined by spaces."""
        sites = list(self.videos[0].active_bins)
        columns = ["path", "label", "prediction", "probability", "correct", "rank", "gflops", "warning"]
        rows = []
        for video in self.videos:
            row = video.to_dict() | {"correct": int(video.correct)}
            bins = [" ".join(map(str, video.active_bins[site])) for site in sites]
            rows.append([*(row[column] for column in columns), *bins])
        return _csv([*columns, *(f"active_bins {site}" for site in sites)], rows)

    def classes_csv(self) -> str:
        """Write the rows of the classes as CSV: means over their videos and clips."""
        sites = list(self.videos[0].active_bins)
        columns = ["label", "videos", "accuracy", "gflops_per_clip", *(f"active_bins {site}" for site in sites)]
        rows = [
            [one.label, one.num_videos, one.accuracy, one.gflops_per_clip.mean]
            + [one.active_bins[site].mean for site in sites]
            for one in self.classes
        ]
        return _csv(columns, rows)


def _gflops(videos: Sequence[VideoResult]) -> Spread:
    return Spread.of([gflops for video in videos for gflops in video.view_gflops])


def _csv(columns: list[str], rows: list[list[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    return text.getvalue()
