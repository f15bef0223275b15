"""ChangeGuidedSampling: keep the maps (at the input: the frames) between which the clip changes most.

Not in the paper. In its terms: Eq. (2) to (4) with another coordinate, the change that has accumulated up to a map in
place of the magnitude of its embedding, and a kernel that keeps one map of each bin instead of adding all up. Nothing
in it is learned.

N clips, T maps of the longest clip, L numbers that describe a map, A most maps that are kept.
"""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from atfr.checks import at_least_one, in_range, not_negative
from atfr.ragged.rows import mean_over_cells
from atfr.samplers.sampler import TemporalSampler
from atfr.samplers.sampling import Grouping, Sampling, arranged, held

CELLS = 8
"""A map is described by its means in so many cells a side, or as it is where it is smaller: what moves shows, sensor
noise mostly does not."""
NOISE_OF_LARGEST = 0.125
"""A noise floor found from a clip is at most this share of its largest step: a clip of even motion is not noise."""
MIX = 0.15
"""This and the two above were chosen by measurement: docs/results.md, "Where to keep frames"."""
STILL = 1e-5
"""A step up to this share of a clip's mean size is rounding, or what is left of padding far from the edge."""
ROUNDING = 1e-4
"""Where a bin ends is found in float32: a map so little before the end of a bin belongs to the next."""


class Path(NamedTuple):
    """How far each map of a clip has come, in bins.

    Attributes:
        steps: the change from the map before, as a share of the clip's mean size, as it was measured.
        place: the bins passed up to each map; the whole part is the map's bin.
        moves: whether anything in the clip changes by more than the noise floor.
    """

    steps: Float[Tensor, "N T"]
    place: Float[Tensor, "N T"]
    moves: Bool[Tensor, "N 1"]


class ChangeGuidedSampling(TemporalSampler):
    """Cuts each clip where equally much has changed, and keeps the middle map of each part.

    A step is the mean absolute difference of two neighbouring maps, less what noise makes. Up to `num_bins` maps are
    kept, fewer where fewer steps exceed the noise, one of a clip in which nothing moves. A single large step (a cut, a
    flash) takes one bin and no more. Maps stay in the order of time; gradients reach those that are kept.

    Args:
        channels: channels C of the maps.
        num_bins: the most maps a clip keeps; None: as many as come in.
        mix: share of the bins that is spread evenly over time, from 0 (all follow the change) to 1.
        dead_zone: steps up to this size are noise, in shares of the clip's mean size; 0 takes every step as it is.
            None finds it from each clip: the median of its steps, at most an eighth of the largest.
        edge_maps: so many maps at either end of a clip are touched by the zero padding of earlier layers, which makes
            them differ; `atfr.adapt_` counts them. Their steps count no more than the largest of the others.
    """

    one_each = True

    def __init__(
        self,
        channels: int,
        num_bins: int | None = None,
        mix: float = MIX,
        dead_zone: float | None = None,
        edge_maps: int = 0,
    ) -> None:
        super().__init__(channels)
        self.num_bins = self.checked_bins(num_bins)
        self.mix = in_range("mix", mix, 0.0, 1.0)
        self.dead_zone = None if dead_zone is None else in_range("dead_zone", dead_zone, 0.0, math.inf)
        self.edge_maps = not_negative("edge_maps", edge_maps)

    def checked_bins(self, num_bins: Any) -> int | None:
        """Return the number of bins; raise an InputError where it is none."""
        return None if num_bins is None else at_least_one("num_bins", num_bins)

    def describe(self, features: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N T L"]:
        """Return the means of each map in 8 x 8 cells, in float32 at least."""
        wide = features.detach() if features.dtype == torch.float64 else features.detach().float()
        return mean_over_cells(wide, CELLS).transpose(1, 2).flatten(2)

    def sampling(self, description: Float[Tensor, "N T L"], lengths: Int[Tensor, " N"]) -> Sampling:
        """Cut the clips into bins of equal change, and keep the middle map of each."""
        path = self.path(description, lengths)
        time_T = torch.arange(description.shape[1], device=lengths.device)
        there_NT = time_T < lengths[:, None]
        finite_N1 = path.steps.isfinite().all(1, keepdim=True)
        bin_NT = torch.where(path.moves & finite_N1, path.place, 0.0).add(ROUNDING).floor().long()
        bin_NT = bin_NT.minimum(self._most(lengths)[:, None] - 1).masked_fill(~there_NT, description.shape[1])
        count_NB = torch.zeros_like(F.pad(bin_NT, (0, 1))).scatter_add(1, bin_NT, torch.ones_like(bin_NT))
        first_NB = count_NB.cumsum(1) - count_NB
        kept_NT = (time_T == (first_NB + count_NB // 2).gather(1, bin_NT)) & there_NT
        weight_NT = torch.where(finite_N1, kept_NT.to(description.dtype), torch.nan)
        frames = description.shape[1]
        group = Grouping(bin_NT.clamp(max=frames - 1), weight_NT, kept_NT)
        return arranged(group, lengths, 1, frames, frames, "magnitude", self.one_each)

    def path(self, description: Float[Tensor, "N T L"], lengths: Int[Tensor, " N"]) -> Path:
        """Return how far each map has come, in bins."""
        measured_NT = steps(description, lengths)
        step_NT = self._held(measured_NT, lengths)
        floor = noise_floor(step_NT, lengths) if self.dead_zone is None else self.dead_zone
        step_NT = torch.where(step_NT > STILL, step_NT - floor, 0.0).clamp(min=0)
        bins_N1 = self._most(lengths)[:, None].to(step_NT.dtype)
        place_NT = filled(step_NT, bins_N1).cumsum(1)
        if self.mix:
            even_T = torch.arange(place_NT.shape[1], device=lengths.device, dtype=place_NT.dtype)
            place_NT = (1 - self.mix) * place_NT + self.mix * bins_N1 * even_T / lengths[:, None]
        return Path(measured_NT, place_NT, step_NT.amax(1, keepdim=True) > 0)

    def floor(self, description: Float[Tensor, "N T L"], lengths: Int[Tensor, " N"]) -> Float[Tensor, "N 1"]:
        """Return the noise floor that each clip has by itself."""
        return noise_floor(self._held(steps(description, lengths), lengths), lengths)

    def _held(self, step_NT: Float[Tensor, "N T"], lengths: Int[Tensor, " N"]) -> Float[Tensor, "N T"]:
        finite_NT = step_NT.nan_to_num(0.0, 0.0, 0.0)
        return F.pad(held(finite_NT[:, 1:], lengths - 1, self.edge_maps), (1, 0))

    def _most(self, lengths: Int[Tensor, " N"]) -> Int[Tensor, " N"]:
        return lengths if self.num_bins is None else lengths.clamp(max=self.num_bins)

    def possible_active_bins(self, frames: int) -> range:
        """Return the numbers of maps that a clip of so many may keep."""
        return range(1, min(frames, self.num_bins or frames) + 1)

    def settings(self) -> dict[str, Any]:
        """Return the arguments of `atfr.adapt_` that make this layer, but for its place."""
        own = {"num_bins": self.num_bins, "mix": self.mix, "dead_zone": self.dead_zone, "edge_maps": self.edge_maps}
        return {"sampler": "change", **own}

    def extra_repr(self) -> str:
        """Show the settings in the module's printed form."""
        zone = "found" if self.dead_zone is None else f"{self.dead_zone:g}"
        bins = "T" if self.num_bins is None else self.num_bins
        return f"bins={bins}, mix={self.mix:g}, dead_zone={zone}, edge_maps={self.edge_maps}"


def steps(description: Float[Tensor, "N T L"], lengths: Int[Tensor, " N"]) -> Float[Tensor, "N T"]:
    """Return the mean absolute change of each map from the one before, over the clip's mean absolute value.

    The first map's is 0, and so is what lies behind a clip's length.
    """
    there_NT = torch.arange(description.shape[1], device=lengths.device) < lengths[:, None]
    change_NT = F.pad((description[:, 1:] - description[:, :-1]).abs().mean(2), (1, 0))
    size_N1 = torch.where(there_NT, description.abs().mean(2), 0.0).sum(1, keepdim=True) / lengths[:, None]
    return torch.where(there_NT, change_NT, 0.0) / size_N1.clamp(min=torch.finfo(description.dtype).tiny)


def noise_floor(step_NT: Float[Tensor, "N T"], lengths: Int[Tensor, " N"]) -> Float[Tensor, "N 1"]:
    """Return the median of each clip's steps, at most an eighth of the largest."""
    real_NT = (torch.arange(step_NT.shape[1], device=lengths.device) < lengths[:, None])[:, 1:]
    if not real_NT.shape[1]:
        return step_NT[:, :1]
    sorted_NT = torch.where(real_NT, step_NT[:, 1:], torch.inf).sort(1).values
    middle_N1 = ((lengths - 2) // 2).clamp(min=0)[:, None]
    median_N1 = sorted_NT.gather(1, middle_N1)
    return median_N1.minimum(NOISE_OF_LARGEST * step_NT.amax(1, keepdim=True))


def filled(step_NT: Float[Tensor, "N T"], bins_N1: Float[Tensor, "N 1"]) -> Float[Tensor, "N T"]:
    """Return steps in bins: proportional, none longer than one, together as many as there are bins.

    So no bin is empty. Where fewer steps are above 0 than there are bins, each of them is one bin long. (The scale of
    the others is found as in water-filling: the k largest are cut to 1 for the least k that leaves no other above 1.)
    """
    sorted_NT = step_NT.sort(1, descending=True).values
    rest_NT = sorted_NT.flip(1).cumsum(1).flip(1)  # the sum of a step and all smaller ones
    rank_T = torch.arange(step_NT.shape[1], device=step_NT.device, dtype=step_NT.dtype)
    too_long_NT = (bins_N1 - rank_T) * sorted_NT > rest_NT
    cut_N1 = too_long_NT.sum(1, keepdim=True)
    rest_N1 = F.pad(rest_NT, (0, 1)).gather(1, cut_N1)
    scale_N1 = torch.where(rest_N1 > 0, (bins_N1 - cut_N1) / rest_N1, torch.inf)
    return torch.where(step_NT > 0, step_NT * scale_N1, 0.0).clamp(max=1)
