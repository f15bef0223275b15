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
