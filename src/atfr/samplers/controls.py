"""Controls: the same number of maps without similarity, without which adaptivity is not shown.

Each keeps A maps of a clip, where A is the given mean rounded up or down at random. What is random is drawn from the
clip's own maps by a hash: repeatable, on every device, and the same whatever the other clips of the batch are.

N batch, C channels, T maps in.
"""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from atfr.errors import InputError
from atfr.samplers.sampler import TemporalSampler, pooled
from atfr.samplers.sampling import Grouping, Sampling, arranged

MULTIPLIER = 73244475  # odd, half of its bits set, and a 32-bit number times it stays within 64 bits
LEVELS = 2**12  # of a clip's key: fine enough to tell clips apart, coarse beside the rounding of float32


class Control(TemporalSampler):
    """Keeps a given mean number of maps of each clip, in equal groups.

    Args:
        channels: channels C of the maps.
        active_bins: maps that a clip keeps on average, 1 or more; a clip with fewer keeps all.
    """

    sampler: str

    def __init__(self, channels: int, active_bins: float) -> None:
        super().__init__(channels)
        number = isinstance(active_bins, int | float) and not isinstance(active_bins, bool)
        if not number or not 1 <= active_bins < math.inf:
            raise InputError(f"active_bins must be a mean number of maps of at least 1, got {active_bins!r}")
        self.active_bins = active_bins

    def describe(self, features: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N T L"]:
        """Return the channels' means in each map, from which a clip's random numbers are drawn."""
        return pooled(features).transpose(1, 2)

    def sampling(self, description: Float[Tensor, "N T L"], lengths: Int[Tensor, " N"]) -> Sampling:
        """Put the maps of each clip into A groups of the same size, give or take one."""
        time_T = torch.arange(description.shape[1], device=lengths.device)
        there_NT = time_T < lengths[:, None]
        key_N = key(description)
        kept_N1 = (self.active_bins + uniform(key_N)).long()[:, None].clamp(max=lengths[:, None])
        noise_NT = uniform(key_N[:, None] * 8191 + time_T).masked_fill(~there_NT, 2.0)
        place_NT = self.places(time_T.expand_as(noise_NT), noise_NT)
        group_NT = place_NT * kept_N1 // lengths[:, None]
        weight_NT = self.weights(place_NT, group_NT, kept_N1, lengths[:, None]).to(description.dtype)
        counts_NT = there_NT & (weight_NT > 0)
        frames = description.shape[1]
        return arranged(
            Grouping(group_NT, weight_NT, counts_NT), lengths, 1, frames, frames, "magnitude", self.one_each
        )

    def places(self, time_NT: Int[Tensor, "N T"], noise_NT: Float[Tensor, "N T"]) -> Int[Tensor, "N T"]:
        """Return the order of the maps in which they are cut into groups."""
        return time_NT

    def weights(
        self, place_NT: Tensor, group_NT: Int[Tensor, "N T"], kept_N1: Int[Tensor, "N 1"], lengths_N1: Tensor
    ) -> Float[Tensor, "N T"]:
        """Return the weight of each map in its group: the mean."""
        first_NT, end_NT = bounds(group_NT, kept_N1, lengths_N1)
        return 1 / (end_NT - first_NT)

    def possible_active_bins(self, frames: int) -> range:
        """Return the numbers of maps that a clip of so many may keep: the mean, rounded down and up."""
        return range(min(math.floor(self.active_bins), frames), min(math.ceil(self.active_bins), frames) + 1)

    def settings(self) -> dict[str, Any]:
        """Return the arguments of `atfr.adapt_` that make this layer, but for its place."""
        return {"sampler": self.sampler, "active_bins": self.active_bins}

    def extra_repr(self) -> str:
        """Show the settings in the module's printed form."""
        return f"active_bins={self.active_bins}"


class Average(Control):
    """Averages equal groups of neighbouring maps."""

    sampler = "average"


class Uniform(Control):
    """Keeps the middle one of equal groups of neighbouring maps: every k-th map."""

    sampler = "uniform"
    one_each = True

    def weights(
        self, place_NT: Tensor, group_NT: Int[Tensor, "N T"], kept_N1: Int[Tensor, "N 1"], lengths_N1: Tensor
    ) -> Float[Tensor, "N T"]:
        """Return 1 for the middle map of a group, 0 for the others."""
        first_NT, end_NT = bounds(group_NT, kept_N1, lengths_N1)
        return (place_NT == (first_NT + end_NT) // 2).float()


class Random(Control):
    """Averages groups of maps drawn at random; they come out in random order."""

    sampler = "random"

    def places(self, time_NT: Int[Tensor, "N T"], noise_NT: Float[Tensor, "N T"]) -> Int[Tensor, "N T"]:
        """Return a random order of each clip's maps."""
        return noise_NT.argsort(dim=1, stable=True).argsort(dim=1)


def bounds(
    group_NT: Int[Tensor, "N T"], kept_N1: Int[Tensor, "N 1"], lengths_N1: Int[Tensor, "N 1"]
) -> tuple[Int[Tensor, "N T"], Int[Tensor, "N T"]]:
    """Return the first place of each map's group, and the one behind its last."""
    return -(-group_NT * lengths_N1 // kept_N1), -(-(group_NT + 1) * lengths_N1 // kept_N1)


def key(description: Float[Tensor, "N T L"]) -> Int[Tensor, " N"]:
    """Return a whole number for each clip: the sum of its maps with fixed random signs, over their root sum of squares.

    Without the signs it would hardly tell clips of one network apart, whose maps are positive and alike on average.
    """
    wide = description.detach().double()  # behind a clip's length there are zeros
    places_TL = torch.arange(wide[0].numel(), device=wide.device).view_as(wide[0])
    signed_N = (wide * (uniform(places_TL) - 0.5).sign()).sum((1, 2))
    norm_N = wide.square().sum((1, 2)).sqrt()
    return (LEVELS * signed_N / norm_N.clamp(min=1e-30)).nan_to_num(0.0).floor().long()


def uniform(seed: Int[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Return a number in [0, 1) for each seed; those of neighbouring seeds have nothing in common."""
    state = seed & 0xFFFFFFFF
    for _ in range(3):
        state = ((state ^ (state >> 16)) * MULTIPLIER) & 0xFFFFFFFF
    return ((state ^ (state >> 16)) >> 8).float() / 2**24
