"""Where clips lie that are packed end to end along time, and what a window in time makes of their lengths.

N clips, S maps of all clips.
"""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class Window:
    """What an operation sees in time.

    Attributes:
        reach: maps from its first to its last, dilation included.
        padding: maps that it pads on either side.
        clamped: a window longer than a padded clip shrinks to it; else such a clip has no result.
    """

    reach: int
    stride: int = 1
    padding: int = 0
    clamped: bool = False

    def results(self, length: int) -> int:
        """Return how many maps come of a clip; less than 1 where it is too short."""
        over = length + 2 * self.padding - self.reach
        return 1 if self.clamped and over < 0 else over // self.stride + 1

    @property
    def effect(self) -> tuple[Any, ...]:
        """What the number of results depends on, besides the length; none where it is the length."""
        over = 2 * self.padding - self.reach + 1
        return () if (over, self.stride) == (0, 1) else (over, self.stride, self.clamped and over < 0)

    def most(self, total: int, clips: int) -> int:
        """Return how many maps can come of so many clips that have so many maps together."""
        over = 2 * self.padding - self.reach + self.stride  # a clip gives (length + over) // stride
        return (total + clips * max(over, self.stride - 1 if self.clamped else 0)) // self.stride

    def slot(self, length: int) -> int:
        """Return how many maps are set aside for a clip and the room behind it."""
        taken = max(length + self.padding, self.reach - self.padding if self.clamped else 0)
        return -(-taken // self.stride) * self.stride  # so that each clip begins where a window does


@dataclass(frozen=True)
class Same:
    """Padding in time as TensorFlow's SAME: a stride s gives length / s maps, rounded up; more is padded at the end.

    Attributes:
        reach: maps that the window behind it sees, no fewer than its stride.
    """

    reach: int
    stride: int

    def missing(self, length: Any) -> Any:
        """By how much an axis is lengthened; its length may be a symbol of `torch.export`, or a tensor."""
        if self.stride == 1:
            return self.reach - 1
        before = length - 1  # OpenVINO reads no remainder
        return self.reach - 1 - (before - before // self.stride * self.stride)

    def results(self, length: Any) -> Any:
        """Return how long a clip is with its padding."""
        return length + self.missing(length)

    @property
    def effect(self) -> tuple[Any, ...]:
        """What lengths behind it depend on, besides those before it."""
        return "same", self.reach, self.stride

    def most(self, total: int, clips: int) -> int:
        """Return how many maps there are at most of so many clips that have so many together."""
        return total + clips * (self.reach - 1)


class ClipLayout:
    """Where each clip lies along the packed time axis.

    Args:
        lengths: maps of each clip, in order; all at least 1.
        device_lengths: the same numbers on the device of the data, when they are there already (spares a transfer).

    Attributes:
        shortest: a length that no clip is below.
        kept: what operations have calculated from the lengths, for the next that asks the same.
        traced: whether a graph is being recorded, in which lengths are not known (`bucket.Bucket`).
    """

    traced: ClassVar[bool] = False

    def __init__(self, lengths: Sequence[int], device_lengths: Int[Tensor, " N"] | None = None) -> None:
        self.lengths = tuple(lengths)
        self.total, self.shortest = sum(self.lengths), min(self.lengths)
        self._device_lengths = device_lengths
        self._clip_index: Tensor | None = None
        self.kept: dict[Any, Any] = {}

    @property
    def one_map_each(self) -> bool:
        """Whether every clip is known to have one map."""
        return max(self.lengths) == 1

    @functools.cached_property
    def runs(self) -> tuple[tuple[int, int], ...]:
        """Neighbours of one length, which are a plain batch in memory: the length, and how many clips have it."""
        return tuple((length, len(list(clips))) for length, clips in itertools.groupby(self.lengths))

    def through(self, window: "Window | Same", results: Int[Tensor, " N"]) -> "ClipLayout":
        """Return the layout of what a window makes of the clips.

        Args:
            results: its lengths, on the device of the data.
        """
        lengths = tuple(map(window.results, self.lengths))
        return self if lengths == self.lengths else ClipLayout(lengths, results)

    def joined(self, other: "ClipLayout") -> "ClipLayout":
        """Return the layout of clips as long as the longer of two."""
        lengths = tuple(map(max, self.lengths, other.lengths))
        return next((one for one in (self, other) if one.lengths == lengths), ClipLayout(lengths))

    def room(self, window: Window) -> int:
        """Return how many maps are set aside for clips with room between them."""
        return window.padding + sum(map(window.slot, self.lengths))

    def __len__(self) -> int:
        return len(self.lengths)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ClipLayout) and self.lengths == other.lengths

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[type, tuple[tuple[int, ...]]]:
        return ClipLayout, (self.lengths,)

    def device_lengths(self, device: torch.device) -> Int[Tensor, " N"]:
        """Return the lengths as a tensor on a device, kept for the next call."""
        if self._device_lengths is None or self._device_lengths.device != device:
            with torch.inference_mode(False):
                lengths = torch.tensor(self.lengths, pin_memory=device.type == "cuda")
                self._device_lengths = lengths.to(device, non_blocking=True)
        return self._device_lengths

    def clip_index(self, device: torch.device) -> Int[Tensor, " S"]:
        """Return for every packed map the number of its clip, kept for the next call."""
        if self._clip_index is None or self._clip_index.device != device:
            with torch.inference_mode(False):  # training may use what a pass in inference mode has kept
                clips = torch.arange(len(self), device=device)
                lengths = self.device_lengths(device).clone()
                self._clip_index = clips.repeat_interleave(lengths, output_size=self.total)
        return self._clip_index

    def time_index(self, device: torch.device) -> Int[Tensor, " S"]:
        """Return for every packed map its number in its clip, kept for the next call."""
        if (found := self.kept.get(device)) is None:
            with torch.inference_mode(False):
                lengths = self.device_lengths(device).clone()
                begins = (lengths.cumsum(0) - lengths)[self.clip_index(device)]
                found = self.kept[device] = torch.arange(self.total, device=device) - begins
        return found

    def bounds(self, device: torch.device) -> tuple[Int[Tensor, " S"], Int[Tensor, " S"]]:
        """Return for every packed map the first map of its clip and the one behind its last; kept for the next call."""
        if (found := self.kept.get((device, "bounds"))) is None:
            with torch.inference_mode(False):
                begins = torch.arange(self.total, device=device) - self.time_index(device)
                ends = begins + self.device_lengths(device).clone()[self.clip_index(device)]
                found = self.kept[device, "bounds"] = begins.int(), ends.int()
        return found
