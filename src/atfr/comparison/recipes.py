"""What a quickstart, and a comparison, train with: sized to minutes on two CPU cores."""

from dataclasses import replace

from atfr.models.efficientnet import weights_installed
from atfr.train.recipe import FROM_IMAGES, Recipe
from atfr.video.spec import ClipSpec

SAMPLES = Recipe(
    model="resnet3d_18",
    pretrained=False,
    kernel="linear_mean",
    num_bins=None,
    frames_kept=6,
    base_frames=8,
    tune_share=0.2,
    order="time",
    clip=ClipSpec(frames=32, stride=1, size=32, resize=32, jitter=(32, 36), flip=False),  # left and right differ
    clips_seen=20 * 480,
    batch_size=16,
    optimizer="adamw",
    learning_rate=0.003,
)
"""Measured on the generated videos; the base learns from trimmed ones."""

FROM_NOTHING = replace(
    SAMPLES,
    base_frames=16,
    tune_share=0.6,
    clip=ClipSpec(frames=16, stride=4, size=56, resize=64, jitter=(64, 72)),  # two seconds of 30 frames/s
    clips_seen=1600,
)
"""The same for one's own videos, where there are no weights to go on from."""


def recipe_for(generated: bool) -> Recipe:
    """Return the recipe for the generated videos, or for one's own."""
    if generated:
        return SAMPLES
    return FROM_IMAGES if weights_installed() else FROM_NOTHING


def whole_videos() -> Recipe:
    """Return the recipe of a comparison on one's own videos: clips of 32 frames that span all of a video."""
    recipe = recipe_for(generated=False)
    return replace(recipe, clip=replace(recipe.clip, frames=32, stride="video"), base_frames=8, tune_share=0.4)


def as_it_is() -> Recipe:
    """Return how samplers are set where nothing is trained: SGS keeps maps, since it has not learned what to merge."""
    return replace(whole_videos(), kernel="keep")
