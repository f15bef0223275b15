"""With what a network is trained: values only, without torch, so that the command line reads them in no time."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

from atfr.errors import InputError
from atfr.video.spec import ClipSpec

NormMode = Literal["train", "fixed"]


@dataclass(frozen=True)
class Tuning:
    """How a network with weights from elsewhere is trained further; as it stands, everything is trained alike.

    Args:
        freeze: the last stage that keeps its weights, with all stages before it, as "res3"; an SGS layer among them is
            still trained.
        earlier_rate: the learning rate of all weights but the classifier's and SGS's, as a share of theirs.
        norm: "fixed" keeps batch norm at the statistics it came with, which small batches would spoil; its scales and
            shifts are trained.
        balanced: draw each class equally often.
        mixup: alpha of mixup (Zhang et al. 2018): clips and labels of a batch are mixed in pairs; 0 mixes none.
        patience: stop when the validation loss has not fallen for so many epochs, and keep the weights of the best.
    """

    freeze: str | None = None
    earlier_rate: float = 1.0
    norm: NormMode = "train"
    balanced: bool = False
    mixup: float = 0.0
    patience: int | None = None

    def __post_init__(self) -> None:
        if self.norm not in get_args(NormMode):
            raise InputError(f"Tuning.norm must be one of {', '.join(get_args(NormMode))}, got {self.norm!r}")
        if not 0 < self.earlier_rate <= 1:
            raise InputError(f"Tuning.earlier_rate must be above 0 and at most 1, got {self.earlier_rate}")
        if self.mixup < 0:
            raise InputError(f"Tuning.mixup must be 0 or more, got {self.mixup}")
        if self.patience is not None and self.patience < 1:
            raise InputError(f"Tuning.patience must be 1 epoch or more, got {self.patience}")


AS_IT_STANDS = Tuning()


FEW_VIDEOS = 2000
"""Below so many training videos, a network that learned from images beats one that starts from random weights."""


@dataclass(frozen=True)
class Recipe:
    """How a network is made and trained.

    Attributes:
        model: the network's name.
        pretrained: whether it starts from the weights that come with it.
        kernel: of SGS. Sums leave the scale that weights from elsewhere expect.
        num_bins: of SGS; None: as many as maps come in. Magnitudes of one clip lie close together, so most bins stay
            empty, and more of them keep more maps.
        frames_kept: of those that the clip has, where a sampler stands at the input.
        base_frames: of the clips that a base learns from, before it is fine-tuned.
        tune_share: epochs of the fine-tuning, as a share of the base's.
        order: of the merged maps. Weights that convolve in time know maps in the order of time.
        clip: what the network reads; its normalisation is the weights' own.
        clips_seen: training clips in all epochs together.
    """

    model: str
    pretrained: bool
    kernel: Literal["linear", "linear_mean", "keep"]
    num_bins: int | None
    frames_kept: int
    base_frames: int
    tune_share: float
    order: Literal["magnitude", "time"]
    clip: ClipSpec
    clips_seen: int
    batch_size: int
    optimizer: Literal["sgd", "adamw"]
    learning_rate: float
    tuning: Tuning = AS_IT_STANDS

    def epochs(self, num_videos: int) -> int:
        """Return the passes over so many videos that show about `clips_seen` clips."""
        return max(1, round(self.clips_seen / num_videos))


FROM_IMAGES = Recipe(
    model="i3d_efficientnet_lite0",
    pretrained=True,
    kernel="linear_mean",
    num_bins=32,
    frames_kept=4,
    base_frames=8,
    tune_share=0.6,
    order="time",
    clip=ClipSpec(frames=8, stride=6, size=112, resize=128, jitter=(128, 144)),
    clips_seen=1000,
    batch_size=8,
    optimizer="adamw",
    learning_rate=1e-3,
    tuning=Tuning(freeze="res3", balanced=True),
)
"""For few videos of one's own, in minutes on a CPU; measured in docs/results.md ("UT-Interaction: SGS behind res2")."""

WHOLE_VIDEOS = replace(FROM_IMAGES, clip=replace(FROM_IMAGES.clip, frames=32, stride="video"), frames_kept=8)
"""The same on clips that span a video, of which a sampler at the input keeps a quarter: as dear, whatever the video."""

FROM_KINETICS = replace(
    FROM_IMAGES,
    model="i3d_inception",
    clip=ClipSpec(frames=32, stride=2, size=160, resize=182, jitter=(182, 228)),
    clips_seen=500,
    batch_size=4,
    tuning=Tuning(freeze="res4", balanced=True),
)
"""The same from weights that know actions: larger clips, of which the network needs 160 px, and only res5 learns."""
