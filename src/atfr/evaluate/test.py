"""test: the multi-view test of a network on labelled videos, with accuracy, cost and time per clip.

Each video counts exactly once, also where several processes share the test (`torchrun`, any number of them): process r
of W takes the videos r, r + W, r + 2 W, ..., nothing is padded, and each process ends with the result of all. A video
that does not decode is left out of every figure, counted and named.
"""

import platform
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
from torch import nn

from atfr.adapt import adaptation
from atfr.checks import Precision, cpuinfo, not_negative, one_of
from atfr.data.dataset import MAX_SKIPPED, check_skipped
from atfr.data.records import VideoList
from atfr.errors import DataError
from atfr.evaluate.forward import Pass, prepared
from atfr.evaluate.predict import Loaded, Prediction, Views, as_prediction, check_batches, outcomes
from atfr.evaluate.result import Skipped, TestResult, VideoResult
from atfr.evaluate.task import Task, check_classes
from atfr.models import VideoModel
from atfr.video.spec import ClipSpec, ViewSpec
from atfr.words import counted

Crops = Literal["uniform", "random"]


Tested = tuple[int, VideoResult | Skipped, float]
"""The number of a video in the list, what came of it, and the ms of a clip."""


def test(
    model: VideoModel,
    videos: VideoList,
    spec: ClipSpec,
    *,
    num_clips: int = 10,
    num_crops: int = 3,
    settled: float | None = None,
    crops: Crops = "uniform",
    seed: int = 0,
    batch_size: int = 8,
    num_workers: int = 0,
    precision: Precision = "float32",
    max_skipped: float = MAX_SKIPPED,
    progress: Callable[[int, int], None] = lambda *_: None,
    elsewhere: Callable[[Views], Iterator[tuple[Loaded, Pass | None]]] | None = None,
) -> TestResult:
    """Test a network on labelled videos: softmax scores averaged over num_clips x num_crops views, or until settled.

    Where `torch.distributed` is initialised, the processes share the videos, and each returns the result of all.

    Source: Fayyaz et al. 2021, Sec. 5: 10 clips, spread uniformly, of 3 random crops each.

    Args:
        model: a network with a class for each of the list's labels; it runs where its parameters are.
        videos: the test split.
        spec: the clips the network reads.
        num_clips: clips of a video, spread uniformly.
        num_crops: crops of a clip: 1 or 3.
        settled: compute the views of a video one after the other, and stop with this lead of a class over the next.
        crops: "uniform": the centre, or the centre and both ends; "random": anywhere, drawn anew for each clip.
        seed: of random crops; they depend on it and on the place of a video in the list.
        batch_size: clips in one forward pass, at most.
        num_workers: processes that decode; 0 decodes in this one.
        precision: what the network computes in (`atfr.evaluate.forward.prepared`).
        max_skipped: the share of the videos that may fail to decode.
        progress: called with (videos done, videos in all) of this process.
        elsewhere: gives what `outcomes` does, in the same order, in place of decoding and running here.

    Raises:
        DataError: none of the videos decodes, or more than `max_skipped` of them do not.
        CheckpointError: the network has another number of classes than the list.
    """
    task = Task(videos.labels, spec)
    views = ViewSpec(num_clips, num_crops, settled)
    check_batches(batch_size, num_workers)
    one_of("crops", crops, get_args(Crops))
    not_negative("seed", seed)
    check_classes(model, task)
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    numbers = range(rank, len(videos), world_size)
    paths = [videos.records[number].path for number in numbers]
    crop_seeds = [(seed, number) for number in numbers] if crops == "random" else None
    files = Views(paths, spec, views, crop_seeds, motion=True)

    forward = prepared(model, task.clip_shape, precision)
    tested: list[Tested] = []
    progress(0, len(paths))
    if paths and elsewhere is None:
        forward.warm_up(min(batch_size, (1 if settled is not None else views.total) * len(paths)))
    found_of = elsewhere(files) if elsewhere else outcomes(forward, files, batch_size, num_workers)
    for number, (video, passed) in zip(numbers, found_of, strict=True):
        if passed is None:
            tested.append((number, Skipped(str(video.path), str(video.error)), 0.0))
        else:
            prediction = as_prediction(video, passed, task.labels, forward.cost.static / 1e9)
            row = _row(prediction, videos.records[number].label, passed, video.motion)
            tested.append((number, row, passed.ms_per_clip))
        progress(len(tested), len(paths))
    tested = sorted(_of_all_processes(tested), key=lambda one: one[0])
    found = [outcome for _, outcome, _ in tested if isinstance(outcome, VideoResult)]
    skipped = [outcome for _, outcome, _ in tested if isinstance(outcome, Skipped)]
    if not found:
        raise DataError(f"of {counted(len(videos), 'test video')} none decodes; the first: {skipped[0].reason}")
    if skipped:
        check_skipped(len(skipped), len(videos), max_skipped, skipped[0].reason)
    timing = conditions(forward.model, batch_size) | {"processes": world_size, "clip_shape": list(task.clip_shape)}
    return TestResult(
        videos=tuple(found),
        skipped=tuple(skipped),
        labels=videos.labels,
        network={**model.config, "sgs": adaptation(model)},
        views={"clips": num_clips, "crops": num_crops, "places": crops}
        | ({"seed": seed} if crops == "random" else {})
        | ({"settled": settled} if settled is not None else {})
        | {"frames": spec.frames, "stride": spec.stride, "size": spec.size, "resize": spec.resize},
        static_gflops_per_clip=forward.cost.static / 1e9,
        ms_per_clip=statistics.median(ms for _, outcome, ms in tested if isinstance(outcome, VideoResult)),
        timing=timing,
    )


def _of_all_processes(tested: list[Tested]) -> list[Tested]:
    if not dist.is_initialized():
        return tested
    shares: list[list[Tested]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(shares, tested)
    return [one for share in shares for one in share]


test.__test__ = False  # type: ignore[attr-defined]  # no pytest function


def conditions(model: nn.Module, batch_size: int) -> dict[str, Any]:
    """Return what a time depends on, as plain JSON values: device, threads, versions, type, batch size."""
    parameter = next(model.parameters())
    on_cuda = parameter.device.type == "cuda"
    return {
        "what": "forward pass only, optimize_for_inference, after one warm-up pass, median over clips",
        "batch_size": batch_size,
        "device": torch.cuda.get_device_name(parameter.device) if on_cuda else cpu_name(),
        "threads": torch.get_num_threads(),
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "torch": torch.__version__,
    }


def cpu_name() -> str:
    """Return the processor's name."""
    names = [line.partition(":")[2].strip() for line in cpuinfo().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _row(prediction: Prediction, label: int, passed: Pass, motion: Sequence[float]) -> VideoResult:
    labels = prediction.labels
    top = prediction.top(len(labels))  # its order, ties and NaN included, is the rank's
    return VideoResult(
        path=str(prediction.path),
        label=labels[label],
        prediction=top[0][0],
        probability=top[0][1],
        rank=[name for name, _ in top].index(labels[label]) + 1,
        sites=passed.sites,
        view_gflops=prediction.gflops,
        motion=tuple(float(f"{energy:.5g}") for energy in motion),
        warning=prediction.warning,
        label_probability=float(prediction.scores[label]),
    )
