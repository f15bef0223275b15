"""explain: one video in, everything that can be said of its centred clip out."""

import os
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from atfr.errors import InputError
from atfr.evaluate.forward import Forward, evaluating
from atfr.evaluate.predict import Loaded, Prediction, as_prediction
from atfr.evaluate.task import Task, check_classes
from atfr.measure import Timing, conditions
from atfr.measure.eager import forward_in_turns, without_sgs
from atfr.models import VideoModel
from atfr.video.spec import ClipSpec
from atfr.video.transforms import CentredClip, centred_clip
from atfr.viz.activation import Activation, class_activation
from atfr.viz.figures import frame_bins
from atfr.viz.watch import Coordinate, Merging, Watched, merging, watch

ROUNDS, TIMING_S = {"rounds": 15, "at_least": 3}, 10.0
"""How often the times are taken; beyond the least only within so many seconds: nobody waits long for a page."""


@dataclass(frozen=True)
class Explanation:
    """What a network made of the centred clip of a video.

    Attributes:
        model: the network's name.
        prediction: its answer, and what that cost.
        frames: the frames it saw, as they were cropped, and `numbers`, their numbers in the video of `video_frames`.
        watched: its SGS layers at work, on this one clip; no sites in a static network.
        activation: what each place of each frame contributes to the class that is explained.
        timing: its time, "adaptive", and that of the same network without SGS, "static"; None for a static network.
        conditions: what the times depend on, as plain JSON values.
    """

    model: str
    prediction: Prediction
    frames: UInt8[Tensor, "T H W 3"]
    numbers: tuple[int, ...]
    video_frames: int
    watched: Watched
    activation: Activation
    timing: Timing | None
    conditions: dict[str, Any]

    @property
    def label(self) -> str:
        """The class that the activation is of."""
        return self.prediction.labels[self.activation.class_index]

    @cached_property
    def merged(self) -> dict[str, Merging]:
        """What each layer made of the clip; nothing in a static network."""
        return {name: merging(site, 0) for name, site in self.watched.trace.sites.items()}

    @property
    def speedup(self) -> float | None:
        """The static network's median time over the adaptive one's, as they are shown; None for a static network."""
        timing = self.timing
        return timing.ms("static").median / timing.ms("adaptive").median if timing else None

    def to_dict(self) -> dict[str, Any]:
        """Turn the explanation into plain JSON values; frames, maps and bins count from 0."""
        contributions = {name: maps.sum((1, 2)).tolist() for name, maps in self.activation.maps.items()}
        return {
            "model": self.model,
            "prediction": self.prediction.to_dict(),
            "clip": {"frames": list(self.numbers), "video_frames": self.video_frames},
            "sites": {name: self._site(name, one) for name, one in self.merged.items()},
            "activation": {
                "label": self.label,
                "logit": self.activation.logit,
                "by_frame": self.activation.by_frame.tolist(),
                "by_pathway_and_frame": contributions,
            },
            "timing": self.timing and {**self.timing.to_dict(), "speedup": self.speedup, "conditions": self.conditions},
        }

    def _site(self, name: str, one: Merging) -> dict[str, Any]:
        return {
            "maps": len(one.slots),
            "active_bins": one.active_bins,
            "bins": one.bins,
            "assignment": one.assignment.tolist(),
            "output_maps": one.slots.tolist(),
            "weights": one.weights.tolist(),
            "output_map_of_frame": frame_bins(self.watched, len(self.frames), name),
            "coordinates": [coordinate_dict(c) for c in self.watched.sites[name].coordinates[0]],
        }


def coordinate_dict(coordinate: Coordinate) -> dict[str, Any]:
    """Turn a coordinate into plain JSON values."""
    blocks = [{"start": b.start, "stop": b.stop, "edges": b.edges.tolist()} for b in coordinate.blocks]
    return {"name": coordinate.name, "values": coordinate.values.tolist(), "blocks": blocks}


def explain(
    model: VideoModel,
    video: str | os.PathLike[str] | CentredClip,
    task: Task,
    *,
    label: str | None = None,
    timing_s: float = TIMING_S,
) -> Explanation:
    """Explain what a network makes of a video: its centred clip, in the centre crop, as `predict` takes by default.

    Args:
        model: a network whose classes are the task's; it is not changed.
        video: a video file, or what `centred_clip` has read of one.
        task: the labels, and the clips the network reads.
        label: the class whose activation is mapped; by default the most probable.
        timing_s: after so many seconds of timing no further round begins, if there were enough.

    Raises:
        VideoError: the file does not decode.
        InputError: there is no such label, or what is compared by SGS is not finite for this clip.
        CheckpointError: the network has another number of classes than the task.
    """
    check_classes(model, task)
    if label is not None and label not in task.labels:
        raise InputError(f"there is no class {label!r}; the network's are {', '.join(task.labels)}")
    clip = video if isinstance(video, CentredClip) else centred_clip(video, task.spec)
    forward = Forward(model, task.clip_shape)
    with evaluating(model), torch.inference_mode(), watch(model) as watched:
        passed = forward(clip.clips)
    check_finite(watched)
    loaded = Loaded(clip.path, None, warning=clip.warning)
    prediction = as_prediction(loaded, passed, task.labels, forward.cost.static / 1e9)
    timing = None
    if watched.sites:
        both = {"static": without_sgs(model), "adaptive": model}
        timing = forward_in_turns(both, [clip.clips], budget_s=timing_s, **ROUNDS)
        prediction = replace(prediction, ms_per_clip=timing.ms("adaptive").median)  # measured with more care
    class_index = int(passed.scores[0].argmax()) if label is None else task.labels.index(label)
    activation = class_activation(model, clip.clips.to(forward.device), class_index)
    name, frames, found = model.config["model"], pictures(clip.clips[0], task.spec), conditions(forward.device)
    return Explanation(name, prediction, frames, clip.numbers, clip.video_frames, watched, activation, timing, found)


def check_finite(watched: Watched) -> None:
    """Raise an InputError where a layer could not compare the maps of the clip."""
    for name, site in watched.trace.sites.items():
        if not site.weights.isfinite().all():
            raise InputError(
                f"the similarity at {name} is not finite for this clip, so that nothing can be said of its bins; "
                "the checkpoint's weights are damaged, or its training diverged"
            )


def pictures(clip: Float[Tensor, "3 T H W"], spec: ClipSpec) -> UInt8[Tensor, "T H W 3"]:
    """Undo the normalisation of a clip."""
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (spec.mean, spec.std))
    return (255 * (clip.cpu() * std + mean)).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 3, 0).contiguous()
