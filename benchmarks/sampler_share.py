"""The share of change-guided sampling at the input in the time from a video file to its answer, on one thread.

    python benchmarks/sampler_share.py VIDEOS

VIDEOS is a folder; every twelfth file is taken. Weights are random, which changes no time.
"""

import argparse
import time
from pathlib import Path

import torch

import atfr
from atfr.data.walk import videos_below
from atfr.evaluate.predict import predict
from atfr.evaluate.task import Task
from atfr.samplers import ChangeGuidedSampling
from atfr.video.spec import ClipSpec

NETWORKS = (("x3d_s", 160, 64, 16), ("x3d_s", 160, 32, 8), ("resnet3d_18", 112, 32, 8), ("i3d_inception", 224, 64, 16))
"""Name, side of a clip, frames looked at, frames kept."""


class Timed(ChangeGuidedSampling):
    """Counts its own seconds."""

    seconds = 0.0

    def forward(self, features: torch.Tensor | atfr.PackedClips) -> atfr.PackedClips:
        start_s = time.perf_counter()
        result = super().forward(features)
        Timed.seconds += time.perf_counter() - start_s
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("videos", type=Path)
    files = videos_below(parser.parse_args().videos)[::12]
    torch.set_num_threads(1)
    for name, side, frames, kept in NETWORKS:
        model = atfr.create_model(name, num_classes=6).eval()
        atfr.adapt_(model, after="input", sampler="change", num_bins=kept)
        for module in model.modules():
            if isinstance(module, ChangeGuidedSampling):
                module.__class__ = Timed
        resize = side * 8 // 7
        task = Task(tuple("abcdef"), ClipSpec(frames, "video", side, resize=resize, jitter=(resize, resize)))
        list(predict(model, files[:1], task))
        Timed.seconds, start_s = 0.0, time.perf_counter()
        count = len(list(predict(model, files, task)))
        share = Timed.seconds / (time.perf_counter() - start_s)
        print(f"{name}, {kept} of {frames} frames of {side} px, {count} videos: {100 * share:.1f} %")


if __name__ == "__main__":
    main()
