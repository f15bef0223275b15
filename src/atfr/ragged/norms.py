"""Normalisation and dropout that see a clip as a whole: each clip's own statistics, for all clips at once."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from atfr.errors import UnsupportedOperationError
from atfr.ragged.bucket import Bucket
from atfr.ragged.operations import OPERATIONS, Handler, by_name, packed_like, spread, without_override
from atfr.ragged.packed import PackedClips
from atfr.ragged.reductions import mean_over_time


def group_norm(
    func: Handler,
    input: PackedClips,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> PackedClips:
    """Normalise groups of channels with each clip's own statistics."""
    layout, maps = input.clip_layout, input.plain()
    grouped = (maps.float() if maps.dtype in (torch.float16, torch.bfloat16) else maps).unflatten(1, (num_groups, -1))

    def mean(values: Float[Tensor, "1 G c S H W"]) -> Float[Tensor, "1 G 1 S 1 1"]:
        of_clips = mean_over_time(values.mean((2, 4, 5))[..., None, None], layout)[:, :, 0, 0, 0]
        return of_clips[layout.clip_index(maps.device)].T[None, :, None, :, None, None]

    centred = grouped - mean(grouped)
    result = (centred * (mean(centred.square()) + eps).rsqrt()).flatten(1, 2)
    return packed_like(scaled(result, weight, bias).to(maps.dtype), layout)


def scaled(
    maps: Float[Tensor, "1 C S H W"], weight: Float[Tensor, " C"] | None, bias: Float[Tensor, " C"] | None
) -> Float[Tensor, "1 C S H W"]:
    """Multiply channels, and add to them, where a norm learns to."""
    maps = maps if weight is None else maps * weight.view(-1, 1, 1, 1)
    return maps if bias is None else maps + bias.view(-1, 1, 1, 1)


def batch_norm(
    func: Handler,
    input: PackedClips,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> PackedClips:
    """Normalise each channel; statistics are those of the real maps, so a clip weighs in by its length."""
    layout, maps = input.clip_layout, input.plain()
    if not (training and isinstance(layout, Bucket)):
        options = (running_mean, running_var, weight, bias, training, momentum, eps)
        return packed_like(without_override(func, input, *options), layout)
    wide = maps.float() if maps.dtype in (torch.float16, torch.bfloat16) else maps
    real = layout.real(maps.device).to(wide.dtype).view(1, 1, -1, 1, 1)
    count = real.sum() * maps.shape[3] * maps.shape[4]

    def mean(values: Float[Tensor, "1 C S H W"]) -> Float[Tensor, "1 C 1 1 1"]:
        return (values * real).sum((0, 2, 3, 4), keepdim=True) / count

    mean_C = mean(wide)
    centred = wide - mean_C
    variance_C = mean(centred.square())
    if running_mean is not None and running_var is not None:
        unbiased_C = variance_C.detach() * (count / (count - 1).clamp(min=1))
        running_mean.lerp_(mean_C.detach().flatten().to(running_mean.dtype), momentum)
        running_var.lerp_(unbiased_C.flatten().to(running_var.dtype), momentum)
    result = centred * (variance_C + eps).rsqrt()
    return packed_like(scaled(result, weight, bias).to(maps.dtype), layout)


def instance_norm(
    func: Handler,
    input: PackedClips,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *rest: Any,
) -> PackedClips:
    """Normalise each channel: with each clip's own statistics, or with running ones."""
    if not use_input_stats:
        options = (running_mean, running_var, weight, bias, False, momentum, eps, *rest)
        return packed_like(without_override(func, input, *options), input.clip_layout)
    if running_mean is not None:
        raise UnsupportedOperationError("operation 'instance_norm' that tracks running statistics, on packed clips")
    return group_norm(func, input, input.shape[1], weight, bias, eps)


def dropout3d(
    func: Handler, input: PackedClips, p: float = 0.5, training: bool = True, inplace: bool = False
) -> PackedClips:
    """Drop whole channels of a clip."""
    kept = F.dropout(input.plain().new_ones(len(input.clip_layout), input.shape[1], 1, 1, 1), p, training)
    met = spread(kept, input, func)
    return packed_like(without_override(input.mul_ if inplace else input.mul, met), input.clip_layout)


by_name(["group_norm"], group_norm)
by_name(["batch_norm"], batch_norm)
by_name(["dropout3d"], dropout3d)
OPERATIONS[F.instance_norm] = instance_norm
