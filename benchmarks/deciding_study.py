"""The study that decides, as docs/studies/deciding/PLAN.md says: networks trained with samplers and with fewer frames.

    python benchmarks/deciding_study.py ut_interaction/manifest.csv --out docs/studies/deciding --work runs/deciding

OUT/runs.csv gets a row for each network, OUT/rates.csv one for each trial of a learning rate. What is there is passed
over, so the same command goes on; several processes may share the folds, once the rates are there (`--rates`).
benchmarks/deciding_report.py reads the rows.

The layers up to res2 are frozen and look at one frame at a time. So what they make of each view of each video is
computed once (WORK, 1.4 GB), for all networks; a sampler at the input, which chooses frames by their pixels, chooses
among these maps. That the networks learn the same is tested (tests/benchmarks/test_deciding.py).
"""

import argparse
import copy
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from rows import append, find, versions  # beside this file
from torch import Tensor
from torch.nn.functional import cross_entropy

import atfr
from atfr.adapt.trace import INPUT, site_names
from atfr.comparison.rates import RATES, hold_out
from atfr.data.dataset import ClipDataset
from atfr.data.records import VideoList, read_csv
from atfr.evaluate.task import Task, load_checkpoint, save_checkpoint
from atfr.kernels.conv3d import channels_last
from atfr.models import VideoModel
from atfr.models.efficientnet import InflatedEfficientNet
from atfr.ragged import PackedClips
from atfr.samplers import ChangeGuidedSampling
from atfr.samplers.sampler import merged
from atfr.train.loaders import EpochShuffle, Share
from atfr.train.module import learning_rate_factor
from atfr.train.recipe import FROM_IMAGES, Tuning
from atfr.train.tuning import frozen, parameter_groups, set_modes
from atfr.video.sampling import clip_indices
from atfr.video.spec import ClipSpec

Footage = Literal["embedded", "plain"]
FOOTAGES: tuple[Footage, ...] = ("embedded", "plain")

FRAMES, SIZE, DRIFT = 32, 80, 12
CLIP = replace(
    FROM_IMAGES.clip, frames=FRAMES, stride="video", size=SIZE, resize=SIZE + DRIFT, jitter=(SIZE + DRIFT, 103),
    mean=InflatedEfficientNet.mean, std=InflatedEfficientNet.std,
)  # fmt: skip
SPECS: Mapping[str, ClipSpec] = {
    "base": replace(CLIP, frames=8),
    "plain": CLIP,
    "embedded": replace(CLIP, size=SIZE + DRIFT),
}
EPOCHS: Mapping[str, int] = {"base": 8, "plain": 3, "embedded": 3}
TRIAL_EPOCHS = 2
TUNING = replace(FROM_IMAGES.tuning, freeze="res2")
TRUNK = 2  # blocks of the network that are frozen: stem and res2
BATCH, WARMUP, DECAY = FROM_IMAGES.batch_size, 0.1, 1e-4
STILL_FRAMES = 128
NOISE = 0.02
"""Of an embedded clip: frames before some are taken; standard deviation of a pixel, where white is 1."""
FOLDS, KEPT = range(5), (4, 8)
MOST_BINS, CALIBRATED_ON = 512, 24

SAMPLERS: Mapping[str, Mapping[str, Any] | None] = {
    "static": None,
    "fewer_frames": {"after": "input", "sampler": "uniform"},
    "change": {"after": "input", "sampler": "change"},
    "sgs": {"after": "res2", "kernel": "linear"},
    "sgs_keep": {"after": "res2", "kernel": "keep", "order": "time", "edge_maps": "found"},
    "change_maps": {"after": "res2", "sampler": "change"},
}
IN_TURN = (("fewer_frames", "change"), ("static",), ("sgs", "sgs_keep", "change_maps"))
RUNS = "footage kind kept fold seed videos top1 loss gflops active_bins bins rate train_s".split()
EACH = ["right", "losses", "kept_each", "versions"]
RATE = "footage kind rate loss".split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, help="a CSV file with the columns path, label and fold")
    parser.add_argument("--out", type=Path, required=True, help="where the CSV files are")
    parser.add_argument("--work", type=Path, default=Path("runs/deciding"), help="where maps and bases are kept")
    parser.add_argument("--folds", type=int, nargs="+", default=list(FOLDS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rates", action="store_true", help="choose the learning rates and no more")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    options.work.mkdir(parents=True, exist_ok=True)
    study = Study(options.data, options.out, options.work)
    if options.rates:
        for kinds, footage in product(IN_TURN, FOOTAGES):
            for kind in kinds:
                study.rate(footage, kind)
        return
    for seed, kinds, footage, fold in product(options.seeds, IN_TURN, FOOTAGES, options.folds):
        for kind in kinds:
            for kept in KEPT if SAMPLERS[kind] else (FRAMES,):
                study.run(footage, kind, kept, fold, seed)


@dataclass(frozen=True)
class Views:
    """What the frozen layers make of views of videos, and what a sampler at the input knows of them.

    Attributes:
        maps: views in training, one an epoch, and behind them that of the test.
        cells: the means of each frame in 8 x 8 cells.
    """

    maps: Float[Tensor, "V M C T H W"]
    cells: Float[Tensor, "V M T L"]

    def of(self, view: int, videos: Int[Tensor, " N"]) -> tuple[Tensor, Tensor]:
        """Return the maps and cells of some videos."""
        return self.maps[view, videos], self.cells[view, videos]


def embedded(clip: Float[Tensor, "3 T H W"], generator: torch.Generator, spec: ClipSpec) -> Tensor:
    """Put a clip somewhere within still footage, and take as many frames of the whole, a smaller crop of each.

    Its first and its last frame are repeated before and behind it, sensor noise is added to every frame, and the crop
    drifts on a straight line from one place to another.
    """
    frames, size = clip.shape[1], clip.shape[2] - DRIFT
    choices = (STILL_FRAMES - frames + 1, STILL_FRAMES // frames)
    start, phase = (int(torch.randint(count, (), generator=generator)) for count in choices)
    taken = clip_indices(STILL_FRAMES, frames, "video", phase)
    ends = DRIFT * torch.rand(2, 2, generator=generator)
    places = (ends[0] + (ends[1] - ends[0]) * taken[:, None] / (STILL_FRAMES - 1)).round().long().tolist()
    shown = (taken - start).clamp(0, frames - 1).tolist()
    cut = torch.stack([clip[:, t, y : y + size, x : x + size] for t, (y, x) in zip(shown, places, strict=True)], 1)
    scale = NOISE / torch.tensor(spec.std).view(3, 1, 1, 1)
    return cut + scale * torch.randn(cut.shape, generator=generator)


def clips_of(footage: str, dataset: ClipDataset, view: int) -> Iterator[Float[Tensor, "3 T H W"]]:
    """Yield a view of each video: that of an epoch, or the test's, in the middle."""
    dataset.set_epoch(view)
    for index in range(len(dataset)):
        clip = dataset[index][0] if dataset.train else dataset[index][0][0]
        if footage == "embedded":
            key = np.random.SeedSequence([1, view, index]).generate_state(1, np.uint64)[0] >> 1
            clip = embedded(clip, torch.Generator().manual_seed(int(key)), dataset.spec)
        yield clip


def views_of(footage: str, videos: VideoList, network: VideoModel, work: Path) -> Views:
    """Return the views of all videos, from WORK where they are there."""
    path = work / f"{footage}.npz"
    if not path.is_file():
        describe, trunk = ChangeGuidedSampling(3).describe, network.eval().blocks[:TRUNK]
        datasets = [ClipDataset(videos, SPECS[footage], train=True, seed=0)] * EPOCHS[footage]
        if footage != "base":
            datasets.append(ClipDataset(videos, SPECS[footage], train=False))
        found = [
            [
                (trunk(channels_last(c[None]))[0].detach(), describe(c[None])[0])
                for c in clips_of(footage, dataset, view)
            ]
            for view, dataset in enumerate(datasets)
        ]
        maps, cells = (np.stack([[one[i].numpy() for one in view] for view in found]) for i in (0, 1))
        np.save(work / f"{footage}_maps.npy", maps)
        scratch = work / f"{footage}.scratch.npz"
        np.savez(scratch, cells=cells)
        scratch.rename(path)  # written last
    maps = np.load(work / f"{footage}_maps.npy", mmap_mode="c")
    return Views(torch.from_numpy(maps), torch.from_numpy(np.load(path)["cells"]))


def sampled(
    network: VideoModel, maps: Float[Tensor, "N C T H W"], cells: Float[Tensor, "N T L"]
) -> Float[Tensor, "N C T H W"] | PackedClips:
    """Return what goes on of the maps behind the frozen layers, wherever the sampler stands."""
    maps = channels_last(maps)
    for site, layer in site_names(network).items():
        if site == INPUT:
            sampling = layer.sampling(cells, torch.full((len(cells),), cells.shape[1]))
            maps = merged(maps, sampling.weights, sampling.slots, sampling)
        else:
            maps = layer(maps)
    return maps


Kept = tuple[int, ...]
"""The frames or maps that each clip of a batch keeps."""


def answers(
    network: VideoModel, views: Views, view: int, places: Int[Tensor, " N"]
) -> tuple[Float[Tensor, "N K"], Kept]:
    """Return the logits of a view of some videos, and what goes on of each."""
    maps = sampled(network, *views.of(view, places))
    kept = maps.lengths if isinstance(maps, PackedClips) else (maps.shape[2],) * len(places)
    return network.blocks[TRUNK:](maps), kept


def train_(
    network: VideoModel,
    said: Callable[[int, Tensor], tuple[Tensor, Kept]],
    videos: VideoList,
    places: Tensor,
    *,
    epochs: int,
    rate: float,
    seed: int,
    tuning: Tuning = TUNING,
    batch_size: int = BATCH,
) -> None:
    """Train a network in place as `atfr.train.fit.fit` does, on views whose maps are there.

    Args:
        said: what the network says of a view of some videos (`answers`).
        places: of the videos, among those of the views.
        rate: the learning rate.
    """
    clips = ClipDataset(videos, CLIP, train=True, seed=seed)  # for the order: nothing is decoded
    order = Share(EpochShuffle(clips, seed, balanced=tuning.balanced), batch_size, 0, 1)
    steps = max(1, len(order) // batch_size)
    labels = torch.tensor([record.label for record in videos.records])
    with frozen(network, tuning):
        set_modes(network, tuning)
        optimizer = torch.optim.AdamW(parameter_groups(network, tuning, rate, DECAY), rate)
        warmup = min(round(WARMUP * epochs * steps), epochs * steps - 1)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, epochs * steps, warmup)
        )
        for epoch in range(epochs):
            clips.set_epoch(epoch)
            torch.manual_seed(int(np.random.SeedSequence([seed, epoch, 0]).generate_state(1)[0]))
            for batch in torch.tensor(list(order)).split(batch_size):
                found, _ = said(epoch, places[batch])
                loss = cross_entropy(found.float(), labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()


@torch.inference_mode()
def tested(
    network: VideoModel, said: Callable[[int, Tensor], tuple[Tensor, Kept]], videos: VideoList, places: Tensor
) -> tuple[Float[Tensor, " M"], list[bool], list[int]]:
    """Return the loss of each video, whether it is told right, and the frames or maps that were kept."""
    network.eval()
    losses, right, kept = [], [], []
    for place, record in zip(places, videos.records, strict=True):
        found, (of_clip,) = said(-1, place[None])
        kept.append(of_clip)
        losses.append(float(cross_entropy(found, torch.tensor([record.label]))))
        right.append(int(found.argmax()) == record.label)
    return torch.tensor(losses), right, kept


@dataclass(frozen=True)
class Study:
    """What the rows of the study are made of."""

    data: Path
    out: Path
    work: Path

    @cached_property
    def all(self) -> VideoList:
        """Return the videos of all folds, in one order."""
        splits = read_csv(self.data, test_fold=0)
        records = sorted((r for split in splits.values() for r in split.records), key=lambda record: record.path)
        return replace(splits["train"], records=tuple(records))

    @cached_property
    def views(self) -> dict[str, Views]:
        """Return the views of all videos, by footage."""
        return {footage: views_of(footage, self.all, new_network(0), self.work) for footage in SPECS}

    def places(self, videos: VideoList) -> Int[Tensor, " M"]:
        """Return where videos stand among all."""
        where = {record.path: place for place, record in enumerate(self.all.records)}
        return torch.tensor([where[record.path] for record in videos.records])

    def base(self, name: str, videos: VideoList, seed: int) -> VideoModel:
        """Return the network that others go on from, trained if it is not there."""
        folder = self.work / name
        if not folder.exists():
            network = new_network(seed)
            self.train(network, "base", videos, rate=1, seed=seed)
            save_checkpoint(network.eval(), Task(videos.labels, CLIP), folder)
        return load_checkpoint(folder)[0]

    def train(
        self, network: VideoModel, footage: str, videos: VideoList, *, rate: float, seed: int, **how: Any
    ) -> None:
        """Train a network in place, at a share of the recipe's learning rate."""
        how = {"epochs": EPOCHS[footage]} | how
        rate *= FROM_IMAGES.learning_rate
        train_(network, self.said(network, footage), videos, self.places(videos), rate=rate, seed=seed, **how)

    def said(self, network: VideoModel, footage: str) -> Callable[[int, Tensor], tuple[Tensor, Kept]]:
        """Return what a network says of views of this footage."""
        return partial(answers, network, self.views[footage])

    def adapted(
        self, base: VideoModel, footage: Footage, kind: str, kept: int, videos: VideoList, seed: int
    ) -> VideoModel:
        """Return a base with a sampler; the bins of SGS are such that some training clips keep as many maps."""
        network, options = copy.deepcopy(base), SAMPLERS[kind]
        if options is None:
            return network
        torch.manual_seed(seed)
        number: dict[str, Any] = {"active_bins": kept} if options.get("sampler") == "uniform" else {"num_bins": kept}
        atfr.adapt_(network, **options, **number)
        if kind.startswith("sgs"):
            places = self.places(videos)
            calibrate_(network, self.views[footage].maps[-1, places[:: len(places) // CALIBRATED_ON]], kept)
        return network

    def rate(self, footage: Footage, kind: str) -> float:
        """Return the share of the recipe's learning rate of the least loss on training videos of fold 0 held out."""
        train, held_out = hold_out(read_csv(self.data, test_fold=0)["train"])
        kept = KEPT[0] if SAMPLERS[kind] else FRAMES
        for rate in RATES:
            key = {"footage": footage, "kind": kind, "rate": f"{rate:.4f}"}
            if find(self.out / "rates.csv", key):
                continue
            network = self.adapted(self.base("base_trial", train, 0), footage, kind, kept, train, 0)
            self.train(network, footage, train, rate=rate, seed=100, epochs=TRIAL_EPOCHS)
            loss = tested(network, self.said(network, footage), held_out, self.places(held_out))[0].mean()
            append(self.out / "rates.csv", RATE, {**key, "loss": f"{loss:.5f}"})
        tried = find(self.out / "rates.csv", {"footage": footage, "kind": kind})
        best = min(tried, key=lambda row: float(row["loss"]))["rate"]
        return next(rate for rate in RATES if f"{rate:.4f}" == best)

    def run(self, footage: Footage, kind: str, kept: int, fold: int, seed: int) -> None:
        """Train and test a network, unless its row is there."""
        key = {"footage": footage, "kind": kind, "kept": kept, "fold": fold, "seed": seed}
        if find(self.out / "runs.csv", key):
            return
        rate, splits = self.rate(footage, kind), read_csv(self.data, test_fold=fold)
        base = self.base(f"base_{fold}_{seed}", splits["train"], seed)
        network = self.adapted(base, footage, kind, kept, splits["train"], seed)
        start_s = time.process_time()
        self.train(network, footage, splits["train"], rate=rate, seed=seed + 100)
        train_s = time.process_time() - start_s
        test = in_order(splits["test"])
        found = tested(network, self.said(network, footage), test, self.places(test))
        write_row(self.out, key, rate, train_s, network, (3, FRAMES, SIZE, SIZE), found)


def in_order(videos: VideoList) -> VideoList:
    """Return videos by their paths."""
    return replace(videos, records=tuple(sorted(videos.records, key=lambda record: record.path)))


def write_row(
    out: Path,
    key: Mapping[str, Any],
    rate: float,
    train_s: float,
    network: VideoModel,
    shape: tuple[int, int, int, int],
    found: tuple[Tensor, list[bool], list[int]],
) -> None:
    """Append the row of a network that was tested on clips of this shape."""
    losses, right, maps = found
    cost = atfr.clip_cost(network, shape)
    gflops = [(cost.adaptive[count] if cost.sites else cost.static) / 1e9 for count in maps]
    bins = [getattr(layer, "num_bins", "") for layer in site_names(network).values()]
    row = {
        **key, "videos": len(right), "top1": f"{np.mean(right):.4f}", "loss": f"{losses.mean():.5f}",
        "gflops": f"{np.mean(gflops):.4f}", "active_bins": f"{np.mean(maps):.3f}", "bins": bins[0] if bins else "",
        "rate": f"{rate:.4f}", "train_s": f"{train_s:.0f}", "right": "".join(str(int(one)) for one in right),
        "losses": " ".join(f"{loss:.4f}" for loss in losses.tolist()), "kept_each": " ".join(map(str, maps)),
        "versions": versions(),
    }  # fmt: skip
    append(out / "runs.csv", RUNS + EACH, row)
    print(" ".join(f"{name}={row[name]}" for name in RUNS), flush=True)


def new_network(seed: int, num_classes: int = 6) -> VideoModel:
    """Return the network with ImageNet weights; the frozen layers are the same, whatever the seed."""
    torch.manual_seed(seed)
    return atfr.create_model(FROM_IMAGES.model, num_classes=num_classes, pretrained=True)


@torch.inference_mode()
def calibrate_(network: VideoModel, maps: Float[Tensor, "N C T H W"], kept: int) -> None:
    """Set the bins of SGS to the number with which clips keep nearest to so many maps in the mean."""
    layer: Any
    (layer,) = site_names(network).values()
    described, lengths = layer.describe(maps), torch.full((len(maps),), maps.shape[2])

    def apart(bins: int) -> float:
        layer.num_bins = bins
        return abs(float(layer.sampling(described, lengths).active_bins.double().mean()) - kept)

    layer.num_bins = min(range(1, MOST_BINS + 1), key=apart)


if __name__ == "__main__":
    main()
