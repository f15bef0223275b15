"""Draw one video of the sample action set: a textured shape in motion on a drifting textured background.

See `samples.py` for what the set is. Lengths are in units of the picture's side; x points right, y down.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, UInt8

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
TRAVEL = (0.35, 0.8)
GROWTH = (1.7, 2.4)
SPEED_PER_FRAME = (0.012, 0.045)
CAMERA_SPEED = 0.01
GROUND, SHAPE = (0.05, 0.45), (0.6, 1.0)
MARGIN_FRAMES = 3


@dataclass(frozen=True)
class Motion:
    """The truth about one video: the motion happens from `start_frame` to `stop_frame`.

    `speed` is in sides a frame for a move, and in e-folds of the size a frame for growing and shrinking; `camera` is
    the drift (x, y) of the background in sides a frame.
    """

    start_frame: int
    stop_frame: int
    speed: float
    camera: tuple[float, float]
    x: Float[np.ndarray, "T"]
    y: Float[np.ndarray, "T"]
    radius: Float[np.ndarray, "T"]


def draw_motion(name: str, frames: int, rng: np.random.Generator) -> Motion:
    """Draw the course of the shape's place and size for class `name`."""
    changed, sign = CHANGES[name]
    start, stop = _extent(frames, rng)
    progress = np.clip((np.arange(frames) - start) / (stop - start), 0, 1)
    travel = np.clip(rng.uniform(*TRAVEL), SPEED_PER_FRAME[0] * (stop - start), SPEED_PER_FRAME[1] * (stop - start))
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
    moving_camera = rng.uniform() < 0.5
    angle, drift = rng.uniform(0, 2 * np.pi), moving_camera * rng.uniform(0.2, 1) * CAMERA_SPEED
    amount = growth if changed == "log_size" else travel
    return Motion(
        start,
        stop,
        float(amount / (stop - start)),
        (float(drift * np.cos(angle)), float(drift * np.sin(angle))),
        course["x"],
        course["y"],
        np.exp(course["log_size"]),
    )


def draw_video(motion: Motion, size: int, rng: np.random.Generator) -> UInt8[np.ndarray, "T H W 3"]:
    """Draw the frames, `size` px a side, with a shape, textures and colours of their own."""
    drifting = np.arange(len(motion.x) if any(motion.camera) else 1)[:, None]
    pixel = ((np.arange(size) + 0.5) / size).astype(np.float32)
    scenery = _texture(2 * size, 6, rng)
    shade, shade_sprite = _colours(rng)
    rows = (pixel[None] + motion.camera[1] * drifting).astype(np.float32)
    columns = (pixel[None] + motion.camera[0] * drifting).astype(np.float32)
    ground = _look_up(scenery, rows[:, :, None] / 2, columns[:, None, :] / 2)

    across = _wrapped(pixel[None] - motion.x[:, None].astype(np.float32))[:, None, :]
    down = _wrapped(pixel[None] - motion.y[:, None].astype(np.float32))[:, :, None]
    radius = motion.radius.astype(np.float32)[:, None, None]
    u, v = across / radius, down / radius
    inside = np.clip((1 - _distance(u, v, rng)) * radius * size + 0.5, 0, 1)
    skin = _look_up(_texture(64, 3, rng), 0.5 + v / 2.6, 0.5 + u / 2.6)

    video = np.empty((*inside.shape, 3), dtype=np.uint8)
    for channel in range(3):
        behind, before = _mix(ground, shade[:, channel]), _mix(skin, shade_sprite[:, channel])
        video[..., channel] = (behind + inside * (before - behind)) * 255 + 0.5
    return video


def _extent(frames: int, rng: np.random.Generator) -> tuple[int, int]:
    """Draw when the motion starts and stops: short or long, anywhere but in the first and last few frames."""
    room = frames - 1 - 2 * MARGIN_FRAMES
    length = int(rng.integers(max(room * 2 // 5, 2), room + 1))
    start = MARGIN_FRAMES + int(rng.integers(room - length + 1))
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
