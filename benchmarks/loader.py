"""How many training clips a second the loader gives, against PyTorchVideo's `LabeledVideoDataset` and plain torchcodec.

    python benchmarks/loader.py [FOLDER_OR_CSV] [--workers 0] [--rounds 7] [--every 1] [--out result.json]

The data is ../shared/data/ut_interaction by default. Every loader gives one random clip of each video a round: 16
frames, every second one, shorter side 128 to 160 px, a random crop of 112 px, mirrored half of the time, normalised, in
batches of 8. One decoder thread a process, one PyTorch thread; all loaders take turns in one process, medians after a
warm-up round. Without workers, time is the CPU time of the process, which other work on the machine disturbs less;
with workers it is the time on the clock.

- atfr, first epoch: nothing is known of the files, their frames are counted too (`cache_bytes=0`, as for large data).
- atfr, later epochs: the counts are known (or handed over as `num_frames`); still no picture is kept.
- atfr, kept in memory: data that fits into `cache_bytes`, from the second epoch.
- torchcodec: `VideoDecoder(path, seek_mode=...).get_frames_at(...)` in a plain dataset, which is told the true number
  of frames, takes the same frames as atfr, and cuts them with the same transforms. Needs FFmpeg's shared libraries
  (Debian: apt install ffmpeg) and pip install torchcodec; it is left out where it cannot decode the first video.
- PyTorchVideo 0.1.5: `LabeledVideoDataset` with its PyAV decoder and its own transforms. Its `transforms` import a
  module that torchvision has renamed since; the script puts the renamed module at the old name, and nothing else.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from atfr.data.dataset import ClipDataset
from atfr.data.records import VideoList, read_csv, read_folder
from atfr.video.file import VideoFile
from atfr.video.spec import ClipSpec
from atfr.video.transforms import train_clip

SPEC = ClipSpec()
BATCH = 8
SeekMode = Literal["exact", "approximate"]
FPS = 30
UT_INTERACTION = Path(__file__).resolve().parents[2] / "shared" / "data" / "ut_interaction"


class TorchcodecFile:
    """What `train_clip` asks of a video, by torchcodec."""

    def __init__(self, path: Path, num_frames: int, seek_mode: SeekMode) -> None:
        from torchcodec.decoders import VideoDecoder

        self.decoder = VideoDecoder(str(path), num_ffmpeg_threads=1, seek_mode=seek_mode)
        self.num_frames = num_frames

    def __len__(self) -> int:
        return self.num_frames

    def take(self, indices: Tensor) -> Tensor:
        return self.decoder.get_frames_at(indices.tolist()).data


class TorchcodecDataset(Dataset[tuple[Tensor, int]]):
    def __init__(self, videos: VideoList, num_frames: list[int], seek_mode: SeekMode) -> None:
        self.videos, self.num_frames, self.seek_mode, self.epoch = videos, num_frames, seek_mode, 0

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        record = self.videos.records[index]
        key = np.random.SeedSequence([0, self.epoch, index])
        generator = torch.Generator().manual_seed(int(key.generate_state(1, np.uint64)[0] >> 1))
        file = TorchcodecFile(record.path, self.num_frames[index], self.seek_mode)
        return train_clip(file, SPEC, generator), record.label  # type: ignore[arg-type]  # no VideoFile, like one


def pytorchvideo_dataset(videos: VideoList) -> IterableDataset[dict[str, Any]]:
    """Make PyTorchVideo's data set with the transforms of its tutorial for training."""
    import torchvision.transforms._functional_tensor as renamed

    sys.modules.setdefault("torchvision.transforms.functional_tensor", renamed)
    from pytorchvideo.data import LabeledVideoDataset, make_clip_sampler
    from pytorchvideo.transforms import ApplyTransformToKey, Normalize, RandomShortSideScale, UniformTemporalSubsample
    from torchvision.transforms import Compose, Lambda, RandomCrop, RandomHorizontalFlip

    transform = Compose(
        [
            UniformTemporalSubsample(SPEC.frames),
            Lambda(lambda video: video / 255),
            Normalize(SPEC.mean, SPEC.std),
            RandomShortSideScale(*SPEC.jitter),
            RandomCrop(SPEC.size),
            RandomHorizontalFlip(),
        ]
    )
    return LabeledVideoDataset(
        [(str(record.path), {"label": record.label}) for record in videos.records],
        make_clip_sampler("random", Fraction(SPEC.span, FPS)),
        transform=ApplyTransformToKey("video", transform),
        decode_audio=False,
        decoder="pyav",
    )


def loaders(videos: VideoList, workers: int) -> dict[str, Callable[[int], Iterable[Any]]]:
    """Return what gives the batches of an epoch, by name."""
    num_frames = [len(VideoFile(record.path)) for record in videos.records]
    options: dict[str, Any] = {"batch_size": BATCH, "num_workers": workers, "persistent_workers": workers > 0}

    def atfr(cache_bytes: int, known: bool) -> Callable[[int], Iterable[Any]]:
        dataset = ClipDataset(videos, SPEC, train=True, cache_bytes=cache_bytes)
        loader = DataLoader(dataset, **options)

        def epoch(number: int) -> Iterable[Any]:
            dataset.set_epoch(number)
            if not known:
                dataset._num_frames.zero_()  # in shared memory: running workers forget it too
            return loader

        return epoch

    def torchcodec(seek_mode: SeekMode) -> Callable[[int], Iterable[Any]]:
        loader = DataLoader(TorchcodecDataset(videos, num_frames, seek_mode), **options)
        return lambda _: loader

    peer = DataLoader(pytorchvideo_dataset(videos), **options)
    found = {
        "atfr, first epoch": atfr(0, known=False),
        "atfr, later epochs": atfr(0, known=True),
        "atfr, kept in memory": atfr(8 * 2**30, known=True),
        "PyTorchVideo": lambda _: peer,
    }
    try:  # the import alone tells nothing: FFmpeg's libraries are loaded later
        TorchcodecFile(videos.records[0].path, num_frames[0], "exact").take(torch.tensor([0]))
    except (ImportError, RuntimeError, OSError) as error:
        print(f"without torchcodec, which does not decode here: {str(error).strip().splitlines()[0]}")
        return found
    return found | {f"torchcodec, {mode}": torchcodec(mode) for mode in ("approximate", "exact")}


def measure(videos: VideoList, workers: int, rounds: int) -> dict[str, list[float]]:
    """Return the clips/s of each loader in each round."""
    speeds: dict[str, list[float]] = {}
    variants = loaders(videos, workers)
    clock = time.perf_counter if workers else time.process_time
    for number in range(rounds + 1):
        for name, epoch in variants.items():
            start, clips = clock(), 0
            for batch in epoch(number):
                clip = batch["video"] if isinstance(batch, dict) else batch[0]
                assert clip.shape[1:] == (3, SPEC.frames, SPEC.size, SPEC.size)
                clips += len(clip)
            if number:  # the first is the warm-up
                speeds.setdefault(name, []).append(clips / (clock() - start))
    return speeds


def agreement(videos: VideoList) -> str:
    """Say how far torchcodec gives the frames that `decode` gives: how many, and with which pixels."""
    counts, differences = 0, []
    for record in videos.records:
        try:
            file = TorchcodecFile(record.path, len(VideoFile(record.path)), "exact")
            counts += len(file.decoder) != len(file)
            chosen = torch.tensor([0, len(file) // 2])
            ours = VideoFile(record.path).take(chosen)
            differences.append((file.take(chosen).int() - ours.int()).abs().float().mean().item())
        except (ImportError, RuntimeError, OSError):
            return "torchcodec does not decode here"
    return (
        f"torchcodec counts other frames than decode in {counts} of {len(videos)} videos; the first and the middle "
        f"frame differ by {statistics.median(differences):.2f} of 255 levels (median of videos), at most by "
        f"{max(differences):.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, default=UT_INTERACTION)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--every", type=int, default=1, help="of the videos, only every so many")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # PyTorchVideo's, of deprecated parts of PyTorch
    videos = (read_csv if args.data.is_file() else read_folder)(args.data)
    everything = VideoList(sum((part.records for part in videos.values()), ())[:: args.every], videos["train"].labels)
    speeds = measure(everything, args.workers, args.rounds)
    print(
        f"{len(everything)} videos, {args.workers or 'no'} workers, {args.rounds} rounds, {os.cpu_count()} cores, "
        f"torch {torch.__version__}, Python {platform.python_version()}"
    )
    print(f"{'loader':26}{'clips/s':>8}  lowest-highest")
    for name, found in speeds.items():
        print(f"{name:26}{statistics.median(found):8.1f}  {min(found):.1f}-{max(found):.1f}")
    print(agreement(everything))
    if args.out:
        args.out.write_text(json.dumps({"workers": args.workers, "clips_per_s": speeds}, indent=2))


if __name__ == "__main__":
    main()
