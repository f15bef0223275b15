"""Views that stop, on videos that are labelled, as docs/studies/views/PLAN.md says.

    python benchmarks/views_study.py ut_interaction/manifest.csv --out docs/studies/views --work runs/deciding

The networks are the bases of benchmarks/deciding_study.py, in WORK. OUT/videos.csv gets a row for each video: its lead
after 1, 2, ... views in the order in which they are computed, and whether these tell it right. What is there is passed
over. At the end the table of the results is printed, from these rows alone; with --time also what `predict` takes from
files to answers, in turns, on the videos of one fold.
"""

import argparse
import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from deciding_study import CLIP, DRIFT, NOISE, SIZE
from jaxtyping import Bool, Float
from rows import append, find
from torch import Tensor

from atfr.data.records import VideoList, read_csv
from atfr.evaluate.predict import predict
from atfr.evaluate.settling import after, least_lead, views_needed
from atfr.evaluate.stopping import lead, view_order
from atfr.evaluate.task import load_checkpoint
from atfr.measure import in_turns
from atfr.optimize import optimize_for_inference
from atfr.video.file import VideoFile
from atfr.video.transforms import test_views

Footage = Literal["plain", "embedded"]
CROPS: Mapping[Footage, int] = {"plain": 3, "embedded": 1}
CLIPS, FRAMES, STRIDE, LONG = 10, 8, 4, 128
LOSSES = (0.0, 0.02)
FOLDS, SEEDS = range(5), (0, 1, 2)
BOOTSTRAP = 10_000
COLUMNS = ["footage", "seed", "fold", "video", "label", "right", "leads"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, help="a CSV file with the columns path, label and fold")
    parser.add_argument("--out", type=Path, required=True, help="where videos.csv is")
    parser.add_argument("--work", type=Path, default=Path("runs/deciding"), help="where the bases are")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--time", action="store_true", help="time all views and stopping, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    rows = options.out / "videos.csv"
    for seed, fold in product(options.seeds, FOLDS):
        if (base := options.work / f"base_{fold}_{seed}").is_dir():
            for footage in CROPS:
                if not find(rows, {"footage": footage, "seed": seed, "fold": fold}):
                    run(rows, base, read_csv(options.data, test_fold=fold)["test"], footage, seed, fold)
        else:
            print(f"{base} is not there: benchmarks/deciding_study.py makes it")
    report(rows)
    if options.time:
        time_(rows, options.work / f"base_0_{SEEDS[1]}", read_csv(options.data, test_fold=0)["test"])


@torch.inference_mode()
def run(rows: Path, base: Path, videos: VideoList, footage: Footage, seed: int, fold: int) -> None:
    """Compute all views of some videos, and append a row for each once all are there."""
    network = optimize_for_inference(load_checkpoint(base)[0])
    order = list(view_order(CLIPS, CROPS[footage]))
    found: list[dict[str, Any]] = []
    for number, record in enumerate(sorted(videos.records, key=lambda one: one.path)):
        views = views_of(record.path, footage, 1000 * fold + number)
        scores = torch.cat([network(torch.stack([view])).double().softmax(1) for view in views])[order]
        answers = scores.cumsum(0).argmax(1)
        found.append(
            {
                "footage": footage, "seed": seed, "fold": fold, "video": number, "label": record.label,
                "right": "".join(str(int(answer == record.label)) for answer in answers.tolist()),
                "leads": " ".join(f"{value:.4f}" for value in lead(scores[None])[0].tolist()),
            }
        )  # fmt: skip
    for row in found:
        append(rows, COLUMNS, row)
    print(f"{footage} seed {seed} fold {fold}: {np.mean([row['right'][-1] == '1' for row in found]):.3f}", flush=True)


def views_of(path: Path, footage: Footage, number: int) -> Iterator[Float[Tensor, "3 T H W"]]:
    """Yield the views of a video: as it is, or somewhere within still footage with sensor noise."""
    if footage == "plain":
        spec = replace(CLIP, frames=FRAMES, stride=STRIDE, resize=SIZE + DRIFT)
        yield from test_views(VideoFile(path, shorter_side=spec.decode_side), spec, CLIPS, CROPS[footage])
        return
    spec = replace(CLIP, resize=SIZE + DRIFT)
    (clip,) = test_views(VideoFile(path, shorter_side=spec.decode_side), spec)
    places = torch.Generator().manual_seed(number)
    event = int(torch.randint(LONG - clip.shape[1] + 1, (), generator=places))
    scale = NOISE / torch.tensor(spec.std).view(3, 1, 1, 1)
    for start in np.linspace(0, LONG - (FRAMES - 1) * STRIDE - 1, CLIPS).round().astype(int).tolist():
        frames = (torch.arange(FRAMES) * STRIDE + start - event).clamp(0, clip.shape[1] - 1)
        yield clip[:, frames] + scale * torch.randn(clip[:, frames].shape, generator=places)


def report(path: Path) -> None:
    """Print the table: what stopping does, beside all views and as many views for every video."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for footage, seeds in product(CROPS, ([0], [seed for seed in SEEDS if seed])):
        of_seeds = {
            seed: [row for row in rows if (row["footage"], int(row["seed"])) == (footage, seed)] for seed in seeds
        }
        whole = {seed: some for seed, some in of_seeds.items() if {int(row["fold"]) for row in some} == set(FOLDS)}
        if not whole:
            continue
        right = {seed: torch.tensor([[c == "1" for c in row["right"]] for row in some]) for seed, some in whole.items()}
        print(f"\n{footage}, seeds {' '.join(map(str, whole))}, {len(next(iter(right.values())))} videos")
        for loss in LOSSES:
            taken = {seed: stopped(some, right[seed], loss) for seed, some in whole.items()}
            mean = float(torch.stack(list(taken.values())).double().mean())
            all_views = {seed: table[:, -1] for seed, table in right.items()}
            ours = {seed: after(right[seed], views) for seed, views in taken.items()}
            print(f"  stopped, a loss of {loss:g} wanted: {mean:.2f} views, {told(ours)} %")
            print(f"    all {right[next(iter(right))].shape[1]} views: {told(all_views)} %, {paired(ours, all_views)}")
            for count in sorted({1, math.floor(mean), math.ceil(mean)}):
                fewer = {seed: table[:, count - 1] for seed, table in right.items()}
                print(f"    {count} of every video: {told(fewer)} %, {paired(ours, fewer)}")


def time_(rows: Path, base: Path, videos: VideoList) -> None:
    """Time videos from files to answers: all views, the middle one, and until a class is settled."""
    network, task = load_checkpoint(base)
    task = replace(task, spec=replace(CLIP, frames=FRAMES, stride=STRIDE, resize=SIZE + DRIFT))
    paths = [record.path for record in videos.records]
    others = [row for row in find(rows, {"footage": "plain", "seed": SEEDS[1]}) if row["fold"] != "0"]
    settled = least_lead(leads_of(others), torch.tensor([[c == "1" for c in row["right"]] for row in others]), 0.0)
    counts: dict[str, list[int]] = {}

    def run(name: str, clips: int, crops: int, stop: float | None = None) -> None:
        found = predict(network, paths, task, num_clips=clips, num_crops=crops, settled=stop)
        counts[name] = [len(one.gflops) for one in found]

    timing = in_turns(
        {
            "all": lambda: run("all", CLIPS, CROPS["plain"]),
            "stopped": lambda: run("stopped", CLIPS, CROPS["plain"], settled),
            "one": lambda: run("one", 1, 1),
        },
        rounds=3,
        at_least=3,
        warm_up=1,
    )
    print(f"\nfrom files to answers, {len(paths)} videos, one thread, in turns")
    for name, views in counts.items():
        faster = timing.speedup(name, over="all")
        print(f"  {name}: {np.mean(views):.2f} views, {timing.ms(name).median / len(paths):.0f} ms a video, x {faster}")


def leads_of(rows: Sequence[Mapping[str, str]]) -> Float[Tensor, "N V"]:
    """Return the leads of some videos."""
    return torch.tensor([[float(value) for value in row["leads"].split()] for row in rows]).double()


def stopped(rows: Sequence[Mapping[str, str]], right: Bool[Tensor, "N V"], loss: float) -> Tensor:
    """Return the views that each video takes, with the lead that is chosen on the other half of the videos."""
    leads = leads_of(rows)
    half = torch.tensor([int(row["video"]) % 2 for row in rows])
    views = torch.empty(len(rows), dtype=torch.int64)
    for one in (0, 1):
        chosen = least_lead(leads[half != one], right[half != one], loss)
        views[half == one] = views_needed(leads[half == one], math.inf if chosen is None else chosen)
    return views


def told(right: Mapping[int, Tensor]) -> str:
    """Return the share told right, in the mean and by seed."""
    by_seed = [100 * float(one.double().mean()) for one in right.values()]
    return f"{np.mean(by_seed):.1f} ({', '.join(f'{one:.1f}' for one in by_seed)})"


def paired(ours: Mapping[int, Tensor], theirs: Mapping[int, Tensor]) -> str:
    """Return the difference in points with its interval over videos, seeds averaged."""
    each = np.mean([(ours[seed].double() - theirs[seed].double()).numpy() for seed in ours], axis=0)
    draws = np.random.default_rng(0).integers(len(each), size=(BOOTSTRAP, len(each)))
    low, high = np.quantile(each[draws].mean(1), (0.025, 0.975))
    return f"ours {100 * each.mean():+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


if __name__ == "__main__":
    main()
