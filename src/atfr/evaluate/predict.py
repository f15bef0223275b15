"""predict: videos in, predictions out. A file is decoded once, however many views are cut from it."""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor
from torch.utils.data import Dataset

from atfr.checks import Precision, at_least_one, processes
from atfr.data.workers import Readings, WatchedLoader, ahead
from atfr.errors import InputError, VideoError
from atfr.evaluate.forward import Pass, Runner, prepared
from atfr.evaluate.stopping import run_until_settled, view_order
from atfr.evaluate.task import Task, check_classes
from atfr.kernels.allocator import freed_memory_kept
from atfr.models import VideoModel
from atfr.video.file import VideoFile
from atfr.video.spec import ClipSpec, ViewSpec
from atfr.video.transforms import VideoViews, motion_energy, test_views


@dataclass(frozen=True)
class Prediction:
    """What a network says of one video.

    Attributes:
        path: the file.
        labels: the names of the K classes.
        scores: the softmax scores, averaged over the views that were computed; they sum to 1.
        active_bins: by site, the maps that each view kept; empty for a network without the sampler.
        gflops: multiply-adds / 1e9 spent on each view.
        static_gflops: multiply-adds / 1e9 of a view in the same network without the sampler.
        ms_per_clip: time of the forward pass that its views were in, over the number of clips in it.
        warning: what was wrong with the file, where only a part of it could be used.
    """

    path: Path
    labels: tuple[str, ...]
    scores: Float64[Tensor, " K"]
    active_bins: dict[str, tuple[int, ...]]
    gflops: tuple[float, ...]
    static_gflops: float
    ms_per_clip: float
    warning: str | None = None

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """Return the k most probable classes (all, where there are fewer) as (label, probability)."""
        scores, classes = self.scores.topk(min(k, len(self.labels)))
        return [(self.labels[i], score) for i, score in zip(classes.tolist(), scores.tolist(), strict=True)]

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the most probable classes, and what finding them has cost."""
        name = escape(os.fsencode(self.path).decode(errors="backslashreplace"))  # a name may be any bytes
        rows = "".join(f"<tr><td>{escape(label)}</td><td>{100 * share:.1f} %</td></tr>" for label, share in self.top())
        kept = "; ".join(f"{site}: {' '.join(map(str, counts))}" for site, counts in self.active_bins.items())
        bill = f"{self.total_gflops:.4g} GFLOPs"
        bill += f", {self.total_static_gflops:.4g} without the sampler" if self.active_bins else ""
        notes = "".join(f"<br/>{escape(note)}" for note in (kept and f"maps kept at {kept}", self.warning) if note)
        return f"<table><caption>{name}</caption>{rows}</table><p>{bill}{notes}</p>"

    @property
    def total_gflops(self) -> float:
        """Multiply-adds / 1e9 spent on the video, all views together."""
        return sum(self.gflops)

    @property
    def total_static_gflops(self) -> float:
        """Multiply-adds / 1e9 that the same views take without the sampler."""
        return self.static_gflops * len(self.gflops)

    def to_dict(self, k: int = 5) -> dict[str, Any]:
        """Turn the prediction into plain JSON values, with the k most probable classes."""
        return {
            "path": str(self.path),
            "top": [{"label": label, "probability": probability} for label, probability in self.top(k)],
            "views": len(self.gflops),
            "active_bins": {site: list(kept) for site, kept in self.active_bins.items()},
            "gflops": self.total_gflops,
            "static_gflops": self.total_static_gflops,
            "warning": self.warning,
        }


def predict(
    model: VideoModel,
    paths: Iterable[str | os.PathLike[str]],
    task: Task,
    *,
    num_clips: int = 1,
    num_crops: int = 1,
    settled: float | None = None,
    batch_size: int = 8,
    num_workers: int = 0,
    precision: Precision = "float32",
    on_error: Callable[[Path, VideoError], None] | None = None,
) -> Iterator[Prediction]:
    """Predict the class of each video, in the order given, as soon as it is known.

    A copy of the network, made faster by `optimize_for_inference`, runs where its parameters are.

    Args:
        model: a network whose classes are the task's; it is left as it is.
        paths: video files.
        task: the labels, and the clips the network reads.
        num_clips: clips of a video, spread uniformly.
        num_crops: crops of a clip: 1 (centre) or 3.
        settled: compute the views of a video one after the other, and stop with this lead of a class over the next
            (`atfr.evaluate.stopping`, which chooses it); None computes all.
        batch_size: clips in one forward pass, at most.
        num_workers: processes that decode; 0 decodes in a thread of this one, while the network runs.
        precision: what the network computes in (`atfr.evaluate.forward.prepared`).
        on_error: called for a file that does not decode, which is then passed over; by default it raises.

    Raises:
        VideoError: a file does not decode, and there is no `on_error`.
        InputError: an argument is out of range.
        CheckpointError: the network has another number of classes than the task.
    """
    if isinstance(paths, str | os.PathLike):
        raise InputError(f"paths must be a list of video files, got one: {os.fspath(paths)!r}; give [path]")
    views = Views([Path(path) for path in paths], task.spec, ViewSpec(num_clips, num_crops, settled))
    check_batches(batch_size, num_workers)
    check_classes(model, task)
    forward = prepared(model, task.clip_shape, precision)
    return predictions(forward, views, task.labels, batch_size, num_workers, on_error)


def check_batches(batch_size: int, num_workers: int) -> None:
    """Refuse batches that cannot be made, before any video is decoded.

    Raises:
        InputError: an argument is out of range.
    """
    processes("num_workers", num_workers)
    at_least_one("batch_size", batch_size)


def predictions(
    forward: Runner,
    views: "Views",
    labels: tuple[str, ...],
    batch_size: int,
    num_workers: int,
    on_error: Callable[[Path, VideoError], None] | None,
) -> Iterator[Prediction]:
    """Do what `predict` says, with a `Runner` and `Views` that are there already."""
    for video, passed in outcomes(forward, views, batch_size, num_workers):
        if passed is not None:
            yield as_prediction(video, passed, labels, forward.cost.static / 1e9)
        elif on_error is not None:
            on_error(video.path, VideoError(video.error))
        else:
            raise VideoError(video.error)


def outcomes(
    forward: Runner, views: "Views", batch_size: int, num_workers: int
) -> Iterator[tuple["Loaded", Pass | None]]:
    """Yield the views of each video, in order, with what the network made of them; None where it does not decode."""
    together = 1 if views.view_spec.settled is not None else max(1, batch_size // views.view_spec.total)
    options: dict[str, Any] = {"batch_size": together, "num_workers": num_workers, "collate_fn": list}
    loader = WatchedLoader(views, readings=views.readings, path_of=views.paths.__getitem__, **options)
    loads = loader if num_workers else ahead(loader)
    groups = loads if views.view_spec.settled is None else [itertools.chain.from_iterable(loads)]
    # a worker may also die while the network runs
    with freed_memory_kept(), views.readings.reported(views.paths.__getitem__):
        for loaded in groups:
            yield from run_loaded(forward, loaded, views.view_spec, batch_size)


def run_loaded(
    forward: Runner, loaded: Iterable["Loaded"], view_spec: ViewSpec, batch_size: int
) -> Iterator[tuple["Loaded", Pass | None]]:
    """Run the views of some videos, all or until each is settled; motion is told of those that were run."""
    if view_spec.settled is None:
        videos = list(loaded)
        passes = iter(run_views(forward, [video.views for video in videos if video.views is not None], batch_size))
        for video in videos:
            yield video, next(passes) if video.views is not None else None
        return
    order = view_order(view_spec.num_clips, view_spec.num_crops)
    running: deque[Loaded] = deque()

    def pictures() -> Iterator[VideoViews | None]:
        for video in loaded:
            running.append(replace(video, views=None))  # pictures are held no longer than they are needed
            yield video.views

    for passed in run_until_settled(forward, pictures(), order, batch_size, view_spec.settled):
        video = running.popleft()
        if passed is not None and video.motion:
            video = replace(video, motion=tuple(video.motion[view] for view in order[: len(passed.scores)]))
        yield video, passed


@dataclass(frozen=True)
class Loaded:
    """The views of one video and, if asked for, the motion in each; or why there are none."""

    path: Path
    views: VideoViews | None
    motion: tuple[float, ...] = ()
    warning: str | None = None
    error: str | None = None


class Views(Dataset[Loaded]):
    """The views of each file; one that does not decode is an item too, so that it cannot end the run of the others.

    Args:
        view_spec: how many there are of a video, and whether they stop.
        crop_seeds: of each file, for crops at random places; None: crops are spread uniformly.
        motion: whether to measure the motion in each view.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        spec: ClipSpec,
        view_spec: ViewSpec,
        crop_seeds: Sequence[Sequence[int]] | None = None,
        motion: bool = False,
    ) -> None:
        self.paths, self.spec, self.view_spec = paths, spec, view_spec
        self.crop_seeds, self.motion = crop_seeds, motion
        self.readings = Readings()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Loaded:
        places = None
        if self.crop_seeds is not None:
            key = np.random.SeedSequence(self.crop_seeds[index]).generate_state(1)
            places = torch.Generator().manual_seed(int(key[0]))
        video = VideoFile(self.paths[index], shorter_side=self.spec.decode_side)
        try:
            with self.readings.reading(index):
                views = test_views(video, self.spec, self.view_spec.num_clips, self.view_spec.num_crops, places)
        except VideoError as error:
            return Loaded(video.path, None, error=str(error))
        motion = tuple(motion_energy(views, self.spec).tolist()) if self.motion else ()
        return Loaded(video.path, views, motion, video.warning)


def run_views(forward: Runner, views: list[VideoViews], batch_size: int) -> list[Pass]:
    """Run the views of some videos in batches, and give each video its own share of what came out."""
    if not views:
        return []
    each = itertools.chain.from_iterable([video.to(forward.device) for video in views])
    passes = []
    while batch := list(itertools.islice(each, batch_size)):  # no more of them are held at a time
        passes.append(forward(torch.stack(batch)))
    found = Pass.joined(passes)
    ends = list(itertools.accumulate(map(len, views)))
    return [found.of(slice(end - len(video), end)) for video, end in zip(views, ends, strict=True)]


def as_prediction(video: Loaded, passed: Pass, labels: tuple[str, ...], static_gflops: float) -> Prediction:
    """Return what the network says of a video, from what it made of its views."""
    return Prediction(
        path=video.path,
        labels=labels,
        scores=passed.scores.mean(0),
        active_bins={site: counts.active_bins for site, counts in passed.sites.items()},
        gflops=tuple(count / 1e9 for count in passed.multiply_adds),
        static_gflops=static_gflops,
        ms_per_clip=passed.ms_per_clip,
        warning=video.warning,
    )
