"""What decoders and runners do with real videos: read views, and run a network on them."""

import functools
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atfr.adapt import set_num_bins_
from atfr.bulk.workers import Network, Payload
from atfr.checks import Precision
from atfr.errors import VideoError
from atfr.evaluate.forward import Runner, prepared
from atfr.evaluate.log import computed_in, identity
from atfr.evaluate.predict import Loaded, Views, as_prediction, run_loaded
from atfr.evaluate.task import Task, load_checkpoint
from atfr.files import sha256_of
from atfr.kernels.allocator import keep_freed_memory
from atfr.models import VideoModel
from atfr.runtime.bundle import BundleRunner, load_bundle
from atfr.runtime.description import BUNDLE
from atfr.video.spec import ClipSpec, ViewSpec

INPUT = "input"
"""The site at which all of a network runs on the maps that are kept."""
MOST_TIMES = 8
"""A batch grows to so many times its clips where they keep few maps, at most."""


@dataclass(frozen=True)
class ViewReader:
    """Reads the views of a video: in decoders."""

    spec: ClipSpec
    views: ViewSpec
    motion: bool = False

    def __call__(self, path: os.PathLike[str]) -> tuple[Payload, int]:
        """Return the pictures of a file's views as an array, beside the views without them; and the array's bytes."""
        torch.set_num_threads(1)
        loaded = Views([Path(path)], self.spec, self.views, motion=self.motion)[0]
        if loaded.views is None:
            raise VideoError(str(loaded.error))
        images = loaded.views.images.contiguous().numpy()
        return (images, replace(loaded, views=replace(loaded.views, images=torch.empty(0)))), images.nbytes


def loaded_of(payload: Payload) -> Loaded:
    """Return what a `ViewReader` has read."""
    images, rest = payload
    pixels = torch.from_numpy(np.array(images))  # Ray's are read-only
    return replace(rest, views=replace(rest.views, images=pixels))


class Predictor:
    """Runs a network on views: in runners.

    Args:
        batch_size: clips in one pass, with all their maps; more where a sampler at the input keeps fewer maps, so that
            the sum of A, and with it the memory, stays. Half, where the memory is too small.
    """

    def __init__(self, forward: Runner, task: Task, batch_size: int, views: ViewSpec) -> None:
        self.forward, self.task, self.batch_size, self.views = forward, task, batch_size, views
        self.share = 1.0

    def __call__(self, payloads: Sequence[Payload]) -> list[dict[str, Any]]:
        """Return a row of each video."""
        videos = [loaded_of(payload) for payload in payloads]
        while True:
            together = max(1, min(int(self.batch_size / self.share), MOST_TIMES * self.batch_size))
            try:
                ran = run_loaded(self.forward, videos, self.views, together)
                found = [(video, one) for video, one in ran if one is not None]
                break
            except torch.OutOfMemoryError:
                if self.batch_size == 1:
                    raise
                self.batch_size = max(1, self.batch_size // 2)
        static = self.forward.cost.static / 1e9
        for _, one in found:
            if INPUT in one.sites:
                kept, came = sum(one.sites[INPUT].active_bins), sum(one.sites[INPUT].maps)
                self.share += 0.1 * (kept / came - self.share)
        rows = [as_prediction(video, one, self.task.labels, static).to_dict() for video, one in found]
        return [row | row["top"][0] for row in rows]


def together(batch_size: int, views: ViewSpec) -> int:
    """Return how many videos a runner is handed: as many as fill a batch, with one view of each where views stop."""
    return max(1, batch_size // views.total) if views.settled is None else batch_size


MakeNetwork = Callable[[], Network]


def chosen(
    checkpoint: Path | None,
    bundle: Path | None,
    num_bins: int | list[int] | None,
    batch_size: int,
    precision: Precision = "float32",
) -> tuple[dict[str, Any], Task, Callable[[str, ViewSpec], MakeNetwork]]:
    """Return what a network is (as `atfr predict --out` says it), its task, and what makes it in runners of a device.

    The runners are told the views of a video.

    What makes it carries its weights, so that the nodes of a cluster need no disk in common.

    Raises:
        CheckpointError: the folder of the checkpoint is no such folder.
        BundleError: the folder of the bundle is none.
    """
    if bundle is not None:
        task = load_bundle(bundle, threads=1).task
        files = {file.name: file.read_bytes() for file in bundle.iterdir() if file.is_file()}
        found: dict[str, Any] = {"sha256": sha256_of(bundle / BUNDLE), "num_bins": None}
        return (
            found | computed_in(precision),
            task,
            lambda _, views: functools.partial(_of_bundle, files, batch_size, precision, views),
        )
    assert checkpoint is not None
    model, task = load_checkpoint(checkpoint)
    if num_bins is not None:
        set_num_bins_(model, num_bins)
    found = {"sha256": identity(model, task), "num_bins": num_bins} | computed_in(precision)
    return (
        found,
        task,
        lambda device, views: functools.partial(_of_model, model, task, batch_size, precision, views, device),
    )


def alone() -> None:
    """Set up a process that does nothing but run a network, on one core."""
    torch.set_num_threads(1)
    keep_freed_memory()


def _of_model(
    model: VideoModel, task: Task, batch_size: int, precision: Precision, views: ViewSpec, device: str
) -> Network:
    alone()
    return Predictor(prepared(model.to(device), task.clip_shape, precision), task, batch_size, views)


def _of_bundle(files: dict[str, bytes], batch_size: int, precision: Precision, views: ViewSpec) -> Network:
    alone()
    with tempfile.TemporaryDirectory(prefix="atfr-bundle-") as folder:
        for name, data in files.items():
            Path(folder, name).write_bytes(data)
        bundle = load_bundle(folder, threads=1, precision=precision)
    return Predictor(BundleRunner(bundle), bundle.task, batch_size, views)
