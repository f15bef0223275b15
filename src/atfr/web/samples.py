"""Videos to try the page with: generated ones, or a folder of one's own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageOps

from atfr.data.samples import SAMPLE_CLASSES, read_manifest, render_samples
from atfr.data.walk import videos_below
from atfr.errors import DataError
from atfr.video.file import VideoFile

SEED = 2026
"""Not the seed of `atfr quickstart`: its networks have seen none of these videos."""
MOST = 12
POSTER_PX = 160


@dataclass(frozen=True)
class Sample:
    """A video to try: its name, its file and a picture of it."""

    name: str
    path: Path
    poster: Image.Image


def generated(folder: Path) -> list[Sample]:
    """Render one video of each class of the sample set into a folder."""
    render_samples(folder, clips_per_class_train=1, clips_per_class_test=1, seed=SEED)
    clips = [clip for clip in read_manifest(folder) if clip.split == "test"]
    return [sample(clip.name, folder / clip.path) for clip in clips]


def of_folder(folder: Path) -> list[Sample]:
    """Return some of the videos in a folder and below, spread over all of them by name.

    Raises:
        DataError: there is no such folder, or no video in it.
        VideoError: one of them does not decode.
    """
    if not folder.is_dir():
        raise DataError(f"--examples is a folder of videos, and '{folder}' is none")
    videos = videos_below(folder)
    chosen = videos[:: -(-len(videos) // MOST)]
    return [sample(str(file.relative_to(folder).with_suffix("")), file) for file in chosen]


def sample(name: str, path: Path) -> Sample:
    """Return a video with the picture in its middle, cut square."""
    video = VideoFile(path, shorter_side=POSTER_PX)
    image = Image.fromarray(video.take(torch.tensor([len(video) // 2]))[0].permute(1, 2, 0).numpy())
    return Sample(name, path, ImageOps.fit(image, (POSTER_PX, POSTER_PX)))


def are_of(labels: Sequence[str]) -> bool:
    """Whether the generated samples show what a network with these classes tells apart."""
    return set(SAMPLE_CLASSES) <= set(labels)
