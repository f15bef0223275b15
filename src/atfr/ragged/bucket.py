"""Bucket: the layout of packed clips whose number of maps is known, but not how long each is.

A graph that is recorded once, for `torch.compile` or CUDA graphs, has fixed shapes. So a batch of N clips is filled up
to a number of maps by one more clip, whose row is thrown away, and the lengths are a tensor, which differs from call to
call. What cannot be done without the lengths as numbers raises.

N clips, S maps of all clips and of the one behind them.
"""

from typing import Any, NoReturn

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from atfr.errors import UnsupportedOperationError
from atfr.ragged.layout import ClipLayout, Same, Window


class Bucket(ClipLayout):
    """The layout of N clips and of one behind them.

    Args:
        lengths: of the N clips and of the one behind them, which has a map at least.
        total: S, their sum.
        shortest: a length that none is below.
        origin: the layout from which operations have made this one, with `passed` of them.

    Attributes:
        passed: the windows in time between the origin and here that changed lengths, as what lengths depend on.
    """

    traced = True

    def __init__(
        self,
        lengths: Int[Tensor, " N+1"],
        total: int,
        shortest: int = 1,
        origin: "Bucket | None" = None,
        passed: tuple[tuple[Any, ...], ...] = (),
    ) -> None:
        self.total, self.shortest = total, shortest
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
        return Bucket(lengths, total, window.results(self.shortest), self.origin, (*self.passed, window.effect))

    def room(self, window: Window) -> int:
        """Return how many maps are set aside for clips with room between them, at most."""
        more = max(window.padding, window.reach - window.padding - 1 if window.clamped else 0) + window.stride - 1
        return window.padding + self.total + len(self) * more
