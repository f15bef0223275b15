"""Small adapted networks whose clips keep different numbers of maps, and their bundles."""

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import atfr
from atfr.evaluate.task import Task
from atfr.models import VideoModel, zoo
from atfr.video.spec import ClipSpec

FRAMES, SIDE, CLASSES = 6, 32, 5


class Tiny(VideoModel):
    """A network of three convolutions: what is exported takes its time for each layer."""

    variants: ClassVar[Mapping[str, Any]] = {"tiny": None}
    stage_paths: ClassVar[Mapping[str, str]] = {f"res{i + 2}": f"blocks.{i}" for i in range(3)}

    def __init__(self, name: str = "tiny", num_classes: int = CLASSES) -> None:
        super().__init__(name, num_classes, 0.0)
        del self.config["arguments"]["dropout"]
        self.clip_shape = (3, FRAMES, SIDE, SIDE)
        stages = [stage(3, 16, 3, 2), stage(16, 8, 3, 1), stage(8, 16, 3, 2)]
        self.blocks = nn.Sequential(*stages, nn.AdaptiveAvgPool3d(1), nn.Flatten(1), nn.Linear(16, num_classes))


def stage(channels: int, out_channels: int, kernel: int, stride: int) -> nn.Sequential:
    conv = nn.Conv3d(channels, out_channels, (kernel, 3, 3), (1, stride, stride), (kernel // 2, 1, 1), bias=False)
    return nn.Sequential(conv, nn.BatchNorm3d(out_channels), nn.ReLU())


@contextmanager
def known() -> Iterator[None]:
    """Within it atfr knows that network by its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo, "MODELS", {**zoo.MODELS, "tiny": Tiny})
        yield


def task(frames: int = FRAMES) -> Task:
    spec = ClipSpec(frames=frames, stride=2, size=SIDE, resize=SIDE, jitter=(SIDE, SIDE))
    return Task(tuple(f"class {number}" for number in range(CLASSES)), spec)


@functools.cache
def network(name: str = "tiny", after: str | None = "res2", **options: object) -> VideoModel:
    """A network in evaluation mode whose parts all say something, and whose similarity network tells maps apart."""
    torch.manual_seed(1)
    model = atfr.create_model(name, num_classes=CLASSES)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.running_mean, std=0.1)
    if after is not None:
        atfr.adapt_(model, after, **options)
        for path, parameter in model.named_parameters():
            if "similarity" in path:
                nn.init.normal_(parameter, std=0.3)
    return model.eval()


def clips(count: int = 6, frames: int = FRAMES) -> Tensor:
    """Clips that change at one frame more each: from a still one to one that changes all the time."""
    clips = torch.randn(count, 3, frames, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    clips *= torch.linspace(0.2, 3, frames).view(-1, 1, 1)
    for number, clip in enumerate(clips):
        clip[:, number:] = clip[:, number : number + 1]
    return clips
