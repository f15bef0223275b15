"""The equations of Similarity Guided Sampling as pure functions, one each (Fayyaz et al. 2021, arXiv 2011.08652).

N batch, C channels, T maps in, B bins, H, W, L similarity dimension, K coordinates that bins are made of, S maps out
(all clips of the batch together). What is written for the magnitude holds for any coordinate from 0 upwards (Eq. 9).
Bins are numbered 0..B-1 here, 1..B in the paper. This file knows of no module and no parameter.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from atfr.kernels.gpu import runs_triton
from atfr.kernels.weighted_sums import weighted_sums
from atfr.ragged.rows import channels_innermost

Kernel = Literal["linear", "linear_mean", "kronecker", "keep"]
"""How maps are weighed in their bin."""

TopEdge = Literal["center", "paper"]
"""Where the largest magnitude lies in the last bin."""

Order = Literal["magnitude", "time"]
"""The order of a clip's output maps."""

Similarity = Literal["magnitude", "angular", "spherical"]
"""What bins are made of."""

POLE = 1e-6  # a direction shorter than this has angle 0 and no gradient, which would grow without bound


def magnitude(embedding_NTL: Float[Tensor, "N T L"]) -> Float[Tensor, "N T"]:
    """Return the length of each embedding vector, Delta_t = ||Z_t||.

    Source: Fayyaz et al. 2021, Eq. (1).
    """
    return torch.linalg.vector_norm(embedding_NTL, dim=-1)


def angles(embedding_NTL: Float[Tensor, "N T L"]) -> Float[Tensor, "N T L-1"]:
    """Return the spherical coordinates of each embedding vector but for its radius.

    The angle between the vector without its first coordinates and the axis of the next one, from 0 to pi; the last,
    in the plane that is left, from 0 to 2 pi. Distance across its wrap is not modelled, as in the paper.

    Source: Fayyaz et al. 2021, Sec. 5.1 and appendix D.
    """
    found = []
    for axis in range(embedding_NTL.shape[-1] - 2):
        rest_NT = torch.linalg.vector_norm(embedding_NTL[..., axis + 1 :], dim=-1)
        found.append(angle(rest_NT, embedding_NTL[..., axis]))
    last_NT = angle(embedding_NTL[..., -1], embedding_NTL[..., -2])
    found.append(torch.where(last_NT < 0, last_NT + 2 * math.pi, last_NT))
    return torch.stack(found, dim=-1)


def angle(y_NT: Float[Tensor, "N T"], x_NT: Float[Tensor, "N T"]) -> Float[Tensor, "N T"]:
    """Return atan2(y, x), 0 and without gradient where both are next to nothing."""
    pole_NT = torch.linalg.vector_norm(torch.stack((y_NT, x_NT)).detach(), dim=0) < POLE  # runtimes have no hypot
    return torch.atan2(torch.where(pole_NT, 0.0, y_NT), torch.where(pole_NT, 1.0, x_NT))


def coordinates(embedding_NTL: Float[Tensor, "N T L"], similarity: Similarity) -> list[Float[Tensor, "N T"]]:
    """Return the K coordinates that maps are compared by: the radius, the L - 1 angles, or all L.

    Source: Fayyaz et al. 2021, appendix D, Eq. (9) and Table 1.
    """
    radius = [] if similarity == "angular" else [magnitude(embedding_NTL)]
    return radius + ([] if similarity == "magnitude" else list(angles(embedding_NTL).unbind(-1)))


def half_width(
    magnitude_NT: Float[Tensor, "N T"], num_bins_N: Int[Tensor, " N"], top_edge: TopEdge
) -> Float[Tensor, " N"]:
    """Return half of a bin's width, gamma, for each clip; the bins are constants for the gradient.

    Source: Fayyaz et al. 2021, Eq. (2), gamma = Delta_max / (2 B): `top_edge="paper"`.
    Deviates: with `top_edge="center"` gamma = Delta_max / (2 B - 1), so that the largest magnitude lies at the centre
    of the last bin; read literally it lies on its outer edge, where every kernel is zero, and its map is always lost.
    """
    largest_N = magnitude_NT.detach().amax(dim=1)
    return largest_N / (2 * num_bins_N - 1 if top_edge == "center" else 2 * num_bins_N)


def bin_of(
    magnitude_NT: Float[Tensor, "N T"], half_width_N: Float[Tensor, " N"], num_bins_N: Int[Tensor, " N"]
) -> Int[Tensor, "N T"]:
    """Return the bin that each magnitude falls into.

    Bins are half-open, [center - half_width, center + half_width), the last one closed: a map belongs to one bin.
    """
    bin_NT = torch.floor(magnitude_NT.detach() / (2 * half_width_N[:, None])).long()
    return bin_NT.clamp(min=0).minimum(num_bins_N[:, None] - 1)


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
    num_slots: int | torch.SymInt,
) -> Float[Tensor, "1 C S H W"]:
    """Return the output maps O_b = sum_t I_t Psi(Delta_t, beta_b) of all clips, end to end along time.

    A map belongs to one bin, so this is a weighted segment sum: work in T, not in B x T.

    Args:
        slot_NT: the output map that each input map is added to.
        num_slots: how many output maps there are.

    Source: Fayyaz et al. 2021, Eq. (4).
    """
    frames_NT = features_NCTHW.transpose(1, 2)  # N T, then a map as it lies in memory
    last = channels_innermost(features_NCTHW)
    frames_NT = frames_NT.movedim(2, 4) if last else frames_NT
    out_SD = weighted_sums(frames_NT.flatten(2).flatten(0, 1), weight_NT.flatten(), slot_NT.flatten(), num_slots)
    out_S = out_SD.unflatten(1, frames_NT.shape[2:])
    return (out_S.movedim(3, 1) if last else out_S).transpose(0, 1).unsqueeze(0)


def picked(
    features_NCTHW: Float[Tensor, "N C T H W"],
    weight_NT: Float[Tensor, "N T"],
    slot_NT: Int[Tensor, "N T"],
    num_slots: int,
) -> Float[Tensor, "1 C S H W"]:
    """Return what `aggregate` does where each output map is made of one map, and the others weigh 0: nothing is added.

    Work in S, not in T.
    """
    place_NT = torch.where(weight_NT != 0, slot_NT, num_slots)
    if runs_triton(features_NCTHW) and channels_innermost(features_NCTHW):
        return aggregate(features_NCTHW, weight_NT, place_NT, num_slots)  # which reads no more than is picked
    place_M = place_NT.flatten()
    maps_M = torch.arange(len(place_M), device=place_M.device)
    source_S = place_M.new_zeros(num_slots + 1).scatter(0, place_M, maps_M)[:-1]
    clip_S, time_S = source_S // slot_NT.shape[1], source_S % slot_NT.shape[1]
    out_SHWC = features_NCTHW.permute(0, 2, 3, 4, 1)[clip_S, time_S]
    weight_S111 = weight_NT.flatten()[source_S].to(features_NCTHW.dtype)[:, None, None, None]
    out_SHWC = out_SHWC * weight_S111 if weight_S111.requires_grad else out_SHWC.mul_(weight_S111)
    return out_SHWC[None].permute(0, 4, 1, 2, 3)
