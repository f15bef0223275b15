"""Make the networks of a comparison: train, put a sampler in, test, keep; then time them all in turns.

out/base                     a checkpoint folder: what all go on from
out/NAME                     a checkpoint folder of each network; its test/result.json is written last
out/NAME/made.json           its learning rate, and the time of its training
"""

import copy
import gc
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atfr import measure
from atfr.adapt import adapt_
from atfr.adapt.calibrate import calibrate_
from atfr.adapt.trace import site_names
from atfr.comparison.plans import ONE_VIEW, SGS, STATIC, Plan
from atfr.data.dataset import ClipDataset
from atfr.data.records import VideoList
from atfr.errors import DataError, VideoError
from atfr.evaluate.result import RESULT, TestResult, folder_of
from atfr.evaluate.runs import read_result
from atfr.evaluate.task import Task, save_checkpoint
from atfr.evaluate.test import test
from atfr.files import read_json, write_json
from atfr.measure.eager import forward_in_turns
from atfr.models import VideoModel, create_model
from atfr.optimize import optimize_for_inference
from atfr.train.fit import fit
from atfr.train.recipe import Recipe
from atfr.video.spec import ClipSpec, ViewSpec
from atfr.words import counted

Progress = Callable[[int, int], None]
Watch = Callable[[str], AbstractContextManager[Progress]]
"""Shows how far something is, as `cli.common.progress` does: entered with what is done, it gives a `Progress`."""

MADE = "made.json"

TIMED_BATCH = 16
TIMED_BATCHES = 6
TIMED_NUMBERS = 2**26
"""Of a timed batch, at most: large clips come fewer at a time."""

CALIBRATED_ON = 24
"""Clips that tell how many bins SGS needs to keep so many maps."""

SLACK = 1.01
"""The similarity network has multiply-adds too."""


@dataclass(frozen=True)
class Row:
    """One network's line of the comparison."""

    test: TestResult  # accuracy, loss, multiply-adds and active bins on the held-out videos
    tune_s: float  # time of its training from the base; 0 where there was none
    rate: float | None  # its learning rate, as a share of the recipe's; None where it was not trained
    # forward pass of a batch over its clips, median, the networks taking turns; 0 until they have
    ms_per_clip: float = 0.0
    # time per video of the static network over this one's: median of the batches' own ratios, times that of views
    speedup: float = 1.0

    @property
    def time_share(self) -> float:
        """Its time, as a share of the static network's."""
        return 1 / self.speedup

    @property
    def ms(self) -> float:
        """Forward passes of all views of a video, in the mean."""
        return self.ms_per_clip * self.test.views_per_video

    def to_dict(self) -> dict[str, Any]:
        """Turn the row into plain JSON values."""
        kept = {key: getattr(self, key) for key in ("ms_per_clip", "speedup", "tune_s", "rate")}
        return kept | {"test": self.test.to_dict()}


@dataclass(frozen=True)
class Ground:
    """What all networks of a comparison have in common."""

    base: VideoModel  # the network that they go on from
    splits: Mapping[str, VideoList]  # the lists "train", if anything is trained, and "test"
    spec: ClipSpec  # the clips that they read
    recipe: Recipe
    epochs: int  # of the training from the base; 0: nothing is trained
    seed: int
    out: Path
    device: torch.device
    say: Callable[[str], None] = lambda _: None
    watch: Watch = lambda _: nullcontext(lambda *_: None)
    views: ViewSpec = ONE_VIEW  # of each tested video; `settled` is for the networks whose plan says so

    @property
    def task(self) -> Task:
        """The classes and clips of all of them."""
        return Task(self.splits["test"].labels, self.spec)

    def make(self, plan: Plan, rate: float | None, clips: ClipDataset | None) -> tuple[VideoModel, Row]:
        """Make a network of the base, test it, and keep both in the folder of its name.

        Args:
            rate: the learning rate, as a share of the recipe's; None trains nothing.
        """
        out = self.out / plan.name
        network, tune_s = self.adapted(plan), 0.0
        if rate is not None and clips is not None:
            tune_s = self.trained(network, clips, rate, out, self.epochs)
        else:
            stops = plan.views is not None and plan.views.settled is not None
            save_checkpoint(network, replace(self.task, views=plan.views if stops else None), out)
        result = self.tested(network, self.splits["test"], plan.name, plan.views)
        write_json(out / MADE, {"tune_s": tune_s, "rate": rate}, indent=None)
        result.save(folder_of(out))
        return network, Row(result, tune_s, rate)

    def made(self, plan: Plan) -> Row | None:
        """Return a network's results where it was made before."""
        out = self.out / plan.name
        if not (folder_of(out) / RESULT).is_file():
            return None
        return Row(read_result(out), **read_json(out / MADE))

    def train_base_(self, videos: VideoList, epochs: int, start: str = "", kind: str = "video") -> None:
        """Train the base in place, on clips of fewer frames, and keep it; `start` and `kind` are for who is told."""
        passes = f"{counted(epochs, 'epoch')} of {counted(len(videos), kind)}"
        self.say(f"training the base, {self.base.config['model']}{start}: {passes}")
        spec = replace(self.spec, frames=self.recipe.base_frames)
        self.trained(self.base, ClipDataset(videos, spec, train=True, seed=self.seed), 1, self.out / "base", epochs)

    def trained(self, network: VideoModel, clips: ClipDataset, rate: float, out: Path, epochs: int) -> float:
        """Train a network in place, at a share `rate` of the recipe's learning rate; return the seconds that took."""
        recipe, device, start_s = self.recipe, self.device, time.perf_counter()
        fit(
            network,
            clips,
            out=out,
            epochs=epochs,
            warmup_epochs=epochs / 10,
            batch_size=recipe.batch_size,
            optimizer=recipe.optimizer,
            learning_rate=rate * recipe.learning_rate,
            num_workers=0,
            seed=clips.seed,
            tuning=recipe.tuning,
            logger=False,
            enable_checkpointing=False,
            accelerator=device.type,
            devices=[device.index or 0] if device.type == "cuda" else 1,
        )
        gc.collect()  # Lightning's objects hold each other, and with them the decoded videos
        return time.perf_counter() - start_s

    def adapted(self, plan: Plan) -> VideoModel:
        """Return the base with the plan's sampler; the bins of SGS are such that clips keep as many maps as wanted."""
        network = copy.deepcopy(self.base)
        if plan.sampler is not None:
            adapt_(network, **plan.sampler)
        if plan.kind == SGS and plan.kept > 1 and len(site_names(network)) == 1:
            clips = torch.cat(list(some_clips(self.splits.get("train", self.splits["test"]), self.spec, CALIBRATED_ON)))
            found = calibrate_(network.to(self.device), clips.split(8), gflops=plan.gflops * SLACK)
            if (mean := found.active_bins.mean) < plan.kept - 0.5:
                self.say(f"{plan.name}: SGS keeps {mean:.1f} maps of a clip and never {plan.kept}, with any bins")
        return network.cpu()

    def tested(self, network: VideoModel, videos: VideoList, name: str, views: ViewSpec | None = None) -> TestResult:
        """Test a network on the views of each video, the same for all networks if it has none of its own."""
        views = views or replace(self.views, settled=None)
        self.say(f"testing the {name} network on {counted(len(videos), 'video')}")
        with self.watch("testing") as progress:
            found = test(network.to(self.device), videos, self.spec, **asdict(views), progress=progress)
        network.cpu()
        if name == STATIC:  # the same for all
            for skipped in found.skipped:
                self.say(f"left out: {skipped.reason}")
        return found

    def with_times(self, rows: Mapping[str, Row], networks: Mapping[str, VideoModel]) -> tuple[dict[str, Row], int]:
        """Time forward passes in turns, on clips of the tested videos.

        Return the rows with their times, and the size of a timed batch. The first row is static, and so is a clip's
        time in a row that has no network of its own.
        """
        first, static = next((name, row.test) for name, row in rows.items())
        size = min(TIMED_BATCH, max(1, TIMED_NUMBERS // torch.Size(self.task.clip_shape).numel()))
        self.say(f"timing them in turns, {counted(size, 'clip')} at a time")
        decoded = {video.path for video in static.videos}
        records = tuple(record for record in self.splits["test"].records if str(record.path) in decoded)
        there = replace(self.splits["test"], records=records)
        in_turn = itertools.cycle(list(some_clips(there, self.spec, size * TIMED_BATCHES)))
        batches = [torch.cat(list(itertools.islice(in_turn, size))) for _ in range(TIMED_BATCHES)]
        on_device = {name: optimize_for_inference(network.to(self.device)) for name, network in networks.items()}
        with self.watch("timing") as progress:
            timing = forward_in_turns(on_device, batches, at_least=len(batches), budget_s=0, progress=progress)
        timed = {}
        for name, row in rows.items():
            own = name if name in networks else first
            speedup = timing.speedup(own, over=first).median * static.views_per_video / row.test.views_per_video
            timed[name] = replace(row, ms_per_clip=timing.ms(own).median / size, speedup=speedup)
        return timed, size

    def conditions(self, timed_batch: int) -> dict[str, Any]:
        """Return what the figures depend on, as plain JSON values."""
        return {
            "model": self.base.config["model"],
            "train_videos": len(self.splits.get("train", ())),
            "test_videos": len(self.splits["test"]),
            "labels": list(self.splits["test"].labels),
            "clip": self.spec.to_dict(),
            "views": [self.views.num_clips, self.views.num_crops],
            "recipe": asdict(self.recipe) if self.epochs else None,
            "seed": self.seed,
            "timed_batch": timed_batch,
            "tune_epochs": self.epochs,
            **measure.conditions(self.device),
        }


def some_clips(videos: VideoList, spec: ClipSpec, wanted: int) -> Iterator[Tensor]:
    """Yield clips (1 x C x T x H x W), one a video, spread over the list; videos that do not decode are passed over.

    Raises:
        DataError: none of them decodes.
    """
    dataset, found = ClipDataset(videos, spec, train=False, max_skipped=1), 0
    for index in range(0, len(dataset), max(1, len(dataset) // wanted)):
        try:
            clip = dataset[index][0]
        except VideoError as error:
            reason = error
            continue
        found += 1
        yield clip
    if not found:
        raise DataError(f"none of the videos that were tried decodes; the last: {reason}")


def new_base(recipe: Recipe, num_classes: int, seed: int) -> VideoModel:
    """Return a network to train, with the weights that the recipe says."""
    torch.manual_seed(seed)
    start = {"pretrained": True} if recipe.pretrained else {}
    return create_model(recipe.model, num_classes=num_classes, **start)
