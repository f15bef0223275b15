"""What a quickstart trains with: measured on the sample set, and sized to a few minutes on two CPU cores."""

import math

from atfr.quickstart.compare import Recipe
from atfr.video.spec import ClipSpec

SAMPLE_CLIP = ClipSpec(frames=16, stride=2, size=32, resize=32, jitter=(32, 36), flip=False)  # left and right differ
SAMPLE_RECIPE = Recipe(base_epochs=8, tune_epochs=5)
OWN_CLIP = ClipSpec(frames=16, stride=4, size=56, resize=64, jitter=(64, 72))
"""Two seconds of 30 frames/s."""

OWN_CLIPS_SEEN = 1600
"""Training clips of the base on one's own videos, all epochs together, where no number of epochs is asked for."""


def recipe_for(num_videos: int, generated: bool, epochs: int | None) -> tuple[ClipSpec, Recipe]:
    """Return the clip and the training of a quickstart on a number of training videos."""
    if epochs is None:
        epochs = SAMPLE_RECIPE.base_epochs if generated else max(1, round(OWN_CLIPS_SEEN / num_videos))
    recipe = Recipe(base_epochs=epochs, tune_epochs=math.ceil(0.6 * epochs))
    return (SAMPLE_CLIP if generated else OWN_CLIP), recipe
