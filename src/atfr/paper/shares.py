"""What a clip costs by the share of its maps that it keeps, the same share behind every SGS layer of a network."""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from atfr.adapt.cost import ClipCost
from atfr.adapt.meta import Shapes, on_meta, put_stand_ins
from atfr.errors import InputError

STEPS = 8
"""Shares of several sites where no other number of them is exact at each."""


@dataclass(frozen=True)
class Share:
    """A share of a clip's maps, and what the clip then costs."""

    share: float  # of the maps that the network without SGS has at a site
    kept: tuple[int, ...]  # active bins at each site: the share of its maps, as far as its bins allow it
    multiply_adds: int  # of the whole network


class _AllReachedError(Exception):
    """Every site knows its maps."""


class Sites:
    """The SGS layers of a network and the maps that a clip brings to each, on the meta device."""

    def __init__(self, model: nn.Module, clip_shape: Sequence[int]) -> None:
        self.network = on_meta(model)
        self.stand_ins = put_stand_ins(self.network)
        self.clip_shape = tuple(clip_shape)
        for stand_in in self.stand_ins.values():
            stand_in.register_forward_hook(self._stop_at_the_last)

    def maps(self, kept: Sequence[int] | None = None) -> list[tuple[int, range]]:
        """Return the maps that arrive at each site where so many are kept (None: all), and what it may keep of them."""
        for number, stand_in in enumerate(self.stand_ins.values()):
            stand_in.keep, stand_in.frames = None if kept is None else (kept[number],), ()
        with torch.no_grad(), Shapes(), suppress(_AllReachedError):
            self.network(torch.empty(1, *self.clip_shape, device="meta"))
        arriving = [(stand_in.frames[0], stand_in.layer) for stand_in in self.stand_ins.values()]
        return [(frames, layer.possible_active_bins(frames)) for frames, layer in arriving]

    def _stop_at_the_last(self, *_: Any) -> None:
        """What comes behind the sites changes nothing at them, and is most of a network."""
        if all(stand_in.frames for stand_in in self.stand_ins.values()):
            raise _AllReachedError

    def nearest(self, asked: Sequence[int]) -> tuple[int, ...]:
        """Return the numbers of active bins nearest to those asked for that can occur together."""
        kept, tried = tuple(asked), None
        while kept != tried:  # what arrives at a site depends on what those before it keep
            tried = kept
            possible = [possible for _, possible in self.maps(kept)]
            kept = tuple(min(max(n, few[0]), few[-1]) for n, few in zip(asked, possible, strict=True))
        return kept


def by_share(model: nn.Module, cost: ClipCost, clip_shape: Sequence[int]) -> list[Share]:
    """Return costs from the smallest share to the largest; none for a network without SGS.

    With one site there is an entry for each number of active bins. With several there is one for each share that is a
    whole number of maps at every site, where these are 4 to 16, and else for eighths, rounded up to whole maps.
    """
    sites = Sites(model, clip_shape)
    whole = [frames for frames, _ in sites.maps()]
    if len(whole) < 2:
        return [Share(kept / whole[0], (kept,), cost.adaptive[kept]) for kept in cost.adaptive if isinstance(kept, int)]
    exact = math.gcd(*whole)
    steps = exact if 4 <= exact <= 16 else STEPS
    shares: dict[tuple[int, ...], Share] = {}
    for step in range(1, steps + 1):
        kept = sites.nearest([-(-frames * step // steps) for frames in whole])
        if kept not in shares:
            shares[kept] = Share(step / steps, kept, cost.adaptive[kept])
    return list(shares.values())


def implied_share(shares: Sequence[Share], multiply_adds: float) -> float:
    """Return the share at which a clip costs so much: straight between two entries and beyond the last ones.

    Raises:
        InputError: fewer than two entries, between which there is no line.
    """
    if len(shares) < 2:
        raise InputError(f"a share is found between two costs or more, got {len(shares)}")
    pairs = list(pairwise(shares))
    low, high = next((pair for pair in pairs if multiply_adds <= pair[1].multiply_adds), pairs[-1])
    steps = (multiply_adds - low.multiply_adds) / (high.multiply_adds - low.multiply_adds)
    return low.share + steps * (high.share - low.share)
