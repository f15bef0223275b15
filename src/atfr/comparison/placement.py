"""Where a sampler at the input keeps frames, held against where the motion of a generated video is."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from atfr.adapt.trace import INPUT, record, site_names
from atfr.data.dataset import ClipDataset
from atfr.data.records import VideoList
from atfr.data.samples import manifest_of
from atfr.evaluate.analysis import rank_correlation
from atfr.video.spec import ClipSpec
from atfr.video.transforms import centred_frames


@dataclass(frozen=True)
class Placement:
    """Where frames were kept in N videos."""

    inside: float  # the share of the kept frames that lie between the start and the stop of the motion
    # rank correlation, over videos, of the mean time of the kept frames with the middle of the motion
    correlation: float


def placements(networks: Mapping[str, nn.Module], videos: VideoList, spec: ClipSpec) -> dict[str, Placement]:
    """Return where each network keeps frames of centred clips; nothing where the videos' truth is not known."""
    truth = manifest_of(videos)
    if not truth:
        return {}
    dataset = ClipDataset(videos, spec, train=False)
    clips = torch.cat([dataset[index][0] for index in range(len(dataset))])
    numbers = torch.stack([centred_frames(clip.frames, spec) for clip in truth]).float()
    start, stop = (
        torch.tensor([getattr(clip, name) for clip in truth])[:, None] for name in ("start_frame", "stop_frame")
    )
    moving = (numbers >= start) & (numbers <= stop)
    middle = (start + stop).float()[:, 0] / 2
    found = {}
    for name, network in networks.items():
        with torch.inference_mode(), record(network) as trace:
            site_names(network)[INPUT](clips)  # nothing behind it runs
        kept = trace.sites[INPUT].assignment >= 0
        mean_time = (numbers * kept).sum(1) / kept.sum(1)
        inside = float((kept & moving).sum() / kept.sum())
        found[name] = Placement(inside, rank_correlation(mean_time.tolist(), middle.tolist()))
    return found
