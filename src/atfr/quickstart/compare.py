"""quickstart: train a base, fine-tune it with each sampler and with none, test, time in turns, write what came out.

out/base, static, fewer_frames, adaptive, sgs/   checkpoint folders, for `atfr predict` and `atfr test`; all but the
                                                 base have a folder test/ with what their tests found, for `atfr report`
out/quickstart.json                              every figure, with its conditions
out/quickstart.png                               the same as a picture
"""

import copy
import gc
import itertools
import json
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atfr import measure
from atfr.adapt import adapt_
from atfr.data.dataset import ClipDataset
from atfr.data.records import VideoList
from atfr.evaluate.result import TestResult, folder_of
from atfr.evaluate.runs import Difference, paired_difference
from atfr.evaluate.test import test
from atfr.files import finite, whole, write_whole
from atfr.measure.eager import forward_in_turns
from atfr.models import VideoModel, create_model
from atfr.quickstart.figure import draw
from atfr.quickstart.placement import Placement, placements
from atfr.train.fit import fit
from atfr.train.recipe import Recipe
from atfr.video.spec import ClipSpec

Progress = Callable[[int, int], None]
Watch = Callable[[str], AbstractContextManager[Progress]]

TUNE_LEARNING_RATE = 2 / 3
"""Of what comes from the base, as a share of the base's."""

TIMED_BATCH = 16
TIMED_BATCHES = 6


@dataclass(frozen=True)
class Row:
    """One network's line of the comparison.

    Attributes:
        test: accuracy, multiply-adds and active bins on the held-out videos.
        ms_per_clip: forward pass of a batch over its clips, median, the networks taking turns.
        speedup: time per clip of the static network over this one's, median of the batches' own ratios.
        tune_s: time of the fine-tuning.
    """

    name: str
    test: TestResult
    ms_per_clip: float
    speedup: float
    tune_s: float


@dataclass(frozen=True)
class Comparison:
    """What a quickstart found.

    Attributes:
        rows: of each network, by its name.
        over: how much more often the adaptive network is right than each other, on the same videos.
        placement: where frames are kept, by network, in generated videos, whose truth is known.
        conditions: what the figures depend on: videos, clips, training, machine and versions.
    """

    rows: dict[str, Row]
    over: dict[str, Difference]
    placement: dict[str, Placement]
    conditions: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Turn the comparison into plain JSON values."""
        networks = {
            name: {key: getattr(row, key) for key in ("ms_per_clip", "speedup", "tune_s")}
            | {"test": row.test.to_dict()}
            for name, row in self.rows.items()
        }
        return {
            "conditions": self.conditions,
            "networks": networks,
            "adaptive_over": {name: asdict(difference) for name, difference in self.over.items()},
            "placement": {name: asdict(placement) for name, placement in self.placement.items()},
        }


def samplers(recipe: Recipe) -> dict[str, dict[str, Any] | None]:
    """Return the networks that are compared, each with the arguments of `adapt_` that make it of the static one."""
    kept = recipe.frames_kept
    return {
        "static": None,
        "fewer_frames": {"after": "input", "sampler": "uniform", "active_bins": kept},
        "adaptive": {"after": "input", "sampler": "change", "num_bins": kept},
        "sgs": {"kernel": recipe.kernel, "num_bins": recipe.num_bins, "order": recipe.order, "edge_maps": "found"},
    }


def quickstart(
    splits: Mapping[str, VideoList],
    recipe: Recipe,
    out: Path,
    *,
    epochs: int | None = None,
    seed: int = 0,
    say: Callable[[str], None] = lambda _: None,
    watch: Watch = lambda _: nullcontext(lambda *_: None),
) -> Comparison:
    """Train, test and time networks on the same videos: with all frames, with fewer, with those that matter, with SGS.

    All start from the same base, and are fine-tuned for as long, on the same clips in the same order.

    Args:
        splits: the lists "train" and "test", and "trimmed" where there are such videos, from which the base learns.
        recipe: how they are made and trained.
        out: the folder for checkpoints, JSON and picture.
        epochs: of the base; by default the recipe's, for so many videos.
        seed: of weights, clips and order.
        say: told what begins, a line each.
        watch: shows how far a test or the timing is, as `cli.common.progress` does; entered with what is done, it gives
            what is called with (done, total).
    """
    torch.manual_seed(seed)
    start = {"pretrained": True} if recipe.pretrained else {}
    base = create_model(recipe.model, num_classes=len(splits["train"].labels), **start)
    spec = replace(recipe.clip, mean=base.mean, std=base.std)
    epochs = epochs or recipe.epochs(len(splits["train"]))
    tune_epochs = math.ceil(recipe.tune_share * epochs)
    origin = "ImageNet" if recipe.pretrained else "random"
    first = splits.get("trimmed", splits["train"])
    kind = "trimmed videos" if "trimmed" in splits else "videos"
    say(f"training the base, {recipe.model} from {origin} weights: {epochs} epochs of {len(first)} {kind}")
    train(base, first, replace(spec, frames=recipe.base_frames), recipe, out / "base", epochs=epochs, rate=1, seed=seed)
    networks: dict[str, VideoModel] = {}
    results: dict[str, TestResult] = {}
    tune_s: dict[str, float] = {}
    for name, sampler in samplers(recipe).items():
        network = networks[name] = copy.deepcopy(base)
        if sampler:
            adapt_(network, **sampler)
        say(f"fine-tuning the {name} network: {tune_epochs} epochs")
        tune_s[name] = train(
            network,
            splits["train"],
            spec,
            recipe,
            out / name,
            epochs=tune_epochs,
            rate=TUNE_LEARNING_RATE,
            seed=seed + 1,
        )
        say(f"testing the {name} network on {len(splits['test'])} videos it has not seen")
        with watch("testing") as progress:
            results[name] = test(network, splits["test"], spec, num_clips=1, num_crops=1, progress=progress)
        results[name].save(folder_of(out / name))
    say(f"timing them in turns, {TIMED_BATCH} clips at a time")
    decoded = {video.path for video in results["static"].videos}
    records = tuple(record for record in splits["test"].records if str(record.path) in decoded)
    batches = some_batches(replace(splits["test"], records=records), spec)
    with watch("timing") as progress:
        timing = forward_in_turns(networks, batches, at_least=len(batches), budget_s=0, progress=progress)
    rows = {}
    for name, result in results.items():
        speedup = timing.speedup(name, over="static").median
        rows[name] = Row(name, result, timing.ms(name).median / TIMED_BATCH, speedup, tune_s[name])
    over = {name: paired_difference(results["adaptive"], results[name]) for name in results if name != "adaptive"}
    at_input = {name: networks[name] for name in ("fewer_frames", "adaptive")}
    found = conditions(splits, spec, recipe, seed) | {"base_epochs": epochs, "tune_epochs": tune_epochs}
    comparison = Comparison(rows, over, placements(at_input, splits["test"], spec), found)
    write(comparison, out)
    return comparison


def train(
    network: VideoModel,
    videos: VideoList,
    spec: ClipSpec,
    recipe: Recipe,
    out: Path,
    *,
    epochs: int,
    rate: float,
    seed: int,
) -> float:
    """Train a network in place, at a share `rate` of the recipe's learning rate, and return the seconds that took."""
    start_s = time.perf_counter()
    fit(
        network,
        ClipDataset(videos, spec, train=True, seed=seed),
        out=out,
        epochs=epochs,
        warmup_epochs=epochs / 10,
        batch_size=recipe.batch_size,
        optimizer=recipe.optimizer,
        learning_rate=rate * recipe.learning_rate,
        num_workers=0,
        seed=seed,
        tuning=recipe.tuning,
        logger=False,
    )
    gc.collect()  # Lightning's objects hold each other, and with them the decoded videos
    return time.perf_counter() - start_s


def some_batches(videos: VideoList, spec: ClipSpec) -> list[Tensor]:
    """Return batches of clips (N x C x T x H x W), one clip a video, spread over the list; few videos come again."""
    dataset = ClipDataset(videos, spec, train=False)
    wanted = TIMED_BATCH * TIMED_BATCHES
    clips = {index: dataset[index][0] for index in range(0, len(dataset), max(1, len(dataset) // wanted))}
    in_turn = itertools.cycle(clips.values())
    return [torch.cat(list(itertools.islice(in_turn, TIMED_BATCH))) for _ in range(TIMED_BATCHES)]


def conditions(splits: Mapping[str, VideoList], spec: ClipSpec, recipe: Recipe, seed: int) -> dict[str, Any]:
    """Return what the figures depend on, as plain JSON values."""
    return {
        "model": recipe.model,
        "train_videos": len(splits["train"]),
        "test_videos": len(splits["test"]),
        "labels": list(splits["train"].labels),
        "clip": spec.to_dict(),
        "recipe": asdict(recipe),
        "seed": seed,
        "timed_batch": TIMED_BATCH,
        **measure.conditions(),
    }


def write(comparison: Comparison, out: Path) -> None:
    """Write quickstart.json and quickstart.png, each whole or not at all."""
    write_whole(out / "quickstart.json", json.dumps(finite(comparison.to_dict()), indent=2, allow_nan=False) + "\n")
    with whole(out / "quickstart.png") as scratch:
        draw(comparison.to_dict(), scratch)
