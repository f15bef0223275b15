"""Maps in memory: where channels lie innermost (channels last), PyTorch reduces faster over rows of channels.

N batch, C channels, T frames, H, W.
"""

import torch
from jaxtyping import Float
from torch import Tensor


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

    A map of fewer positions a side is returned as it is. L is the number of cells. (PyTorch's average pooling takes
    three times as long.)
    """
    height, width = (-(-side // cells) for side in maps.shape[3:])
    sums = in_parts(in_parts(maps, 3, height), 4, width)
    rows, columns = (
        in_parts(maps.new_ones(side), 0, size) for side, size in zip(maps.shape[3:], (height, width), strict=True)
    )
    return (sums / (rows[:, None] * columns)).flatten(3)


def in_parts(maps: Tensor, dim: int, size: int) -> Tensor:
    """Return the sums of so many neighbours along an axis each, of fewer in the last part."""
    whole = maps.shape[dim] // size * size
    sums = maps.narrow(dim, 0, whole).unflatten(dim, (whole // size, size)).sum(dim + 1)
    if whole == maps.shape[dim]:
        return sums
    return torch.cat([sums, maps.narrow(dim, whole, maps.shape[dim] - whole).sum(dim, keepdim=True)], dim)
