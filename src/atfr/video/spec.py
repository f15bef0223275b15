"""What a network's input clip is: how many frames, how far apart, how large, and how its pixels are normalised."""

import difflib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from atfr.errors import InputError

MOST = 2**14
"""Frames of a clip, pixels of a side, frames from one to the next: beyond it are only mistakes."""
Triple = tuple[float, float, float]
Stride = int | Literal["video"]
"""Video frames from one frame of a clip to the next, or "video" for clips that span all of it."""


@dataclass(frozen=True)
class ClipSpec:
    """The clip a network reads: 3 x `frames` x `size` x `size`, taken every `stride` frames of the video.

    With the stride "video" the frames are spread over all of the video, however long it is.

    For testing, the shorter side of the video is resized to `resize` px; in training to a random one of `jitter` (both
    ends included), and clips are mirrored half of the time where `flip` is on. Switch `flip` off where left and right
    are different classes. `mean` and `std` normalise pixels of [0, 1], by channel R, G, B.
    """

    frames: int = 16
    stride: Stride = 2
    size: int = 112
    resize: int = 128
    jitter: tuple[int, int] = (128, 160)
    flip: bool = True
    mean: Triple = (0.45, 0.45, 0.45)
    std: Triple = (0.225, 0.225, 0.225)

    def __post_init__(self) -> None:
        for name in ("jitter", "mean", "std"):
            if not isinstance(getattr(self, name), (tuple, list)):
                raise InputError(f"ClipSpec.{name} must be a list of numbers, got {getattr(self, name)!r}")
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("frames", "size", "resize"):
            _check_count(name, getattr(self, name))
        if self.stride != "video":
            _check_count("stride", self.stride, or_else=' or "video"')
        if len(self.jitter) != 2:
            raise InputError(f"ClipSpec.jitter must be two sizes in px (least, largest), got {self.jitter!r}")
        for side in self.jitter:
            _check_count("jitter", side)
        if not self.size <= self.jitter[0] <= self.jitter[1]:
            raise InputError(f"ClipSpec.jitter must satisfy size <= least <= largest, got {self.jitter}, {self.size=}")
        if self.resize < self.size:
            raise InputError(f"ClipSpec.resize must be at least size, got {self.resize=} and {self.size=}")
        if not isinstance(self.flip, bool):
            raise InputError(f"ClipSpec.flip must be true or false, got {self.flip!r}")
        for name in ("mean", "std"):
            values = getattr(self, name)
            numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
            if len(values) != 3 or not numbers:
                raise InputError(f"ClipSpec.{name} must be three numbers (R, G, B), got {values!r}")
        if min(self.std) <= 0:
            raise InputError(f"ClipSpec.std must be positive, got {self.std}")

    @property
    def span(self) -> int:
        """The video frames from the first to the last frame of a clip, both included; the least with "video"."""
        return self.frames if self.stride == "video" else (self.frames - 1) * self.stride + 1

    @property
    def decode_side(self) -> int:
        """The shorter side that decoded frames need at most: pass it to `decode` as `shorter_side`."""
        return max(self.resize, self.jitter[1])

    def to_dict(self) -> dict[str, Any]:
        """Turn the spec into plain JSON values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ClipSpec":
        """Make a spec from `to_dict`'s values; what is left out takes its default.

        Raises:
            InputError: A key is unknown, or a value is not of its kind or range.
        """
        if not isinstance(values, Mapping):
            raise InputError(f"a ClipSpec is made from a mapping of names to values, got {type(values).__name__}")
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                close = difflib.get_close_matches(str(key), known, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise InputError(f"ClipSpec has no {key!r}, only {', '.join(known)}{hint}")
        return cls(**values)


@dataclass(frozen=True)
class ViewSpec:
    """The views of a video whose scores are averaged: `num_clips` clips spread over it, `num_crops` crops of each.

    Crops are 1 (centre) or 3. With `settled` a video's views are computed one after the other, and stop as soon as a
    class leads by so many nats (`atfr.evaluate.stopping`).
    """

    num_clips: int = 1
    num_crops: int = 1
    settled: float | None = None

    def __post_init__(self) -> None:
        for name in ("num_clips", "num_crops"):
            if not isinstance(value := getattr(self, name), int) or isinstance(value, bool):
                raise InputError(f"{name} must be a whole number, got {value!r}")
        if not 1 <= self.num_clips <= MOST or self.num_crops not in (1, 3):
            raise InputError(
                f"num_clips must be from 1 to {MOST}, num_crops 1 or 3, got num_clips={self.num_clips}, "
                f"num_crops={self.num_crops}"
            )
        number = isinstance(self.settled, int | float) and not isinstance(self.settled, bool)
        if self.settled is not None and not (number and 0 < self.settled < math.inf):
            raise InputError(f"settled is the lead at which views stop, a number above 0 (nats), got {self.settled!r}")

    @property
    def total(self) -> int:
        """The views of a video, if none are saved."""
        return self.num_clips * self.num_crops

    def made_by(self) -> dict[str, Any]:
        """Return what predictions depend on, as plain JSON values: those with other values are not mixed with them."""
        if self.settled is None:
            return {"views": self.total, "crops": self.num_crops}
        return {"most_views": self.total, "crops": self.num_crops, "settled": self.settled}


def _check_count(name: str, value: object, or_else: str = "") -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST:
        raise InputError(f"ClipSpec.{name} must be a whole number from 1 to {MOST}{or_else}, got {value!r}")
