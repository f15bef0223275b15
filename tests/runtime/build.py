"""Small adapted networks whose clips keep different numbers of maps, and their bundles."""

import functools

import torch
from torch import Tensor, nn

import atfr
from atfr.evaluate.task import Task
from atfr.models import VideoModel
from atfr.video.spec import ClipSpec

FRAMES, SIDE, CLASSES = 6, 32, 5


def task(frames: int = FRAMES) -> Task:
    spec = ClipSpec(frames=frames, stride=2, size=SIDE, resize=SIDE, jitter=(SIDE, SIDE))
    return Task(tuple(f"class {number}" for number in range(CLASSES)), spec)


@functools.cache
def network(name: str = "resnet3d_18", after: str | None = "res2", **options: object) -> VideoModel:
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
