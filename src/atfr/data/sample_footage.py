"""What a camera and an editor do to a video of the sample action set: noise, drift, shake, freezes, flashes, cuts.

Lengths are in units of the picture's side; x points right, y down.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, UInt8

Footage = Literal["mixed", "clean", "noise", "drift", "shake", "freeze", "flash", "cuts"]
"""The kinds of videos a set can have: with one disturbance each, with none, or mixed as they come."""

DISTURBANCES: tuple[Footage, ...] = get_args(Footage)[2:]
CHANCE: dict[Footage, float] = {"noise": 0.8, "drift": 0.5, "shake": 0.2, "freeze": 0.2, "flash": 0.1, "cuts": 0.1}
"""How many of the mixed videos have each."""

NOISE = (0.005, 0.04)
"""Standard deviation of a pixel from frame to frame, where black is 0 and white 1."""
DRIFT_PER_FRAME = (0.002, 0.01)
SHAKE = (0.005, 0.02)
"""Standard deviation of the camera's place."""
FLASH = (0.2, 0.4)
MOST_CUTS = 2


@dataclass(frozen=True)
class Disturbed:
    """What happens to one video, besides what moves in it."""

    noise: float  # standard deviation of a pixel from frame to frame, of [0, 1]
    camera: Float[np.ndarray, "T 2"]  # where the camera looks in each frame (x, y), from where the video begins
    drift: tuple[float, float]  # how far it drifts a frame (x, y)
    shake: float  # standard deviation of its place around that
    frozen_to: int  # frames before the one repeat it, frames behind the other repeat that
    frozen_from: int
    flash: int  # the frame that is brighter, with the next; -1 for none
    cuts: tuple[int, ...]  # the frames at which another scene begins behind the shape


def draw_disturbed(footage: Footage, frames: int, start: int, stop: int, rng: np.random.Generator) -> Disturbed:
    """Draw what happens to a video whose motion goes from `start` to `stop`; cuts and flashes spare the motion."""
    has = {kind: footage == kind or (footage == "mixed" and rng.uniform() < CHANCE[kind]) for kind in DISTURBANCES}
    angle, speed = rng.uniform(0, 2 * np.pi), has["drift"] * rng.uniform(*DRIFT_PER_FRAME)
    drift = (float(speed * np.cos(angle)), float(speed * np.sin(angle)))
    shake = float(has["shake"] * rng.uniform(*SHAKE))
    camera = np.arange(frames)[:, None] * np.array(drift) + shake * rng.standard_normal((frames, 2))
    still = [frame for frame in range(2, frames - 2) if not start - 1 <= frame <= stop + 1]
    flash = int(rng.choice(still)) if has["flash"] and still else -1
    number = min(int(rng.integers(1, MOST_CUTS + 1)), len(still)) if has["cuts"] else 0
    cuts = tuple(sorted(int(frame) for frame in rng.choice(still, number, replace=False))) if number else ()
    noise = float(has["noise"] * rng.uniform(*NOISE))
    frozen = (start, stop) if has["freeze"] else (0, frames - 1)
    return Disturbed(noise, camera, drift, shake, *frozen, flash, cuts)


def developed(
    scene: Float[np.ndarray, "T H W 3"], disturbed: Disturbed, rng: np.random.Generator
) -> UInt8[np.ndarray, "T H W 3"]:
    """Return what the camera and the editor make of a scene (of [0, 1])."""
    if disturbed.flash >= 0:
        scene[disturbed.flash : disturbed.flash + 2] += rng.uniform(*FLASH)
    if disturbed.noise:
        scene += disturbed.noise * rng.standard_normal(scene.shape, dtype=np.float32)
    video = (scene.clip(0, 1) * 255 + 0.5).astype(np.uint8)
    video[: disturbed.frozen_to] = video[disturbed.frozen_to]
    video[disturbed.frozen_from :] = video[disturbed.frozen_from]
    return video
