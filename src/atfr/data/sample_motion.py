"""Draw one video of the sample action set: a textured shape in motion on a textured background.

See `samples.py` for what the set is. Lengths are in units of the picture's side; x points right, y down.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, UInt8

from atfr.data.sample_footage import Disturbed, developed

Property = Literal["x", "y", "log_size"]

CHANGES: dict[str, tuple[Property, int]] = {
    "grow": ("log_size", +1),
    "move_down": ("y", +1),
    "move_left": ("x", -1),
    "move_right": ("x", +1),
    "move_up": ("y", -1),
    "shrink": ("log_size", -1),
}
"""Which property of the shape each class changes, and in which direction."""

RADIUS = (0.14, 0.38)
TRAVEL = (0.3, 0.7)
"""Spread evenly around a half: places wrap around, so those before and after do not tell left from right."""
GROWTH = (1.7, 2.4)
GROUND, SHAPE = (0.05, 0.45), (0.6, 1.0)
BRIEF = (0.07, 0.15)
"""How much of a video most motions last."""
LONG = (0.5, 0.8)
LONG_SHARE = 0.125
MARGIN = 0.14
"""Motions spare this share of a video at its ends, so that every clip of it has all of the motion."""


@dataclass(frozen=True)
class Motion:
    """The truth about one video: the motion happens from `start_frame` to `stop_frame`.

    `speed` is in sides a frame for a move, and in e-folds of the size a frame for growing and shrinking.
    """

    start_frame: int
    stop_frame: int
    speed: float
    x: Float[np.ndarray, "T"]
    y: Float[np.ndarray, "T"]
    radius: Float[np.ndarray, "T"]


def draw_motion(name: str, frames: int, rng: np.random.Generator) -> Motion:
    """Draw the course of the shape's place and size for class `name`."""
    changed, sign = CHANGES[name]
    start, stop = _extent(frames, rng)
    progress = np.clip((np.arange(frames) - start) / (stop - start), 0, 1)
    travel = rng.uniform(*TRAVEL)
    growth = np.log(rng.uniform(*GROWTH))
    smallest = rng.uniform(np.log(RADIUS[0]), np.log(RADIUS[1]) - growth)
    # The course of each property; one played backwards is as likely as the course itself.
    course = {
        "x": rng.uniform() + sign * travel * progress,
        "y": rng.uniform() + sign * travel * progress,
        "log_size": smallest + growth * (progress if sign > 0 else 1 - progress),
    }
    for still in [name for name in course if name != changed]:  # in this order: sets have another in each process
        course[still] = np.full(frames, course[still][rng.integers(frames)])
    amount = growth if changed == "log_size" else travel
    return Motion(
        start,
        stop,
        float(amount / (stop - start)),
        course["x"],
        course["y"],
        np.exp(course["log_size"]),
    )


def draw_video(
    motion: Motion, disturbed: Disturbed, size: int, rng: np.random.Generator
) -> UInt8[np.ndarray, "T H W 3"]:
    """Draw the frames, `size` px a side, with a shape, textures and colours of their own."""
    frames = len(motion.x)
    pixel = ((np.arange(size) + 0.5) / size).astype(np.float32)
    shade, shade_sprite = _colours(rng)
    rows, columns = ((pixel[None] + disturbed.camera[:, axis, None]).astype(np.float32) for axis in (1, 0))
    scene = np.empty((frames, size, size, 3), dtype=np.float32)
    for first, last in pairwise((0, *disturbed.cuts, frames)):
        shade = shade if first == 0 else _colours(rng)[0]
        shot = slice(first, last) if disturbed.camera.any() else slice(first, first + 1)
        ground = _look_up(_texture(2 * size, 6, rng), rows[shot, :, None] / 2, columns[shot, None, :] / 2)
        for channel in range(3):
            scene[first:last, ..., channel] = _mix(ground, shade[:, channel])

    across = _wrapped(pixel[None] - motion.x[:, None].astype(np.float32))[:, None, :]
    down = _wrapped(pixel[None] - motion.y[:, None].astype(np.float32))[:, :, None]
    radius = motion.radius.astype(np.float32)[:, None, None]
    u, v = across / radius, down / radius
    inside = np.clip((1 - _distance(u, v, rng)) * radius * size + 0.5, 0, 1)
    skin = _look_up(_texture(64, 3, rng), 0.5 + v / 2.6, 0.5 + u / 2.6)
    for channel in range(3):
        scene[..., channel] += inside * (_mix(skin, shade_sprite[:, channel]) - scene[..., channel])
    return developed(scene, disturbed, rng)


def _extent(frames: int, rng: np.random.Generator) -> tuple[int, int]:
    """Draw when the motion starts and stops: most are brief, some last long; anywhere but at the video's ends."""
    first, last = round(MARGIN * frames), frames - 1 - round(MARGIN * frames)
    share = rng.uniform(*(LONG if rng.uniform() < LONG_SHARE else BRIEF))
    length = min(max(round(share * frames), 2), last - first)
    start = first + int(rng.integers(last - first - length + 1))
    return start, start + length


def _wrapped(difference: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """Take a difference of places the short way round."""
    return (difference + 0.5) % 1 - 0.5


def _distance(
    u: Float32[np.ndarray, "T 1 W"], v: Float32[np.ndarray, "T H 1"], rng: np.random.Generator
) -> Float32[np.ndarray, "T H W"]:
    """Distance from the shape's centre in units of its outline, in that direction: 1 on the outline."""
    distance = np.sqrt(u * u + v * v)
    corners = int(rng.integers(0, 6))
    phase = np.float32(rng.uniform(0, 2 * np.pi))
    depth = np.float32(rng.uniform(0.15, 0.3))
    if corners < 2:  # a disc
        return distance
    return distance / (1 - depth + depth * np.cos(corners * np.arctan2(v, u) + phase))


def _texture(size: int, cells: int, rng: np.random.Generator) -> Float32[np.ndarray, "S S"]:
    """Smooth noise in [0, 1] that repeats at its edges, of `cells` and 2 x `cells` waves a side."""
    spectrum = np.fft.rfft2(rng.standard_normal((size, size)))
    frequency = np.hypot(np.fft.fftfreq(size, 1 / size)[:, None], np.fft.rfftfreq(size, 1 / size)[None])
    noise = np.fft.irfft2(spectrum * np.exp(-((frequency / (1.5 * cells)) ** 2)) * (frequency > 1), s=(size, size))
    return (0.5 + 0.5 * np.tanh(noise / noise.std())).astype(np.float32)


def _look_up(
    texture: Float32[np.ndarray, "S S"], y: Float32[np.ndarray, "T H ..."], x: Float32[np.ndarray, "T ... W"]
) -> Float32[np.ndarray, "T H W"]:
    """Read a repeating texture at places in sides of the texture, bilinearly."""
    size = len(texture)
    x0, y0 = np.floor(x * size), np.floor(y * size)
    dx, dy = x * size - x0, y * size - y0
    left, top = x0.astype(np.intp) % size, y0.astype(np.intp) % size
    right, bottom = (left + 1) % size, (top + 1) % size
    upper = texture[top, left] * (1 - dx) + texture[top, right] * dx
    lower = texture[bottom, left] * (1 - dx) + texture[bottom, right] * dx
    return upper * (1 - dy) + lower * dy


def _colours(rng: np.random.Generator) -> tuple[Float32[np.ndarray, "2 3"], Float32[np.ndarray, "2 3"]]:
    """Draw the two colours of the ground and of the shape, which is always the brighter and so easy to find."""
    pairs = [
        np.clip(rng.uniform(*brightness, 3) + rng.uniform(-0.15, 0.15, (2, 3)), 0, 1).astype(np.float32)
        for brightness in (GROUND, SHAPE)
    ]
    return pairs[0], pairs[1]


def _mix(amount: Float32[np.ndarray, "T H W"], levels: Float32[np.ndarray, "2"]) -> Float32[np.ndarray, "T H W"]:
    return levels[0] + amount * (levels[1] - levels[0])
