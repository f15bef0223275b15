"""Maps in memory: where channels lie innermost (channels last), PyTorch reduces faster over rows of channels.

N batch, C channels, T frames, H, W.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def channels_innermost(maps: Float[Tensor, "N C T H W"]) -> bool:
    """Whether a position's channels are neighbours in memory; not asked in an export, where sizes are symbols."""
    return not torch.compiler.is_compiling() and maps.stride(1) == 1


def mean_over_space(maps: Float[Tensor, "N C T H W"], dtype: torch.dtype | None = None) -> Float[Tensor, "N C T"]:
    """Return the mean of each map over height and width.

    `maps.mean((3, 4))` takes nine times as long where channels are innermost (benchmarks/inference.py).
    """
    if not channels_innermost(maps):
        return maps.mean((3, 4), dtype=dtype)
    return maps.permute(0, 2, 3, 4, 1).flatten(2, 3).mean(2, dtype=dtype).transpose(1, 2)


def mean_over_cells(maps: Float[Tensor, "N C T H W"], cells: int) -> Float[Tensor, "N C T L"]:
    """Return the means of each map in about so many cells a side, all of one size but for the last of a row or column.

    A map of fewer positions a side is returned as it is. L is the number of cells.
    """
    kernel = [-(-side // cells) for side in maps.shape[3:]]
    if channels_innermost(maps):  # as pictures whose channels are innermost: four times as fast
        pictures = maps.transpose(1, 2).flatten(0, 1)
        means = F.avg_pool2d(pictures, kernel, ceil_mode=True, count_include_pad=False)
        return means.unflatten(0, (maps.shape[0], maps.shape[2])).transpose(1, 2).flatten(3)
    means = F.avg_pool2d(maps.flatten(1, 2), kernel, ceil_mode=True, count_include_pad=False)
    return means.unflatten(1, (maps.shape[1], maps.shape[2])).flatten(3)
