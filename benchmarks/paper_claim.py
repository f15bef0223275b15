"""The paper's own claim, from random weights, on generated videos: docs/studies/paper_claim/PLAN.md.

    python benchmarks/paper_claim.py --out docs/studies/paper_claim                # 20,000 videos: a GPU, one call
    python benchmarks/paper_claim.py --out docs/studies/paper_claim --share 0.1    # a tenth of them: two CPU cores
    python benchmarks/paper_claim.py --out docs/studies/paper_claim --report       # of the rows that are there
    python benchmarks/paper_claim.py --out /tmp/quick --quick                      # does it run?

OUT/runs_SHARE.csv gets a row for each network and seed as it is done; those that are there are passed over, so the same
command goes on. Videos are rendered as they are needed, by `--workers` processes; `--kept FOLDER` keeps their pixels
there (0.4 MB each), which all networks then read.
"""

import argparse
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from deciding_report import interval  # beside this file
from jaxtyping import Float, UInt8
from rows import append, find, versions
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

import atfr
from atfr.adapt.trace import site_names
from atfr.checks import device_of
from atfr.data.sample_footage import draw_disturbed
from atfr.data.sample_motion import Motion, draw_motion, draw_video
from atfr.data.samples import SAMPLE_CLASSES
from atfr.files import whole
from atfr.models import VideoModel
from atfr.train.module import learning_rate_factor
from atfr.train.recipe import AS_IT_STANDS
from atfr.train.tuning import parameter_groups

VIDEO_FRAMES, SIZE = 128, 32
TRAIN_VIDEOS, TEST_VIDEOS = 20_000, 1_500
FRAMES, STRIDE = 32, 2
CONDITIONS = ((32, 2), (64, 1), (32, 1), (64, 2))
"""Frames and strides of Table 4; all networks are trained with the first."""
EPOCHS, BATCH, RATE, WARMUP, DECAY = 12, 32, 3e-3, 1.0, 1e-4
SEEDS = (0, 1, 2)
MEAN, STD = 0.45, 0.225
NETWORKS: Mapping[str, Mapping[str, Any] | None] = {
    "static": None,
    "sgs": {"kernel": "linear"},
    "fewer_frames": {"after": "input", "sampler": "uniform"},
    "sgs_padding": {"kernel": "linear", "edge_maps": "found"},
    "sgs_scale": {"kernel": "linear_mean"},
    "sgs_order": {"kernel": "linear", "order": "time"},
    "sgs_mended": {"kernel": "linear_mean", "order": "time", "edge_maps": "found"},
}
COLUMNS = "network seed videos epochs frames_kept train_s top1 gflops active_bins".split()
COLUMNS += [f"{what}_{frames}x{stride}" for frames, stride in CONDITIONS for what in ("top1", "gflops")]
COLUMNS += "curve loss_curve right versions".split()


@dataclass(frozen=True)
class Size:
    """How much is trained: the videos of an epoch, those that are tested, and the epochs."""

    train: int
    test: int
    epochs: int


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="where the rows are")
    parser.add_argument("--share", type=float, default=1.0, help="of the training videos")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--workers", type=int, default=2, help="processes that render")
    parser.add_argument("--kept", type=Path, help="where rendered videos are kept")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true", help="a handful of videos, one epoch")
    parser.add_argument("--report", action="store_true", help="print what is there, train nothing")
    options = parser.parse_args(arguments)
    path = options.out / ("runs_quick.csv" if options.quick else f"runs_{options.share:g}.csv")
    if not options.report:
        options.out.mkdir(parents=True, exist_ok=True)
        size = Size(12, 6, 1) if options.quick else Size(round(options.share * TRAIN_VIDEOS), TEST_VIDEOS, EPOCHS)
        for seed in options.seeds:
            for name in options.networks:
                if not find(path, {"network": name, "seed": seed}):
                    append(path, COLUMNS, run(name, seed, size, path, options))
    report(path)


class Videos(Dataset[tuple[Tensor, int]]):
    """Clips of videos that are rendered as they are asked for; the same number gives the same video.

    Args:
        split: "train" or "test".
        frames, stride: of a clip; the frames that it spans hold the motion, as far as they can.
        kept: a folder for the pixels of what has been rendered.
    """

    def __init__(self, split: str, count: int, frames: int, stride: int, kept: Path | None) -> None:
        self.key, self.count, self.frames, self.stride = int(split == "test"), count, frames, stride
        self.kept = None if kept is None else kept / split
        self.epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # for those that render

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "3 T H W"], int]:
        label = index % len(SAMPLE_CLASSES)
        rng = np.random.default_rng([self.key, index])
        motion = draw_motion(SAMPLE_CLASSES[label], VIDEO_FRAMES, rng)
        video = self.pixels(index, motion, rng)
        start = start_of(
            motion, self.frames * self.stride, np.random.default_rng([2, self.key, index, int(self.epoch)])
        )
        taken = video[start : start + self.frames * self.stride : self.stride]
        return torch.from_numpy(taken.copy()).permute(3, 0, 1, 2).float().div(255).sub(MEAN).div(STD), label

    def pixels(self, index: int, motion: Motion, rng: np.random.Generator) -> UInt8[np.ndarray, "T H W 3"]:
        """Render a video, or read it where it is kept."""
        path = self.kept and self.kept / f"{index}.npy"
        if path and path.is_file():
            return np.load(path)
        disturbed = draw_disturbed("mixed", VIDEO_FRAMES, motion.start_frame, motion.stop_frame, rng)
        video = draw_video(motion, disturbed, SIZE, rng)
        if path:
            with whole(path) as scratch:
                np.save(scratch, video)
        return video


def start_of(motion: Motion, span: int, rng: np.random.Generator) -> int:
    """Draw where a clip of so many frames begins: any place at which it holds the motion, or lies within it."""
    ends = sorted((motion.stop_frame + 1 - span, motion.start_frame))
    first, last = (min(max(end, 0), VIDEO_FRAMES - span) for end in ends)
    return int(rng.integers(first, last + 1))


def network(name: str, seed: int, frames_kept: int) -> VideoModel:
    """Return a network with random weights, and its sampler."""
    torch.manual_seed(seed)
    model = atfr.create_model("resnet3d_18", num_classes=len(SAMPLE_CLASSES))
    options = NETWORKS[name]
    if options is not None:
        number: dict[str, Any] = {"active_bins": frames_kept} if name == "fewer_frames" else {}
        atfr.adapt_(model, **options, **number)
    return model


def frames_for(gflops: float) -> int:
    """Return the number of input frames with which the static network costs nearest to so much."""
    model = network("static", 0, 0)
    costs = {frames: atfr.clip_cost(model, (3, frames, SIZE, SIZE)).static / 1e9 for frames in range(1, FRAMES)}
    return min(costs, key=lambda frames: abs(costs[frames] - gflops))


def run(name: str, seed: int, size: Size, path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Train a network and test it in all conditions; return its row."""
    frames_kept = 0
    if name == "fewer_frames":
        reference = find(path, {"network": "sgs", "seed": seed})
        if not reference:
            raise SystemExit(f"fewer_frames of seed {seed} costs as much as sgs: run that first")
        frames_kept = frames_for(float(reference[0]["gflops"]))
    device, start_s = device_of("--device", options.device), time.perf_counter()
    model = network(name, seed, frames_kept).to(device)
    how = {"num_workers": options.workers, "persistent_workers": options.workers > 0}
    test = DataLoader(Videos("test", size.test, FRAMES, STRIDE, options.kept), BATCH, **how)
    looked_at = DataLoader(Videos("test", max(1, size.test // 5), FRAMES, STRIDE, options.kept), BATCH, **how)
    losses, accuracies = [], []
    videos = Videos("train", size.train, FRAMES, STRIDE, options.kept)
    for loss in train_(model, videos, size, seed, device, how):
        losses.append(loss)
        accuracies.append(statistics.fmean(tested(model, looked_at, device)[0]))
        print(f"{name} {seed}: epoch {len(losses)}, loss {loss:.3f}, top-1 {100 * accuracies[-1]:.1f}", flush=True)
    row: dict[str, Any] = {
        "network": name, "seed": seed, "videos": size.train, "epochs": size.epochs,
        "frames_kept": frames_kept or "", "train_s": f"{time.perf_counter() - start_s:.0f}",
        "curve": " ".join(f"{value:.4f}" for value in accuracies),
        "loss_curve": " ".join(f"{value:.4f}" for value in losses),
        "versions": f"{versions()} {device.type}",
    }  # fmt: skip
    for frames, stride in CONDITIONS:
        for layer in site_names(model).values():
            if name == "fewer_frames":
                layer.active_bins = frames_kept * frames // FRAMES  # type: ignore[assignment]
        loader = test if (frames, stride) == (FRAMES, STRIDE) else DataLoader(
            Videos("test", size.test, frames, stride, options.kept), BATCH, **how
        )  # fmt: skip
        right, kept = tested(model, loader, device)
        cost = atfr.clip_cost(model, (3, frames, SIZE, SIZE))
        gflops = statistics.fmean((cost.adaptive[one] if cost.sites else cost.static) / 1e9 for one in kept)
        row |= {f"top1_{frames}x{stride}": f"{np.mean(right):.4f}", f"gflops_{frames}x{stride}": f"{gflops:.5f}"}
        if loader is test:
            row |= {"top1": f"{np.mean(right):.4f}", "gflops": f"{gflops:.5f}"}
            row |= {"active_bins": f"{np.mean(kept):.3f}", "right": "".join(str(int(one)) for one in right)}
    return row


def train_(
    model: VideoModel, videos: Videos, size: Size, seed: int, device: torch.device, how: Mapping[str, Any]
) -> Any:
    """Train a network in place; yield the mean loss of each epoch."""
    order = torch.Generator().manual_seed(seed)
    loader = DataLoader(videos, BATCH, shuffle=True, generator=order, drop_last=size.train >= BATCH, **how)
    optimizer = torch.optim.AdamW(parameter_groups(model, AS_IT_STANDS, RATE, DECAY), RATE)
    total = size.epochs * len(loader)
    warmup = min(round(WARMUP * len(loader)), total - 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, total, warmup))
    torch.manual_seed(seed + 100)
    for epoch in range(size.epochs):
        videos.epoch.fill_(epoch)
        losses = []
        model.train()
        for clips, labels in loader:
            loss = cross_entropy(model(clips.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
        yield float(torch.stack(losses).mean())


@torch.inference_mode()
def tested(model: VideoModel, loader: DataLoader, device: torch.device) -> tuple[list[bool], list[int]]:
    """Return whether each video is told right, and the frames or maps that it kept."""
    model.eval()
    right: list[bool] = []
    kept: list[int] = []
    for clips, labels in loader:
        with atfr.record(model) as trace:
            right += (model(clips.to(device)).argmax(1).cpu() == labels).tolist()
        kept += trace.kept_maps or [clips.shape[2]] * len(clips)
    return right, kept


def report(path: Path) -> None:
    """Print each network over the seeds that are there, beside static and beside fewer frames."""
    rows = {
        name: {seed: row for seed in SEEDS for row in find(path, {"network": name, "seed": seed})} for name in NETWORKS
    }

    def over(name: str, other: str) -> str:
        seeds = rows[name].keys() & rows[other].keys()
        if name == other or not seeds:
            return ""
        each = [[np.array(list(map(int, rows[one][seed]["right"]))) for seed in sorted(seeds)] for one in (name, other)]
        gaps = 100 * (np.mean(each[0], 0) - np.mean(each[1], 0))
        low, high = interval(gaps)
        return f"{gaps.mean():+.1f} ({low:+.1f} to {high:+.1f})"

    print("| network | seeds | top-1 (%) | GFLOPs | A | over static | over fewer_frames | top-1 by epoch |")
    print("|---|---|---|---|---|---|---|---|")
    for name, found in rows.items():
        if found:
            mean = {key: statistics.fmean(float(row[key]) for row in found.values()) for key in ("top1", "gflops")}
            kept = statistics.fmean(float(row["active_bins"]) for row in found.values())
            curves = "; ".join(" ".join(f"{100 * float(x):.0f}" for x in r["curve"].split()) for r in found.values())
            cells = [name, ", ".join(map(str, found)), f"{100 * mean['top1']:.1f}", f"{mean['gflops']:.3f}"]
            print(
                "|", " | ".join([*cells, f"{kept:.1f}", over(name, "static"), over(name, "fewer_frames"), curves]), "|"
            )
    missing = [f"{name} {seed}" for name, found in rows.items() for seed in SEEDS if seed not in found]
    print("every row is there" if not missing else f"missing: {', '.join(missing)}")


if __name__ == "__main__":
    main()
