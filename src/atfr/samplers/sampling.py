"""From similarity embeddings to a sampling: which map goes into which output map, with which weight.

This composes the equations of `functional.py` and settles what the paper leaves open: clips whose maps are all alike,
clips without any weight, empty bins, clips of different lengths, temporal blocks, and the order of the output maps.

N clips, T maps of the longest clip, L similarity dimension.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from atfr.errors import InputError
from atfr.ragged import ClipLayout
from atfr.samplers import functional as sgs

EPSILON = 1e-4  # a map counts where its weight is larger; float32 knows it within 2e-7 times B
WEIGHT_FLOOR = 1e-2  # linear_mean divides by at least this much, so that its gradient stays bounded


@dataclass(frozen=True)
class Sampling:
    """What a sampler does with a batch of N clips of up to T maps.

    Attributes:
        assignment: the bin of each map, 0..B-1 in order of magnitude (of the first coordinate, then the second, ...;
            in temporal blocks the bins of a block follow those of the block before); -1 where the map is dropped, and
            behind the end of a clip that is shorter than T.
        weights: the factor with which each map enters its output map; 0 where it is dropped.
        slots: the packed output map that each map is added to.
        active_bins: the number of bins that are not empty, A (the paper's B′), of each clip.
        maps: the number of maps of each clip that came in.
        one_each: whether each output map is made of one map.
    """

    assignment: Int[Tensor, "N T"]
    weights: Float[Tensor, "N T"]
    slots: Int[Tensor, "N T"]
    active_bins: Int[Tensor, " N"]
    maps: Int[Tensor, " N"]
    one_each: bool = False

    @functools.cached_property
    def layout(self) -> ClipLayout:
        """The active bins of each clip, as lengths of the packed output. Waits for the device, to learn them."""
        return ClipLayout(self.active_bins.tolist(), self.active_bins)


class Grouping(NamedTuple):
    """Which bin each map falls into, with which weight, and whether it counts."""

    bins: Int[Tensor, "N T"]
    weights: Float[Tensor, "N T"]
    counts: Bool[Tensor, "N T"]


def sample(
    embedding_NTL: Float[Tensor, "N T L"],
    lengths_N: Int[Tensor, " N"],
    num_bins: Sequence[int] | None,
    kernel: sgs.Kernel,
    top_edge: sgs.TopEdge,
    order: sgs.Order,
    similarity: sgs.Similarity = "magnitude",
    block: int | None = None,
    edge_maps: int = 0,
) -> Sampling:
    """Group the maps of each clip by the magnitude of their embeddings, or by other coordinates.

    Coordinates, bins and weights are float32 at least. Maps count where their weight exceeds 1e-4; a bin is active
    where a map counts. A clip whose magnitudes are all zero has maps that count as identical. Where no map of a clip
    has weight, its maps share one bin and are averaged. A magnitude that is not finite makes the weights of its clip
    NaN, and of no other clip.

    Args:
        lengths_N: how many maps each clip has; what lies behind them in T does not count.
        num_bins: bins of each coordinate; None: as many of each as there are maps.
        block: group within blocks of so many maps, each as if it were a clip; the last may be shorter.
        edge_maps: so many maps at either end of a clip have coordinates that are held within the range of the others.

    Raises:
        InputError: more bins than can be numbered.
    """
    wide_NTL = embedding_NTL if embedding_NTL.dtype == torch.float64 else embedding_NTL.float()
    frames = wide_NTL.shape[1]
    size, blocks, lengths_M = frames, 1, lengths_N
    coordinates = [held(each_NT, lengths_N, edge_maps) for each_NT in sgs.coordinates(wide_NTL, similarity)]
    if block:
        size, blocks = block, -(-frames // block)
        starts = size * torch.arange(blocks, device=lengths_N.device)
        lengths_M = (lengths_N[:, None] - starts).clamp(0, size).flatten()
        coordinates = [F.pad(each_NT, (0, blocks * size - frames)).reshape(-1, size) for each_NT in coordinates]
    group = grouping(coordinates, lengths_M, num_bins, kernel, top_edge)
    bins_of_a_block = math.prod(num_bins) if num_bins else size ** len(coordinates)
    if blocks * bins_of_a_block > torch.iinfo(torch.long).max:
        raise InputError(
            f"{len(coordinates)} coordinates make {blocks * bins_of_a_block} bins, more than can be numbered: "
            "give a smaller num_bins or embedding_dim"
        )
    return arranged(group, lengths_N, blocks, bins_of_a_block, frames, order, one_each=kernel == "keep")


def grouping(
    coordinates_NT: Sequence[Float[Tensor, "N T"]],
    lengths_N: Int[Tensor, " N"],
    num_bins: Sequence[int] | None,
    kernel: sgs.Kernel,
    top_edge: sgs.TopEdge,
) -> Grouping:
    """Group the maps of each clip by all their coordinates: a map's weight is the product over them.

    Source: Fayyaz et al. 2021, Eq. (9).
    """
    there_NT = torch.arange(coordinates_NT[0].shape[1], device=lengths_N.device) < lengths_N[:, None]
    for k, coordinate_NT in enumerate(coordinates_NT):
        bins_N = lengths_N.clamp(min=1) if num_bins is None else torch.full_like(lengths_N, num_bins[k])
        own = one_coordinate(coordinate_NT.masked_fill(~there_NT, 0), bins_N, kernel, top_edge)
        own_finite_N1 = coordinate_NT.detach().amax(dim=1, keepdim=True).isfinite()
        if k == 0:
            (bin_NT, weight_NT, counts_NT), total_N, finite_N1 = own, bins_N, own_finite_N1
            continue
        bin_NT, total_N = bin_NT * bins_N[:, None] + own.bins, total_N * bins_N
        weight_NT, counts_NT = weight_NT * own.weights, counts_NT & own.counts
        finite_N1 = finite_N1 & own_finite_N1

    counts_NT = counts_NT & there_NT & (weight_NT.detach() > EPSILON)
    alike_NT = ~counts_NT.any(dim=1, keepdim=True) & there_NT
    counts_NT = counts_NT | alike_NT
    bin_NT = torch.where(alike_NT, total_N[:, None] - 1, bin_NT)
    weight_NT = torch.where(counts_NT, weight_NT, torch.zeros_like(weight_NT))
    if kernel == "keep":
        counts_NT = heaviest(weight_NT.detach(), bin_NT, counts_NT)
        weight_NT = torch.where(counts_NT, 1 + (weight_NT - weight_NT.detach()), 0.0)  # exactly 1
    else:
        weight_NT = normalized(weight_NT, counts_NT, bin_NT, kernel)
        weight_NT = torch.where(alike_NT, 1 / lengths_N.clamp(min=1)[:, None].to(weight_NT.dtype), weight_NT)
    return Grouping(bin_NT, torch.where(finite_N1, weight_NT, torch.nan), counts_NT)


def one_coordinate(
    coordinate_NT: Float[Tensor, "N T"], num_bins_N: Int[Tensor, " N"], kernel: sgs.Kernel, top_edge: sgs.TopEdge
) -> Grouping:
    """Group the maps of each clip by one coordinate, with bins up to the clip's own largest value."""
    largest_N1 = coordinate_NT.detach().amax(dim=1, keepdim=True)
    usable_N1 = (largest_N1 > 0) & largest_N1.isfinite()
    coordinate_NT = torch.where(usable_N1, coordinate_NT, torch.ones_like(coordinate_NT))
    top_NT = coordinate_NT == torch.where(usable_N1, largest_N1, 1.0)

    half_width_N = sgs.half_width(coordinate_NT, num_bins_N, top_edge)
    bin_NT = sgs.bin_of(coordinate_NT, half_width_N, num_bins_N)
    center_NT = sgs.bin_center(bin_NT, half_width_N)
    if top_edge == "center":  # to the last bit: the kernel has its kink there
        center_NT = torch.where(top_NT, coordinate_NT.detach(), center_NT)
    psi = sgs.kronecker_kernel if kernel == "kronecker" else sgs.linear_kernel
    # Read literally, the largest lies on the outer edge, whatever the rounding.
    inside_NT = ~top_NT if top_edge == "paper" else torch.ones_like(top_NT)
    return Grouping(bin_NT, psi(coordinate_NT, center_NT, half_width_N), inside_NT)


def held(values_NT: Float[Tensor, "N T"], lengths_N: Int[Tensor, " N"], edge_maps: int) -> Float[Tensor, "N T"]:
    """Return values of which those at either end of a clip lie within the range of the others.

    Zero padding in time makes the maps at the ends of a clip differ from the rest, whatever the clip shows. A clip of
    which nothing else is left is returned as it is.
    """
    if not edge_maps or not values_NT.shape[1]:
        return values_NT
    time_T = torch.arange(values_NT.shape[1], device=lengths_N.device)
    inner_NT = (time_T >= edge_maps) & (time_T < lengths_N[:, None] - edge_maps)
    least_N1 = values_NT.masked_fill(~inner_NT, torch.inf).amin(1, keepdim=True)
    most_N1 = values_NT.masked_fill(~inner_NT, -torch.inf).amax(1, keepdim=True)
    within_NT = values_NT.maximum(least_N1).minimum(most_N1)
    there_NT = time_T < lengths_N[:, None]  # what lies behind a shorter clip is none of its maps
    return torch.where(inner_NT.any(1, keepdim=True) & there_NT, within_NT, values_NT)


def ranked(bin_NT: Int[Tensor, "N T"], counts_NT: Bool[Tensor, "N T"]) -> tuple[Int[Tensor, "N T"], Int[Tensor, " N"]]:
    """Number the bins in which a map counts, from the lowest: the number of each map's bin, and how many there are.

    A map that does not count gets a number that its clip has, if it has any. The work does not depend on B.
    """
    behind = torch.iinfo(torch.long).max
    sorted_NT, place_NT = torch.where(counts_NT, bin_NT, behind).sort(dim=1)
    differs_NT = sorted_NT[:, 1:] != sorted_NT[:, :-1]
    first_NT = F.pad(differs_NT, (1, 0), value=True) & (sorted_NT < behind)
    rank_NT = torch.zeros_like(bin_NT).scatter(1, place_NT, first_NT.long().cumsum(dim=1) - 1)
    return rank_NT.clamp(min=0), first_NT.sum(dim=1)


def heaviest(
    weight_NT: Float[Tensor, "N T"], bin_NT: Int[Tensor, "N T"], counts_NT: Bool[Tensor, "N T"]
) -> Bool[Tensor, "N T"]:
    """Return the map of largest weight in each bin, the middle one in time of several."""
    rank_NT, _ = ranked(bin_NT, counts_NT)
    same_NTT = (rank_NT[:, :, None] == rank_NT[:, None, :]) & counts_NT[:, None, :]  # pairs: runtimes have no amax
    heavier_NTT = same_NTT & (weight_NT[:, None, :] > weight_NT[:, :, None])
    best_NT = counts_NT & ~heavier_NTT.any(2)
    level_NTT = same_NTT & best_NT[:, None, :]
    before_NT = (level_NTT & torch.ones_like(level_NTT[0]).tril(-1)).sum(2)
    return best_NT & (before_NT == level_NTT.sum(2) // 2)


def normalized(
    weight_NT: Float[Tensor, "N T"],
    counts_NT: Bool[Tensor, "N T"],
    bin_NT: Int[Tensor, "N T"],
    kernel: sgs.Kernel,
) -> Float[Tensor, "N T"]:
    """Return the weights divided as the kernel asks.

    linear: not at all (Fayyaz et al. 2021, Eq. 6). kronecker: by the number of maps in the bin (Eq. 5), a constant for
    the gradient. linear_mean (not in the paper): by the sum of the bin's weights, at least 0.01.
    """
    if kernel == "linear":
        return weight_NT
    rank_NT, _ = ranked(bin_NT, counts_NT)
    share_NT = weight_NT if kernel == "linear_mean" else counts_NT.to(weight_NT.dtype)
    total_NT = torch.zeros_like(share_NT).scatter_add(1, rank_NT, share_NT)
    return weight_NT / total_NT.gather(1, rank_NT).clamp(min=WEIGHT_FLOOR)


def arranged(
    group: Grouping,
    lengths_N: Int[Tensor, " N"],
    blocks: int,
    bins_of_a_block: int,
    frames: int,
    order: sgs.Order,
    one_each: bool = False,
) -> Sampling:
    """Leave out empty bins and number the others, clip after clip, in the order asked for.

    Args:
        group: rows are the blocks of a clip, clip after clip.
        lengths_N: how many maps each clip has.
        blocks: blocks of each clip.
        frames: the maps of a clip, T; padding behind them is cut off.
        one_each: whether one map of each bin counts.
    """
    rank_MD, active_M = ranked(group.bins, group.counts)
    weight_MD = torch.where(group.counts, group.weights, torch.zeros_like(group.weights))
    if order == "time":
        rank_MD = rank_by_time(rank_MD, weight_MD.detach(), active_M)
    offset_M1 = bins_of_a_block * (torch.arange(len(active_M), device=active_M.device) % blocks)[:, None]
    assignment_MD = torch.where(group.counts, group.bins + offset_M1, -1)

    first_M = active_M.cumsum(0) - active_M
    # A map that does not count has weight 0; its slot must only exist, and its clip's first always does.
    spare_M = first_M.view(-1, blocks)[:, :1].expand(-1, blocks).flatten()
    slot_MD = torch.where(group.counts, first_M[:, None] + rank_MD, spare_M[:, None])
    active_N = active_M.view(-1, blocks).sum(dim=1)
    assignment_NT, weight_NT, slot_NT = (
        each.reshape(len(active_N), -1)[:, :frames] for each in (assignment_MD, weight_MD, slot_MD)
    )
    return Sampling(assignment_NT, weight_NT, slot_NT, active_N, lengths_N, one_each)


def rank_by_time(
    rank_NT: Int[Tensor, "N T"], weight_NT: Float[Tensor, "N T"], active_N: Int[Tensor, " N"]
) -> Int[Tensor, "N T"]:
    """Number the bins anew, by the weighted mean time of their maps."""
    time_T = torch.arange(rank_NT.shape[1], device=rank_NT.device)
    weight_NT = weight_NT.nan_to_num(nan=1.0)  # a clip that is not finite has one bin
    zeros_NT = torch.zeros_like(weight_NT)
    moment_NT = zeros_NT.scatter_add(1, rank_NT, weight_NT * time_T)
    total_NT = zeros_NT.scatter_add(1, rank_NT, weight_NT)
    mean_time_NT = torch.where(time_T < active_N[:, None], moment_NT / total_NT, torch.inf)
    ahead_NTT = mean_time_NT[:, None, :] < mean_time_NT[:, :, None]
    tied_NTT = (mean_time_NT[:, None, :] == mean_time_NT[:, :, None]) & (time_T < time_T[:, None])
    return (ahead_NTT | tied_NTT).sum(dim=2).gather(1, rank_NT)  # by counting: ONNX has no stable sort
