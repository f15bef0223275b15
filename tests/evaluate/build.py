"""Small labelled videos whose class is their brightness, and a network that reads it: results can be told by hand."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import atfr
from atfr.data.records import VideoList, VideoRecord
from atfr.models import VideoModel
from atfr.video.spec import ClipSpec
from tests.video.video_files import write_video

SPEC = ClipSpec(frames=4, stride=2, size=32, resize=32, jitter=(32, 36), flip=False)
LEVELS = (20, 60, 100, 140, 180, 220)
NAMES = ("a", "b", "c", "d", "e", "f")


def write_level(path: Path, label: int, frames: int = 12, seed: int = 0) -> Path:
    """A noisy video of 40 x 48 px that flickers from frame to frame around the brightness of its class."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    flicker = rng.integers(-15, 16, (frames, 1, 1, 1)) + rng.integers(-18, 19, (frames, 10, 12, 3))
    return write_video(path, (LEVELS[label] + flicker.repeat(4, 1).repeat(4, 2)).clip(0, 255).astype(np.uint8))


def write_folder(root: Path, classes: int = 2, train: int = 4, test: int = 2) -> Path:
    """A folder of classes with train and test splits, of middling brightness: there, flicker changes features most."""
    for split, count in (("train", train), ("test", test)):
        for label in range(classes):
            for number in range(count):
                seed = 100 * label + number + 50 * (split == "test")
                write_level(root / split / NAMES[label] / f"{number}.mp4", label + 2, seed=seed)
    return root


def video_list(root: Path, labels: list[int], told: list[int] | None = None) -> VideoList:
    """Videos of the given brightness classes, told to be of other classes if wished."""
    paths = [write_level(root / f"{i}.mp4", label, seed=i) for i, label in enumerate(labels)]
    return VideoList(tuple(VideoRecord(p, k) for p, k in zip(paths, told or labels, strict=True)), NAMES)


class Brightness(nn.Module):
    """The class whose brightness is nearest: right by construction."""

    def __init__(self) -> None:
        super().__init__()
        self.config = {"model": "brightness", "arguments": {"num_classes": len(LEVELS)}}
        self.levels = nn.Parameter(torch.tensor(LEVELS) / 255)

    def forward(self, clips: Tensor) -> Tensor:
        brightness = clips.mean((1, 2, 3, 4)) * SPEC.std[0] + SPEC.mean[0]
        return -100 * (brightness[:, None] - self.levels) ** 2


def network(classes: int = 6, adapted: bool = True) -> VideoModel:
    """A 3DResNet-18 in evaluation mode: residual branches not zero, magnitudes apart enough for several bins."""
    torch.manual_seed(0)
    model = atfr.create_model("resnet3d_18", num_classes=classes)
    if adapted:
        atfr.adapt_(model, after="res2")
        for convolution in model.res2.sgs.similarity.children():
            nn.init.zeros_(convolution.bias)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1)
    return model.eval()
