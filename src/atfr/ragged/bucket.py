"""Bucket: the layout of packed clips whose number of maps is known, but not how long each is.

A graph that is recorded once, for `torch.compile` or CUDA graphs, has fixed shapes. So a batch of N clips is filled up
to a number of maps by one more clip, whose row is thrown away, and the lengths are a tensor, which differs from call to
call. What cannot be done without the lengths as numbers raises.

N clips, S maps of all clips and of the one behind them.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from atfr.errors import UnsupportedOperationError
from atfr.ragged.layout import ClipLayout, Same, Window

STEP = 16  # a number of maps is rounded up to the next of a row that grows by a 16th
Told = Callable[[Sequence[Sequence[int]]], Sequence[int]]
"""How many maps each clip has at some place, by how many each sampler keeps of it."""


def bucket_of(maps: int, clips: int, frames: int) -> int:
    """Return the number to which the maps of a batch, and one behind them, are filled up.

    Args:
        frames: the most maps that a clip may have.
    """
    size = clips + 1
    while size < maps + 1:
        size = max(size + 1, size * (STEP + 1) // STEP)
    return min(size, clips * frames + 1)


@dataclass
class Filling:
    """How far a batch is filled up, behind samplers and where paths of different lengths are joined.

    Attributes:
        kept: how many maps each sampler keeps of each clip, in the order in which they are called.
        frames: how many maps of a clip come to each sampler.
        joins: how long clips are where paths are joined; a recording adds those that it meets.
    """

    kept: Sequence[Sequence[int]]
    frames: Sequence[int]
    joins: list[Told] = field(default_factory=list)

    def total(self, told: Told) -> int:
        """Return the number to which the maps at a place are filled up."""
        lengths = told(self.kept)
        return bucket_of(sum(lengths), len(lengths), *told([[frames] for frames in self.frames]))

    def totals(self) -> tuple[int, ...]:
        """Return all numbers that a recording depends on."""
        behind_samplers: list[Told] = [operator.itemgetter(place) for place in range(len(self.kept))]
        return tuple(map(self.total, behind_samplers + self.joins))


class Bucket(ClipLayout):
    """The layout of N clips and of one behind them.

    Args:
        lengths: of the N clips and of the one behind them, which has a map at least.
        total: S, their sum.
        told: how many maps each of the N clips has, by what samplers keep of it.
        filling: of the batch that is recorded.
        shortest: a length that none is below.
        origin: the layout from which operations have made this one, with `passed` of them.

    Attributes:
        passed: the windows in time between the origin and here that changed lengths, as what lengths depend on.
        joined_from: layouts that this one is as long as, clip by clip, or longer.
    """

    traced = True

    def __init__(
        self,
        lengths: Int[Tensor, " N+1"],
        total: int,
        told: Told,
        filling: Filling,
        shortest: int = 1,
        origin: "Bucket | None" = None,
        passed: tuple[tuple[Any, ...], ...] = (),
    ) -> None:
        self.total, self.shortest = total, shortest
        self.told, self.filling = told, filling
        self.joined_from: tuple[Bucket, ...] = ()
        self.origin, self.passed = origin or self, passed
        self._lengths = lengths
        self._clip_index = None
        self.kept = {}

    @property
    def lengths(self) -> NoReturn:  # type: ignore[override]
        """What a recorded graph cannot ask."""
        raise UnsupportedOperationError(
            "an operation that runs clip by clip, or asks how long each clip is: a compiled network does not know that "
            "beforehand; run this one without atfr.compile"
        )

    def __len__(self) -> int:
        return len(self._lengths)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bucket) and self.origin is other.origin and self.passed == other.passed

    __hash__ = None

    def device_lengths(self, device: torch.device) -> Int[Tensor, " N+1"]:
        """Return the lengths, which are on the device of the data."""
        return self._lengths

    def clip_index(self, device: torch.device) -> Int[Tensor, " S"]:
        """Return for every packed map the number of its clip, kept for the next call."""
        if self._clip_index is None:
            ends, maps = self._lengths.cumsum(0), torch.arange(self.total, device=device)
            self._clip_index = torch.searchsorted(ends, maps, right=True)
        return self._clip_index

    @property
    def one_map_each(self) -> bool:
        """Whether every clip is known to have one map."""
        return False

    def real(self, device: torch.device) -> Bool[Tensor, " S"]:
        """Return for every map whether it is one of the N clips'."""
        return self.clip_index(device) < len(self) - 1

    def through(self, window: Window | Same, results: Int[Tensor, " N+1"]) -> "Bucket":
        """Return the layout of what a window makes of the clips; the last takes what is left."""
        if not window.effect:
            return self
        total = window.most(self.total, len(self))
        lengths = torch.cat([results[:-1], total - results[:-1].sum(0, keepdim=True)])
        told, passed = self.told, (*self.passed, window.effect)
        return Bucket(
            lengths, total, lambda kept: [window.results(length) for length in told(kept)], self.filling,
            window.results(self.shortest), self.origin, passed,
        )  # fmt: skip

    def joined(self, other: ClipLayout) -> "Bucket":
        """Return the layout of clips as long as the longer of two; the last takes what is left."""
        if not isinstance(other, Bucket):
            return self.lengths  # which raises
        for one, two in ((self, other), (other, self)):
            if one == two or two in one.joined_from:
                return one
        first, second = self.told, other.told

        def told(kept: Sequence[Sequence[int]]) -> Sequence[int]:
            return list(map(max, first(kept), second(kept)))

        total = self.filling.total(told)
        self.filling.joins.append(told)
        real = self._lengths[:-1].maximum(other._lengths[:-1])
        lengths = torch.cat([real, total - real.sum(0, keepdim=True)])
        found = Bucket(lengths, total, told, self.filling, max(self.shortest, other.shortest))
        found.joined_from = (self, other)
        return found

    def room(self, window: Window) -> int:
        """Return how many maps are set aside for clips with room between them, at most."""
        more = max(window.padding, window.reach - window.padding - 1 if window.clamped else 0) + window.stride - 1
        return window.padding + self.total + len(self) * more
