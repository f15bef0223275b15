"""test: the multi-view test of a network on labelled videos, with accuracy, cost and time per clip.

Each video counts exactly once. One that does not decode is left out of every figure, counted and named.
"""

import csv
import io
import json
import math
import os
import platform
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from atfr.data.records import VideoList
from atfr.errors import DataError, VideoError
from atfr.evaluate.forward import Forward, evaluating
from atfr.evaluate.predict import Prediction, check_views, predictions
from atfr.evaluate.task import Task, check_classes
from atfr.models import VideoModel
from atfr.video.spec import ClipSpec


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
    """One video of a test: `gflops` are those of all its views together."""

    path: str
    label: str
    prediction: str
    probability: float
    rank: int
    active_bins: tuple[int, ...] | None
    gflops: float
    warning: str | None

    @property
    def correct(self) -> bool:
        """Whether the most probable class is the right one."""
        return self.rank == 1


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
        num_clips, num_crops: the views of a video.
        gflops_per_clip: multiply-adds / 1e9, over all clips of all videos.
        static_gflops_per_clip: the same network's without SGS.
        ms_per_clip: the forward pass alone, median over clips.
        timing: under which conditions that was measured.
    """

    __test__: ClassVar[bool] = False  # no pytest class

    videos: tuple[VideoResult, ...]
    skipped: tuple[Skipped, ...]
    num_classes: int
    num_clips: int
    num_crops: int
    gflops_per_clip: Spread
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
        of_class: dict[str, list[bool]] = {}
        for video in self.videos:
            of_class.setdefault(video.label, []).append(video.correct)
        return statistics.fmean(sum(hits) / len(hits) for hits in of_class.values())

    @property
    def active_bins(self) -> dict[int, int] | None:
        """How many clips kept how many maps, by number of maps; None for a network without SGS."""
        counts = Counter(active for video in self.videos for active in video.active_bins or ())
        return dict(sorted(counts.items())) or None

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
            "views": {"clips": self.num_clips, "crops": self.num_crops},
            "gflops_per_clip": asdict(self.gflops_per_clip),
            "static_gflops_per_clip": self.static_gflops_per_clip,
            "gflops_are": "multiply-adds / 1e9",
            "active_bins": self.active_bins,
            "ms_per_clip": self.ms_per_clip,
            "timing": self.timing,
            "skipped": [asdict(skip) for skip in self.skipped],
            "videos": [asdict(video) | {"correct": video.correct} for video in self.videos],
        }

    def to_json(self) -> str:
        """Write the result as JSON."""
        return json.dumps(self.to_dict(), indent=2)

    def to_csv(self) -> str:
        """Write the rows of the videos as CSV; the active bins of a video's views are joined by spaces."""
        text = io.StringIO()
        columns = ["path", "label", "prediction", "probability", "correct", "rank", "active_bins", "gflops", "warning"]
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        for video in self.videos:
            row = asdict(video) | {"correct": int(video.correct)}
            row["active_bins"] = " ".join(map(str, video.active_bins or ()))
            writer.writerow([row[column] for column in columns])
        return text.getvalue()


def test(
    model: VideoModel,
    videos: VideoList,
    spec: ClipSpec,
    *,
    num_clips: int = 10,
    num_crops: int = 3,
    batch_size: int = 8,
    num_workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> TestResult:
    """Test a network on labelled videos: softmax scores averaged over num_clips x num_crops views.

    Args:
        model: a network with a class for each of the list's labels; it runs where its parameters are.
        videos: the test split.
        spec: the clips the network reads.
        num_clips: clips of a video, spread uniformly.
        num_crops: crops of a clip: 1 (centre) or 3.
        batch_size: clips in one forward pass, at most.
        num_workers: processes that decode; 0 decodes in this one.
        progress: called with (videos done, videos in all).

    Raises:
        DataError: none of the videos decodes.
        CheckpointError: the network has another number of classes than the list.
    """
    task = Task(videos.labels, spec)
    check_views(num_clips, num_crops, batch_size, num_workers)
    check_classes(model, task)
    skipped: list[Skipped] = []

    def skip(path: Path, error: VideoError) -> None:
        skipped.append(Skipped(str(path), str(error)))

    forward = Forward(model, task.clip_shape)
    with evaluating(model):
        forward.warm_up(min(batch_size, num_clips * num_crops * len(videos)))
    paths = [record.path for record in videos.records]
    rest = iter(videos.records)  # predictions come in this order, without those of the videos skipped
    found = []
    for prediction in predictions(forward, paths, task, num_clips, num_crops, batch_size, num_workers, skip):
        found.append((prediction, next(record.label for record in rest if record.path == prediction.path)))
        if progress:
            progress(len(found) + len(skipped), len(paths))
    if not found:
        raise DataError(f"none of the {len(paths)} test videos decodes; the first: {skipped[0].reason}")
    return TestResult(
        videos=tuple(_row(prediction, label) for prediction, label in found),
        skipped=tuple(skipped),
        num_classes=len(videos.labels),
        num_clips=num_clips,
        num_crops=num_crops,
        gflops_per_clip=Spread.of([gflops for prediction, _ in found for gflops in prediction.gflops]),
        static_gflops_per_clip=forward.cost.static / 1e9,
        ms_per_clip=statistics.median(prediction.ms_per_clip for prediction, _ in found),
        timing=conditions(model, batch_size) | {"clip_shape": list(task.clip_shape)},
    )


test.__test__ = False  # type: ignore[attr-defined]  # no pytest function


def conditions(model: VideoModel, batch_size: int) -> dict[str, Any]:
    """Return what a time depends on, as plain JSON values: device, threads, versions, type, batch size."""
    parameter = next(model.parameters())
    on_cuda = parameter.device.type == "cuda"
    return {
        "what": "forward pass only, PyTorch eager, after one warm-up pass, median over clips",
        "batch_size": batch_size,
        "device": torch.cuda.get_device_name(parameter.device) if on_cuda else _cpu_name(),
        "threads": torch.get_num_threads(),
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "torch": torch.__version__,
    }


def _cpu_name() -> str:
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _row(prediction: Prediction, label: int) -> VideoResult:
    (top_label, probability), *_ = prediction.top(1)
    return VideoResult(
        path=str(prediction.path),
        label=prediction.labels[label],
        prediction=top_label,
        probability=probability,
        rank=_rank(prediction, label),
        active_bins=prediction.active_bins,
        gflops=prediction.total_gflops,
        warning=prediction.warning,
    )


def _rank(prediction: Prediction, label: int) -> int:
    """The place of a class among the most probable, from 1: the order of `Prediction.top`, ties and NaN included."""
    order = [name for name, _ in prediction.top(len(prediction.labels))]
    return order.index(prediction.labels[label]) + 1
