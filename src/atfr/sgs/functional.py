"""The equations of Similarity Guided Sampling as pure functions, one each (Fayyaz et al. 2021, arXiv 2011.08652).

N batch, C channels, T maps in, B bins, H, W, L similarity dimension, S maps out (all clips of the batch together).
Bins are numbered 0..B-1 here, 1..B in the paper. This file knows of no module and no parameter.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Kernel = Literal["linear", "linear_mean", "kronecker"]
TopEdge = Literal["center", "paper"]
Order = Literal["magnitude", "time"]


def magnitude(embedding_NTL: Float[Tensor, "N T L"]) -> Float[Tensor, "N T"]:
    """Return the length of each embedding vector, Delta_t = ||Z_t||.

    Source: Fayyaz et al. 2021, Eq. (1).
    """
    return torch.linalg.vector_norm(embedding_NTL, dim=-1)


def half_width(magnitude_NT: Float[Tensor, "N T"], num_bins: int, top_edge: TopEdge) -> Float[Tensor, " N"]:
    """Return half of a bin's width, gamma, for each clip; the bins are constants for the gradient.

    Source: Fayyaz et al. 2021, Eq. (2), gamma = Delta_max / (2 B): `top_edge="paper"`.
    Deviates: with `top_edge="center"` gamma = Delta_max / (2 B - 1), so that the largest magnitude lies at the centre
    of the last bin; read literally it lies on its outer edge, where every kernel is zero, and its map is always lost.
    """
    largest_N = magnitude_NT.detach().amax(dim=1)
    return largest_N / (2 * num_bins - 1 if top_edge == "center" else 2 * num_bins)


def bin_of(magnitude_NT: Float[Tensor, "N T"], half_width_N: Float[Tensor, " N"], num_bins: int) -> Int[Tensor, "N T"]:
    """Return the bin that each magnitude falls into.

    Bins are half-open, [center - half_width, center + half_width), the last one closed: a map belongs to one bin.
    """
    bin_NT = torch.floor(magnitude_NT.detach() / (2 * half_width_N[:, None])).long()
    return bin_NT.clamp(0, num_bins - 1)


def bin_center(bin_NT: Int[Tensor, "N T"], half_width_N: Float[Tensor, " N"]) -> Float[Tensor, "N T"]:
    """Return the centre of a bin, beta_b = (2 b - 1) gamma with b counted from 1.

    Source: Fayyaz et al. 2021, Eq. (3).
    """
    return (2 * bin_NT + 1) * half_width_N[:, None]


def linear_kernel(
    magnitude_NT: Float[Tensor, "N T"], center_NT: Float[Tensor, "N T"], half_width_N: Float[Tensor, " N"]
) -> Float[Tensor, "N T"]:
    """Return the weight of each map in its bin, max(0, 1 - |Delta_t - beta_b| / gamma).

    Source: Fayyaz et al. 2021, Eq. (6); its gradient in Delta_t is Eq. (8) times 1/gamma, +1/gamma at the centre.
    """
    offset_NT = (magnitude_NT - center_NT) / half_width_N[:, None]
    return torch.where(offset_NT <= 0, 1 + offset_NT, 1 - offset_NT).clamp(min=0)


def kronecker_kernel(
    magnitude_NT: Float[Tensor, "N T"], center_NT: Float[Tensor, "N T"], half_width_N: Float[Tensor, " N"]
) -> Float[Tensor, "N T"]:
    """Return 1 for a map in its bin.

    Source: Fayyaz et al. 2021, the delta of Eq. (5).
    Deviates: the delta has no gradient in Delta_t, so the backward pass takes that of the linear kernel
    (straight-through).
    """
    linear_NT = linear_kernel(magnitude_NT, center_NT, half_width_N)
    return linear_NT + (1 - linear_NT).detach()


def aggregate(
    features_NCTHW: Float[Tensor, "N C T H W"],
    weight_NT: Float[Tensor, "N T"],
    slot_NT: Int[Tensor, "N T"],
    num_slots: int,
) -> Float[Tensor, "1 C S H W"]:
    """Return the output maps O_b = sum_t I_t Psi(Delta_t, beta_b) of all clips, end to end along time.

    A map belongs to one bin, so this is a weighted segment sum: work in T, not in B x T.

    Args:
        slot_NT: the output map that each input map is added to.
        num_slots: how many output maps there are.

    Source: Fayyaz et al. 2021, Eq. (4).
    """
    weighted_NTCHW = (features_NCTHW * weight_NT[:, None, :, None, None].to(features_NCTHW.dtype)).transpose(1, 2)
    out_SCHW = weighted_NTCHW.new_zeros(num_slots, *weighted_NTCHW.shape[2:])
    out_SCHW = out_SCHW.index_add(0, slot_NT.flatten(), weighted_NTCHW.flatten(0, 1))
    return out_SCHW.transpose(0, 1).unsqueeze(0)
