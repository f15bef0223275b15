"""Two functions with which networks and users write forwards that are right on plain clips and on packed ones.

`each_clip` is for operations across time that `PackedClips` does not know, such as attention; `cat_clips` joins
pathways whose clips may have come to different lengths.

N batch, C channels, T frames, A maps of one clip, S maps of all clips, H, W.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from atfr.errors import InputError, UnsupportedOperationError
from atfr.ragged.layout import ClipLayout
from atfr.ragged.operations import packed_like
from atfr.ragged.packed import TIME, PackedClips


def each_clip(func: Callable[..., Tensor], *tensors: Float[Tensor, "N _ T _ _"]) -> Float[Tensor, "N _ T2 _ _"]:
    """Call a function that mixes the times of a clip so that it never mixes clips.

    Use it in a forward that runs behind a sampler, for what `PackedClips` does not know. Autograd goes through it.

    Args:
        func: Gets as many tensors as are given here and returns one, N x C x T x H x W each. On packed clips it is
            called once a clip, with N = 1 and ordinary tensors; on plain ones once, with all N clips, which it must
            keep apart as any layer does. It may change channels, sizes and, clip by clip, lengths.
        tensors: All plain, or all packed with the same lengths; channels, heights and widths may differ.

    Returns:
        What the function returns; of packed clips its results packed again.

    Raises:
        UnsupportedOperationError: Plain and packed tensors together, or packed ones of different lengths.
        InputError: The function's result for a clip is no 1 x C x A x H x W with A >= 1.

    Examples:
        >>> def reverse(clip):  # N x C x T x H x W, in every network's forward
        ...     return clip.flip(2)
        >>> packed = PackedClips.pack([torch.zeros(8, 3, 4, 4), torch.zeros(8, 5, 4, 4)])
        >>> each_clip(reverse, packed).lengths
        (3, 5)
    """
    if not any(isinstance(tensor, PackedClips) for tensor in tensors):
        return func(*tensors)
    lengths = [tensor.lengths if isinstance(tensor, PackedClips) else "plain" for tensor in tensors]
    packed = [tensor for tensor in tensors if isinstance(tensor, PackedClips)]
    if len(set(lengths)) > 1:
        raise UnsupportedOperationError(
            f"each_clip got tensors whose clips do not match, of lengths {', '.join(map(str, lengths))}: all must be "
            "packed with the same lengths, as are tensors from one place of the network"
        )
    parts = [tensor.plain().split(tensor.lengths, dim=TIME) for tensor in packed]
    results = [func(*clip) for clip in zip(*parts, strict=True)]
    for result in results:
        if not isinstance(result, Tensor) or result.dim() != 5 or result.shape[0] != 1 or result.shape[TIME] < 1:
            got = f"shape {tuple(result.shape)}" if isinstance(result, Tensor) else type(result).__name__
            raise InputError(
                "the function given to each_clip must return a tensor 1 x C x A x H x W with A >= 1 for each clip, got "
                f"{got}; pool over time behind each_clip, with mean((2, 3, 4))"
            )
    return packed_like(torch.cat(results, dim=TIME), ClipLayout([result.shape[TIME] for result in results]))


def cat_clips(tensors: Sequence[Float[Tensor, "_ _ _ H W"]]) -> Float[Tensor, "N C T H W"]:
    """Join the channels of tensors clip by clip; a shorter clip is zero-padded at its end to the longest.

    The zero-padding is that of Fayyaz et al. 2021 at SlowFast's lateral connections. Lengths may be symbols of
    `torch.export`.

    Args:
        tensors: Plain or packed, also mixed, with the same number of clips, height and width.

    Returns:
        Packed clips if one of the tensors is packed, else a plain tensor.

    Examples:
        >>> packed = PackedClips.pack([torch.zeros(8, 3, 4, 4), torch.zeros(8, 5, 4, 4)])
        >>> cat_clips([packed, torch.zeros(2, 1, 4, 4, 4)]).lengths
        (4, 5)
    """
    if any(isinstance(tensor, PackedClips) for tensor in tensors):
        return torch.cat([_packed(tensor) for tensor in tensors], dim=1)
    longest: Any = tensors[0].shape[TIME]  # a number, or a symbol of torch.export
    for tensor in tensors[1:]:
        longest = torch.sym_max(longest, tensor.shape[TIME])
    return torch.cat([_lengthened(tensor, longest) for tensor in tensors], dim=1)


def _packed(clips: Float[Tensor, "N C T H W"]) -> PackedClips:
    """Lay plain clips end to end."""
    if isinstance(clips, PackedClips):
        return clips
    count, _, length = clips.shape[:3]
    return packed_like(clips.transpose(0, 1).flatten(1, 2).unsqueeze(0), ClipLayout([length] * count))


def _lengthened(clips: Float[Tensor, "N C T H W"], length: int) -> Float[Tensor, "N C T2 H W"]:
    """Put maps of zeros behind plain clips; without a copy where there is nothing to add."""
    missing = length - clips.shape[TIME]
    if not torch.compiler.is_compiling() and missing == 0:  # a symbolic length cannot be asked
        return clips
    return F.pad(clips, (0, 0, 0, 0, 0, missing))
