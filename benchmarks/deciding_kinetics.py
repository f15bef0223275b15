"""The study that decides, on a network that knows actions: docs/studies/deciding_kinetics/PLAN.md.

    atfr weights i3d_inception
    python benchmarks/deciding_kinetics.py ut_interaction/manifest.csv --out docs/studies/deciding_kinetics
    python benchmarks/deciding_report.py docs/studies/deciding_kinetics --kept 8

All layers up to res4 are frozen, samplers among them. So what they make of each view of each video, with each sampler,
is computed once (WORK, 8 GB), and res5 and the head learn from it. OUT/runs.csv gets a row for each network, rates.csv
one for each trial of a learning rate; what is there is passed over, so the same command goes on.
"""

import argparse
import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any

import deciding_study as first  # beside this file
import torch
from deciding_study import (
    FOOTAGES,
    RATE,
    SAMPLERS,
    Kept,
    calibrate_,
    clips_of,
    in_order,
    tested,
    train_,
    write_row,
)
from jaxtyping import Float, Int
from rows import append, find
from torch import Tensor

import atfr
from atfr.adapt.trace import INPUT, site_names
from atfr.comparison.rates import RATES, hold_out
from atfr.data.dataset import ClipDataset
from atfr.data.records import VideoList, read_csv
from atfr.files import whole
from atfr.kernels.conv3d import channels_last
from atfr.models import VideoModel
from atfr.models.inception import ORDER
from atfr.ragged import PackedClips
from atfr.train.recipe import FROM_KINETICS

FRAMES, SIZE, DRIFT = 32, 160, 24
CLIP = replace(
    FROM_KINETICS.clip, frames=FRAMES, stride="video", size=SIZE, resize=SIZE + DRIFT, jitter=(SIZE + DRIFT, 206),
    mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5),
)  # fmt: skip
SPECS = {"plain": CLIP, "embedded": replace(CLIP, size=SIZE + DRIFT)}
VIEWS, EPOCHS, KEPT, KEPT_MAPS = 4, 8, 8, 4
"""Views of each video in training; passes over them; frames that are kept of 32, maps of the 16 behind res2."""
SAMPLER, TRAINED = (ORDER.index(name) + 1 for name in ("MaxPool3d_3a_3x3", "Mixed_4f"))
"""Where res2 ends, and res4: behind it, layers are trained."""

Clips = Sequence[Float[Tensor, "C T H W"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, help="a CSV file with the columns path, label and fold")
    parser.add_argument("--out", type=Path, required=True, help="where the CSV files are")
    parser.add_argument("--work", type=Path, default=Path("runs/deciding_kinetics"), help="where maps are kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    first.DRIFT = DRIFT  # of embedded clips, whose pictures are twice as large here
    for folder in (options.out, options.work):
        folder.mkdir(parents=True, exist_ok=True)
    study = Study(options.data, options.out, options.work)
    for view in range(VIEWS + 1):
        for footage in FOOTAGES:
            study.maps(footage, view)
    for seed, footage, kind, fold in product((0, 1, 2), FOOTAGES, SAMPLERS, range(5)):
        study.run(footage, kind, fold, seed)


def through(network: VideoModel, features: Tensor, start: int, stop: int = len(ORDER)) -> Tensor:
    """Return what these of the network's layers in a row make of features."""
    for path in ORDER[start:stop]:
        features = getattr(network, path)(features)
    return features


def adapted(base: VideoModel, kind: str) -> VideoModel:
    """Return a network with a sampler."""
    network, options = copy.deepcopy(base), SAMPLERS[kind]
    if options is not None:
        kept = KEPT if options["after"] == INPUT else KEPT_MAPS
        torch.manual_seed(0)
        number: dict[str, Any] = {"active_bins": kept} if options.get("sampler") == "uniform" else {"num_bins": kept}
        atfr.adapt_(network, **options, **number)
    return network


@torch.inference_mode()
def frozen_maps(
    networks: Mapping[str, VideoModel], clip: Float[Tensor, "3 T H W"]
) -> Iterator[tuple[str, Float[Tensor, "C T2 H2 W2"], int]]:
    """Yield what the frozen layers of each network make of a clip, and the frames or maps that its sampler kept."""
    pixels = channels_last(clip[None])
    behind_res2 = through(networks["static"], pixels, 0, SAMPLER)
    for kind, network in networks.items():
        sites = site_names(network)
        if not sites:
            maps, start, kept = behind_res2, SAMPLER, clip.shape[1]
        else:
            ((site, layer),) = sites.items()
            maps, start = (layer(pixels), 0) if site == INPUT else (layer(behind_res2), SAMPLER)
            kept = maps.lengths[0]
        maps = through(network, maps, start, TRAINED)
        yield kind, (maps.plain() if isinstance(maps, PackedClips) else maps)[0].clone(), kept


def answers(
    network: VideoModel, views: Sequence[tuple[Clips, Kept]], view: int, places: Int[Tensor, " N"]
) -> tuple[Float[Tensor, "N K"], Kept]:
    """Return the logits of a view of some videos, and what its sampler kept of each; epochs take the views in turn."""
    clips, kept = views[view if view < 0 else view % VIEWS]
    maps = channels_last_clips([clips[place] for place in places.tolist()])
    found = network.logits(network.dropout(network.avg_pool(through(network, maps, TRAINED))))
    return found, tuple(kept[place] for place in places.tolist())


def channels_last_clips(clips: Clips) -> Tensor:
    """Return clips in one tensor, packed where their lengths differ."""
    if len({clip.shape[1] for clip in clips}) == 1:
        return channels_last(torch.stack(list(clips)))
    return PackedClips.pack(clips)


@dataclass(frozen=True)
class Study:
    """What the rows of the study are made of.

    Attributes:
        found: views of all videos by footage and kind, as they are read.
    """

    data: Path
    out: Path
    work: Path
    found: dict[tuple[str, str], list[tuple[Clips, Kept]]] = field(default_factory=dict)

    @cached_property
    def all(self) -> VideoList:
        """Return the videos of all folds, in one order."""
        splits = read_csv(self.data, test_fold=0)
        return in_order(replace(splits["train"], records=sum((s.records for s in splits.values()), ())))

    def places(self, videos: VideoList) -> Int[Tensor, " M"]:
        """Return where videos stand among all."""
        where = {record.path: place for place, record in enumerate(self.all.records)}
        return torch.tensor([where[record.path] for record in videos.records])

    @cached_property
    def networks(self) -> Mapping[str, Mapping[str, VideoModel]]:
        """Return the networks by footage and kind, of which all seeds have the frozen layers; bins are found here."""
        base = new_network(0)
        made: dict[str, dict[str, VideoModel]] = {
            footage: {kind: adapted(base, kind).eval() for kind in SAMPLERS} for footage in FOOTAGES
        }
        train = read_csv(self.data, test_fold=0)["train"]
        some = replace(train, records=in_order(train).records[:: len(train) // first.CALIBRATED_ON])
        for footage, of_kind in made.items():
            clips = clips_of(footage, ClipDataset(some, SPECS[footage], train=False), VIEWS)
            with torch.inference_mode():
                maps = torch.cat([through(base.eval(), channels_last(clip[None]), 0, SAMPLER) for clip in clips])
            for kind, network in of_kind.items():
                if kind.startswith("sgs"):
                    calibrate_(network, maps, KEPT_MAPS)
        return made

    def maps(self, footage: str, view: int) -> dict[str, tuple[list[Tensor], Kept]]:
        """Return by kind what the frozen layers make of a view of all videos, from WORK where it is there."""
        path = self.work / f"{footage}_{view}.pt"
        if not path.is_file():
            dataset = ClipDataset(self.all, SPECS[footage], train=view < VIEWS, seed=0)
            found: dict[str, list[tuple[Tensor, int]]] = {kind: [] for kind in SAMPLERS}
            for clip in clips_of(footage, dataset, view):
                for kind, maps, kept in frozen_maps(self.networks[footage], clip):
                    found[kind].append((maps, kept))
            with whole(path) as scratch:
                torch.save({kind: tuple(zip(*each, strict=True)) for kind, each in found.items()}, scratch)
            print(f"{footage}, view {view}: computed", flush=True)
        return torch.load(path, mmap=True)

    def views(self, footage: str, kind: str) -> list[tuple[Clips, Kept]]:
        """Return the views of all videos, those of the training and then the test's."""
        if (footage, kind) not in self.found:
            self.found[footage, kind] = [self.maps(footage, view)[kind] for view in range(VIEWS + 1)]
        return self.found[footage, kind]

    def trained(
        self, footage: str, kind: str, videos: VideoList, rate: float, seed: int
    ) -> tuple[VideoModel, partial[tuple[Tensor, Kept]]]:
        """Train res5 and a new head, at a share of the recipe's learning rate; return what the network says, too."""
        network = copy.deepcopy(self.networks[footage][kind])
        network.logits.load_state_dict(new_network(seed).logits.state_dict())
        said = partial(answers, network, self.views(footage, kind))
        train_(
            network, said, videos, self.places(videos), epochs=EPOCHS, rate=rate * FROM_KINETICS.learning_rate,
            seed=seed + 100, tuning=FROM_KINETICS.tuning, batch_size=FROM_KINETICS.batch_size,
        )  # fmt: skip
        return network, said

    def rate(self, footage: str, kind: str) -> float:
        """Return the share of the recipe's learning rate of the least loss on training videos of fold 0 held out."""
        train, held_out = hold_out(read_csv(self.data, test_fold=0)["train"])
        for rate in RATES:
            key = {"footage": footage, "kind": kind, "rate": f"{rate:.4f}"}
            if not find(self.out / "rates.csv", key):
                loss = tested(*self.trained(footage, kind, train, rate, 0), held_out, self.places(held_out))[0].mean()
                append(self.out / "rates.csv", RATE, {**key, "loss": f"{loss:.5f}"})
        tried = find(self.out / "rates.csv", {"footage": footage, "kind": kind})
        best = min(tried, key=lambda row: float(row["loss"]))["rate"]
        return next(rate for rate in RATES if f"{rate:.4f}" == best)

    def run(self, footage: str, kind: str, fold: int, seed: int) -> None:
        """Train and test a network, unless its row is there."""
        kept = KEPT if SAMPLERS[kind] else FRAMES
        key = {"footage": footage, "kind": kind, "kept": kept, "fold": fold, "seed": seed}
        if find(self.out / "runs.csv", key):
            return
        rate, splits = self.rate(footage, kind), read_csv(self.data, test_fold=fold)
        start_s = time.process_time()
        network, said = self.trained(footage, kind, splits["train"], rate, seed)
        train_s = time.process_time() - start_s
        test = in_order(splits["test"])
        found = tested(network, said, test, self.places(test))
        write_row(self.out, key, rate, train_s, network, (3, FRAMES, SIZE, SIZE), found)


def new_network(seed: int) -> VideoModel:
    """Return the network with Kinetics weights and a new head."""
    torch.manual_seed(seed)
    return atfr.create_model(FROM_KINETICS.model, num_classes=6, pretrained=True)


if __name__ == "__main__":
    main()
