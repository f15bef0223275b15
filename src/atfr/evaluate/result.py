"""What a test found: accuracy, cost, time and active bins, over all videos, by class and by video; JSON and CSV.

Per-video predictions are CSV alone: a test split has some ten thousand rows at most, which every tool reads at once.
"""

import json
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from atfr.adapt.calibrate import Spread
from atfr.adapt.trace import MapCounts
from atfr.errors import DataError
from atfr.files import csv_text, finite, write_skipped, write_whole

RESULT = "result.json"
"""What a test writes, and what is read again."""

LEAST = 1e-12
"""A smaller probability counts as this one in the loss, which would be infinite at 0."""

COUNTS = tuple(one.name for one in fields(MapCounts))


def folder_of(checkpoint: Path) -> Path:
    """Return where the test of a checkpoint leaves its result, unless it is told another place."""
    return checkpoint / "test"


@dataclass(frozen=True)
class VideoResult:
    """One video of a test."""

    path: str
    label: str
    prediction: str
    probability: float  # of the prediction
    rank: int  # the place of the label among the most probable classes, from 1
    sites: dict[str, MapCounts]  # what became of the maps of each view, by site; empty for a network without SGS
    view_gflops: tuple[float, ...]  # multiply-adds / 1e9 of each view
    motion: tuple[float, ...]  # of each view, see `motion_energy`
    warning: str | None  # what was wrong with the file, where only a part of it could be used
    # of the right class; None in results that were written before there was such a figure
    label_probability: float | None = None

    @property
    def correct(self) -> bool:
        """Whether the most probable class is the right one."""
        return self.rank == 1

    @property
    def loss(self) -> float | None:
        """Cross-entropy: minus the logarithm of the right class's probability."""
        return None if self.label_probability is None else -math.log(max(self.label_probability, LEAST))

    @property
    def gflops(self) -> float:
        """Multiply-adds / 1e9 of all its views together."""
        return sum(self.view_gflops)

    @property
    def active_bins(self) -> dict[str, tuple[int, ...]]:
        """By site, the maps that each view kept."""
        return {site: counts.active_bins for site, counts in self.sites.items()}

    def to_dict(self) -> dict[str, Any]:
        """Turn the video's row into plain JSON values; a probability that is not finite is null."""
        row = asdict(self)
        for name in ("probability", "label_probability"):
            row[name] = finite(row[name])
        del row["sites"]
        counts = {name: {site: list(getattr(one, name)) for site, one in self.sites.items()} for name in COUNTS}
        views = {"view_gflops": list(self.view_gflops), "motion": list(self.motion)}
        return row | {"correct": self.correct, "gflops": self.gflops} | views | counts

    def to_row(self) -> dict[str, Any]:
        """Turn the video's row into cells by column; what there is of each view is joined by spaces."""
        values = self.to_dict() | {"correct": int(self.correct)}
        columns = ["path", "label", "prediction", "probability", "label_probability", "correct", "rank", "gflops"]
        columns.append("warning")
        by_view = {name: values[name] for name in ("view_gflops", "motion")}
        by_view |= {f"{name} {site}": values[name][site] for site in self.sites for name in COUNTS}
        joined = {column: " ".join(map(str, each)) for column, each in by_view.items()}
        return {column: values[column] for column in columns} | joined

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> "VideoResult":
        """Make a video's row from `to_dict`'s values."""
        sites = {site: MapCounts(*(tuple(row[name][site]) for name in COUNTS)) for site in row["active_bins"]}
        values = {one.name: row[one.name] for one in fields(cls) if one.name not in ("sites", "label_probability")}
        values["label_probability"] = row.get("label_probability")
        values |= {name: tuple(row[name]) for name in ("view_gflops", "motion")}
        probability = math.nan if row["probability"] is None else row["probability"]
        return cls(**values | {"probability": probability}, sites=sites)


@dataclass(frozen=True)
class ClassResult:
    """The tested videos of one class: the share that is right, and what their clips cost and kept (by site)."""

    label: str
    num_videos: int
    accuracy: float
    gflops_per_clip: Spread
    active_bins: dict[str, Spread]

    def to_dict(self) -> dict[str, Any]:
        """Turn the class's row into plain JSON values."""
        kept = {site: spread._asdict() for site, spread in self.active_bins.items()}
        return asdict(self) | {"gflops_per_clip": self.gflops_per_clip._asdict(), "active_bins": kept}


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
        labels: the names of the K classes of the network.
        network: how it is made: its name, arguments and SGS, as in a checkpoint's config.json.
        views: the views of a video, as plain JSON values.
        static_gflops_per_clip: multiply-adds / 1e9 of a clip in the same network without SGS.
        ms_per_clip: the forward pass alone, median over clips.
        timing: under which conditions that was measured.
    """

    __test__: ClassVar[bool] = False  # no pytest class

    videos: tuple[VideoResult, ...]
    skipped: tuple[Skipped, ...]
    labels: tuple[str, ...]
    network: dict[str, Any]
    views: dict[str, Any]
    static_gflops_per_clip: float
    ms_per_clip: float
    timing: dict[str, Any]

    @property
    def num_classes(self) -> int:
        """Classes K of the network."""
        return len(self.labels)

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites of the network's SGS layers, or of what stands in their place."""
        return tuple(self.videos[0].sites)

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
    def loss(self) -> float | None:
        """The mean cross-entropy of the videos; None where a video's is not known."""
        losses = [video.loss for video in self.videos if video.loss is not None]
        return statistics.fmean(losses) if len(losses) == len(self.videos) else None

    @property
    def mean_class_accuracy(self) -> float:
        """The mean, over the classes that are tested, of the share of their videos that is right."""
        return statistics.fmean(one.accuracy for one in self.classes)

    @property
    def stopped(self) -> bool:
        """Whether the views of a video stopped once its class was settled."""
        return "settled" in self.views

    @property
    def views_per_video(self) -> float:
        """The mean number of views that were computed of a video."""
        return statistics.fmean(len(video.view_gflops) for video in self.videos)

    @property
    def gflops_per_clip(self) -> Spread:
        """Multiply-adds / 1e9, over all clips of all videos."""
        return _gflops(self.videos)

    @property
    def gflops_per_video(self) -> float:
        """The mean multiply-adds / 1e9 of a video, all its views together."""
        return statistics.fmean(video.gflops for video in self.videos)

    @property
    def active_bins(self) -> dict[str, dict[int, int]]:
        """By site, how many clips kept how many maps there; empty for a network without SGS."""
        counts = {
            site: Counter(kept for video in self.videos for kept in video.active_bins[site]) for site in self.sites
        }
        return {site: dict(sorted(count.items())) for site, count in counts.items()}

    @property
    def by_class(self) -> dict[str, list[VideoResult]]:
        """The videos of each class, in the order in which the classes come up."""
        found: dict[str, list[VideoResult]] = {}
        for video in self.videos:
            found.setdefault(video.label, []).append(video)
        return found

    @cached_property
    def classes(self) -> tuple[ClassResult, ...]:
        """The same figures by class, in the order in which the classes come up."""
        return tuple(
            ClassResult(
                label,
                len(videos),
                sum(video.correct for video in videos) / len(videos),
                _gflops(videos),
                {
                    site: Spread.of([kept for video in videos for kept in video.active_bins[site]])
                    for site in self.sites
                },
            )
            for label, videos in self.by_class.items()
        )

    def to_dict(self) -> dict[str, Any]:
        """Turn the result into plain JSON values."""
        return {
            "top1": self.top1,
            "top1_standard_error": self.top1_standard_error,
            "top5": self.top5,
            "loss": finite(self.loss),
            "mean_class_accuracy": self.mean_class_accuracy,
            "num_videos": len(self.videos),
            "num_skipped": len(self.skipped),
            "num_classes": self.num_classes,
            "labels": list(self.labels),
            "network": self.network,
            "views": self.views,
            "views_per_video": self.views_per_video,
            "gflops_per_clip": self.gflops_per_clip._asdict(),
            "static_gflops_per_clip": self.static_gflops_per_clip,
            "gflops_are": "multiply-adds / 1e9",
            "active_bins": self.active_bins,
            "ms_per_clip": self.ms_per_clip,
            "timing": self.timing,
            "skipped": [asdict(skip) for skip in self.skipped],
            "classes": [one.to_dict() for one in self.classes],
            "videos": [video.to_dict() for video in self.videos],
        }

    def to_json(self) -> str:
        """Write the result as JSON, each video on a line of its own."""
        values = self.to_dict()
        videos = ",\n    ".join(json.dumps(row) for row in values.pop("videos"))
        return f'{json.dumps(values, indent=2)[:-2]},\n  "videos": [\n    {videos}\n  ]\n}}'

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TestResult":
        """Make a result from `to_dict`'s values.

        Raises:
            DataError: a value is missing, or is not of its kind.
        """
        try:
            rest = {one.name: values[one.name] for one in fields(cls)} | {"labels": tuple(values["labels"])}
            videos = tuple(VideoResult.from_dict(row) for row in values["videos"])
            skipped = tuple(Skipped(**row) for row in values["skipped"])
        except (KeyError, TypeError, AttributeError) as error:
            why = f"it has no {error}" if isinstance(error, KeyError) else f"a value is of another kind ({error})"
            raise DataError(
                f"this is no result of a test, or not a complete one: {why}; give the folder of a tested network, "
                "or test the network again"
            ) from error
        if not videos:
            raise DataError("there are no videos in what a test found; test the network again")
        return cls(**rest | {"videos": videos, "skipped": skipped})

    def save(self, folder: Path) -> None:
        """Write result.json, videos.csv, classes.csv, and skipped.csv where videos are, each whole, into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / RESULT, self.to_json() + "\n")
        write_whole(folder / "videos.csv", self.videos_csv())
        write_whole(folder / "classes.csv", self.classes_csv())
        write_skipped(folder, [(skip.path, skip.reason) for skip in self.skipped])

    def videos_csv(self) -> str:
        """Write the rows of the videos as CSV."""
        rows = [video.to_row() for video in self.videos]
        return csv_text(list(rows[0]), [list(row.values()) for row in rows])

    def classes_csv(self) -> str:
        """Write the rows of the classes as CSV: means over their videos and clips."""
        columns = ["label", "videos", "accuracy", "gflops_per_clip", *(f"active_bins {site}" for site in self.sites)]
        rows = [
            [one.label, one.num_videos, one.accuracy, one.gflops_per_clip.mean]
            + [one.active_bins[site].mean for site in self.sites]
            for one in self.classes
        ]
        return csv_text(columns, rows)


def _gflops(videos: Sequence[VideoResult]) -> Spread:
    return Spread.of([gflops for video in videos for gflops in video.view_gflops])
