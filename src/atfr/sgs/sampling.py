"""From similarity embeddings to a sampling: which map goes into which output map, with which weight.

This composes the equations of `functional.py` and settles what the paper leaves open: clips whose maps are all alike,
clips without any weight, empty bins, and the order of the output maps.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from atfr.ragged import ClipLayout
from atfr.sgs import functional as sgs

EPSILON = 1e-4  # a map counts where its weight is larger; float32 places an edge of 128 bins within 2e-5
WEIGHT_FLOOR = 1e-2  # linear_mean divides by at least this much, so that its gradient stays bounded


@dataclass(frozen=True)
class Sampling:
    """What SGS does with a batch of N clips of T maps each.

    Attributes:
        assignment: the bin of each map, 0..B-1 in order of magnitude; -1 where the map is dropped.
        weights: the factor with which each map enters its output map; 0 where it is dropped.
        slots: the packed output map that each map is added to.
        layout: the number of active bins of each clip, as lengths of the packed output.
    """

    assignment: Int[Tensor, "N T"]
    weights: Float[Tensor, "N T"]
    slots: Int[Tensor, "N T"]
    layout: ClipLayout

    @property
    def active_bins(self) -> Int[Tensor, " N"]:
        """The number of bins that are not empty, A (the paper's B′), of each clip."""
        return self.layout.device_lengths(self.assignment.device)


def sample(
    embedding_NTL: Float[Tensor, "N T L"], num_bins: int, kernel: sgs.Kernel, top_edge: sgs.TopEdge, order: sgs.Order
) -> Sampling:
    """Group the maps of each clip by the magnitude of their embeddings.

    Magnitudes, bins and weights are float32 at least. Maps count where their weight exceeds 1e-4; a bin is active
    where a map counts. A clip whose magnitudes are all zero has maps that count as identical. Where no map of a clip
    has weight, its maps share one bin and are averaged. A magnitude that is not finite makes the weights of its clip
    NaN, and of no other clip. Waits for the device once, to learn the lengths.
    """
    magnitude_NT = sgs.magnitude(embedding_NTL if embedding_NTL.dtype == torch.float64 else embedding_NTL.float())
    largest_N1 = magnitude_NT.detach().amax(dim=1, keepdim=True)
    finite_N1 = largest_N1.isfinite()
    usable_N1 = (largest_N1 > 0) & finite_N1
    magnitude_NT = torch.where(usable_N1, magnitude_NT, torch.ones_like(magnitude_NT))
    top_NT = magnitude_NT == torch.where(usable_N1, largest_N1, 1.0)

    half_width_N = sgs.half_width(magnitude_NT, num_bins, top_edge)
    bin_NT = sgs.bin_of(magnitude_NT, half_width_N, num_bins)
    center_NT = sgs.bin_center(bin_NT, half_width_N)
    if top_edge == "center":  # to the last bit: the kernel has its kink there
        center_NT = torch.where(top_NT, magnitude_NT.detach(), center_NT)
    psi = sgs.kronecker_kernel if kernel == "kronecker" else sgs.linear_kernel
    weight_NT = psi(magnitude_NT, center_NT, half_width_N)

    counts_NT = weight_NT.detach() > EPSILON
    if top_edge == "paper":  # the largest lies on the outer edge, whatever the rounding
        counts_NT &= ~top_NT
    lost_N1 = ~counts_NT.any(dim=1, keepdim=True)
    weight_NT = torch.where(counts_NT, weight_NT, torch.zeros_like(weight_NT))
    weight_NT = normalized(weight_NT, counts_NT, bin_NT, num_bins, kernel)
    weight_NT = torch.where(lost_N1, torch.full_like(weight_NT, 1 / weight_NT.shape[1]), weight_NT)
    weight_NT = torch.where(finite_N1, weight_NT, torch.nan)
    bin_NT = torch.where(lost_N1, num_bins - 1, bin_NT)
    return arranged(bin_NT, weight_NT, counts_NT | lost_N1, num_bins, order)


def normalized(
    weight_NT: Float[Tensor, "N T"],
    counts_NT: Bool[Tensor, "N T"],
    bin_NT: Int[Tensor, "N T"],
    num_bins: int,
    kernel: sgs.Kernel,
) -> Float[Tensor, "N T"]:
    """Return the weights divided as the kernel asks.

    linear: not at all (Fayyaz et al. 2021, Eq. 6). kronecker: by the number of maps in the bin (Eq. 5), a constant for
    the gradient. linear_mean (not in the paper): by the sum of the bin's weights, at least 0.01.
    """
    if kernel == "linear":
        return weight_NT
    share_NT = weight_NT if kernel == "linear_mean" else counts_NT.to(weight_NT.dtype)
    total_NB = share_NT.new_zeros(len(share_NT), num_bins).scatter_add(1, bin_NT, share_NT)
    return weight_NT / total_NB.gather(1, bin_NT).clamp(min=WEIGHT_FLOOR)


def arranged(
    bin_NT: Int[Tensor, "N T"],
    weight_NT: Float[Tensor, "N T"],
    counts_NT: Bool[Tensor, "N T"],
    num_bins: int,
    order: sgs.Order,
) -> Sampling:
    """Leave out empty bins and number the others, clip after clip, in the order asked for."""
    count_NB = counts_NT.new_zeros(len(bin_NT), num_bins, dtype=torch.long).scatter_add(1, bin_NT, counts_NT.long())
    active_NB = count_NB > 0
    by_time = order == "time"
    rank_NB = rank_by_time(bin_NT, weight_NT.detach(), active_NB) if by_time else active_NB.cumsum(dim=1) - 1
    active_N = active_NB.sum(dim=1)
    first_N1 = (active_N.cumsum(0) - active_N)[:, None]
    # A map that does not count has weight 0; its slot must only exist, and its clip's first always does.
    slot_NT = first_N1 + torch.where(counts_NT, rank_NB.gather(1, bin_NT), 0)
    layout = ClipLayout(active_N.tolist(), active_N)
    return Sampling(torch.where(counts_NT, bin_NT, -1), weight_NT, slot_NT, layout)


def rank_by_time(
    bin_NT: Int[Tensor, "N T"], weight_NT: Float[Tensor, "N T"], active_NB: Bool[Tensor, "N B"]
) -> Int[Tensor, "N B"]:
    """Return the place of each active bin by the weighted mean time of its maps."""
    time_T = torch.arange(bin_NT.shape[1], device=bin_NT.device, dtype=weight_NT.dtype)
    weight_NT = weight_NT.nan_to_num(nan=1.0)  # a clip that is not finite has one bin
    zeros_NB = weight_NT.new_zeros(active_NB.shape)
    moment_NB = zeros_NB.scatter_add(1, bin_NT, weight_NT * time_T)
    total_NB = zeros_NB.scatter_add(1, bin_NT, weight_NT)
    mean_time_NB = torch.where(active_NB, moment_NB / total_NB, torch.inf)
    return mean_time_NB.argsort(dim=1, stable=True).argsort(dim=1)
