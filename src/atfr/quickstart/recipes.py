"""What a quickstart trains with: measured on the sample set, and sized to a few minutes on two CPU cores."""

from typing import Any

from atfr.quickstart.compare import Recipe
from atfr.video.spec import ClipSpec

SAMPLE_CLIP = ClipSpec(frames=16, stride=2, size=32, resize=32, jitter=(32, 36), flip=False)  # left and right differ
OWN_CLIP = ClipSpec(frames=16, stride=4, size=64, resize=72, jitter=(72, 84))
"""Two seconds of 30 frames/s."""

CLIPS_SEEN = 7000
"""Training clips a network sees, all epochs together, where no number of epochs is asked for."""


def recipe_for(num_videos: int, generated: bool, epochs: int | None) -> tuple[ClipSpec, Recipe, dict[str, Any]]:
    """Return the clip, the training and the SGS of a quickstart on a number of training videos."""
    if epochs is None:
        epochs = max(1, round(CLIPS_SEEN / num_videos))
    recipe = Recipe(epochs=epochs, batch_size=16, optimizer="adamw", learning_rate=0.003, warmup_epochs=epochs / 10)
    return (SAMPLE_CLIP if generated else OWN_CLIP), recipe, {"after": "res2"}
