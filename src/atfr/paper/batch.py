"""The largest batch of a training on a GPU, as in Table A.2."""

import itertools
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from atfr.comparison.making import some_clips
from atfr.data.records import VideoList, VideoRecord
from atfr.evaluate.result import TestResult
from atfr.evaluate.task import load_checkpoint
from atfr.measure.memory import largest_batch

CLIPS = 32
"""Videos that the clips of a batch come from."""


def training_batch(checkpoint: Path, test: TestResult, device: torch.device) -> int | None:
    """Return how many clips of the tested videos a training step takes on a GPU, under bfloat16; None elsewhere."""
    return largest_batch(training_step(checkpoint, test, device)) if device.type == "cuda" else None


def training_step(checkpoint: Path, test: TestResult, device: torch.device) -> Callable[[int], None]:
    """Return what trains a network for a step on so many clips of the tested videos; its weights stay as they are."""
    model, task = load_checkpoint(checkpoint)
    model.to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.0, momentum=0.9)
    records = tuple(VideoRecord(Path(video.path), task.labels.index(video.label)) for video in test.videos)
    clips = torch.cat(list(some_clips(VideoList(records, task.labels), task.spec, CLIPS)))

    def step(count: int) -> None:
        chosen = list(itertools.islice(itertools.cycle(range(len(clips))), count))
        batch = clips.to(device)[chosen]
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16):
            scores = model(batch)
        cross_entropy(scores.float(), torch.zeros(count, dtype=torch.long, device=device)).backward()
        optimizer.step()

    return step
