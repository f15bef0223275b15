"""Depthwise convolution of clips of any lengths in one kernel (Triton), for GPUs.

PyTorch's depthwise convolutions with three axes are slow there in half precision, forward and backward
(pytorch#110885, #37406), and know one length of clips. This one goes over all maps of a batch in a row; of each it
knows where its clip begins and ends, and what lies beyond counts as zeros. Bias and activation are part of it. Its work
is that of memory: each map is read once from there, and for the other taps from the caches.

S maps of all clips, C channels, H, W, t h w kernel.
"""

import functools
import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from atfr.kernels.gpu import TYPES, runs_triton
from atfr.private import is_recorded

Pair = tuple[int, int]
Window = tuple[Pair, tuple[int, int, int]]
"""Stride in height and width; padding in time, height and width."""

PARTS = 256
"""In which a batch is multiplied with its gradient, about; the sums over them are added up."""
ACTIVATIONS = {"relu": F.relu, "silu": F.silu, "relu6": F.relu6}


def takes(maps: Tensor, weight: Tensor, stride: Sequence[int], padding: Any, dilation: Any, groups: int) -> bool:
    """Whether `ragged_depthwise` does this convolution, and faster than PyTorch: on CUDA, in the types of networks."""
    if not runs_triton(maps) or maps.dim() != 5 or weight.dtype not in TYPES:
        return False
    if maps.dtype != weight.dtype and not torch.is_autocast_enabled("cuda"):
        return False  # PyTorch's error
    return fits(maps, weight, stride, padding, dilation, groups)


def fits(maps: Tensor, weight: Tensor, stride: Sequence[int], padding: Any, dilation: Any, groups: int) -> bool:
    """Whether a convolution is depthwise, keeps the length of time, and pads with less than its kernel."""
    depthwise = groups == maps.shape[1] == weight.shape[0] and weight.shape[1] == 1
    if not depthwise or isinstance(padding, str) or tuple(dilation) != (1, 1, 1) or stride[0] != 1:
        return False
    kernel = weight.shape[2:]
    return kernel[0] == 2 * padding[0] + 1 and all(p < k for p, k in zip(padding, kernel, strict=True))


def ragged_depthwise(
    maps: Float[Tensor, "S C H W"],
    weight: Float[Tensor, "C 1 t h w"],
    bias: Float[Tensor, " C"] | None,
    begins: Int[Tensor, " S"],
    ends: Int[Tensor, " S"],
    window: Window,
    activation: str | None = None,
) -> Float[Tensor, "S C H2 W2"]:
    """Convolve each channel of each clip with its own kernel, over time and space; zeros around, as long as before.

    Args:
        begins, ends: of each map, the first map of its clip and the one behind its last, as int32.
        window: stride 1 in time; a padding that keeps the length of time.
        activation: what follows.

    Returns:
        Maps with channels innermost, in the type of the maps; sums are in float32.
    """
    (stride, padding), in_a_graph = window, is_recorded() or torch.compiler.is_compiling()
    if activation or not (
        torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (maps, weight, bias))
    ):
        if in_a_graph:
            return recorded(maps, weight, bias, begins, ends, window=window, activation=activation)
        return convolve(maps, weight, bias, begins, ends, stride, padding, activation)
    if in_a_graph:
        output = recorded(maps, weight, None, begins, ends, window=window)
    else:
        output = _Depthwise.apply(maps, weight, begins, ends, stride, padding)
    output = output if bias is None else output + bias.view(-1, 1, 1)
    return ACTIVATIONS[activation](output) if activation else output


def depthwise_clips(
    clips: Float[Tensor, "N C T H W"],
    weight: Float[Tensor, "C 1 t h w"],
    bias: Float[Tensor, " C"] | None,
    bounds: tuple[Int[Tensor, " S"], Int[Tensor, " S"]] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    activation: str | None = None,
) -> Float[Tensor, "N C T H2 W2"]:
    """`ragged_depthwise` of clips: packed ones (N = 1), whose bounds are given, or those of one length.

    Under autocast in its type, as PyTorch's convolutions.
    """
    if torch.is_autocast_enabled(clips.device.type):
        dtype = torch.get_autocast_dtype(clips.device.type)
        clips, weight, bias = clips.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    if bounds is None:
        kept = bounds_of.__wrapped__ if torch.compiler.is_compiling() else bounds_of
        bounds = kept(clips.shape[0], clips.shape[2], clips.device)
    maps = clips.transpose(1, 2).flatten(0, 1)  # channels last, without a copy
    window: Any = tuple(stride[1:]), tuple(padding)
    output = ragged_depthwise(maps, weight, bias, *bounds, window, activation)
    return output.unflatten(0, (len(clips), -1)).transpose(1, 2)


@functools.lru_cache(maxsize=64)
def bounds_of(count: int, length: int, device: torch.device) -> tuple[Int[Tensor, " S"], Int[Tensor, " S"]]:
    """Return where each clip of one length begins and ends, for each map."""
    with nullcontext() if torch.compiler.is_compiling() else torch.inference_mode(False):
        begins = torch.arange(count, device=device, dtype=torch.int32).repeat_interleave(length) * length
    return begins, begins + length


def twin(
    maps: Float[Tensor, "S C H W"],
    weight: Float[Tensor, "C 1 t h w"],
    bias: Float[Tensor, " C"] | None,
    begins: Int[Tensor, " S"],
    ends: Int[Tensor, " S"],
    window: Window,
    activation: str | None = None,
) -> Float[Tensor, "S C H2 W2"]:
    """`ragged_depthwise` in plain PyTorch: a convolution over space for each tap in time."""
    (stride, (reach, *around)), places = window, torch.arange(len(maps), device=maps.device)
    output: Any = None if bias is None else bias.view(-1, 1, 1)
    for tap, kernel in enumerate(weight.unbind(2)):
        there = places + tap - reach
        inside = (there >= begins) & (there < ends)
        seen = torch.where(inside[:, None, None, None], maps[there.clamp(0, len(maps) - 1)], 0.0)
        part = F.conv2d(seen, kernel, None, stride, around, groups=len(weight))
        output = part if output is None else output + part
    return ACTIVATIONS[activation](output) if activation else output


class _Depthwise(torch.autograd.Function):
    """The convolution without bias and activation, with its gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        maps: Tensor,
        weight: Tensor,
        begins: Tensor,
        ends: Tensor,
        stride: Pair,
        padding: tuple[int, int, int],
    ) -> Tensor:
        ctx.save_for_backward(maps, weight, begins, ends)
        ctx.stride, ctx.padding = stride, padding
        return convolve(maps, weight, None, begins, ends, stride, padding, None)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        maps, weight, begins, ends = ctx.saved_tensors
        needed, options = ctx.needs_input_grad[:2], (begins, ends, ctx.stride, ctx.padding)
        if torch.is_grad_enabled():  # second gradients are asked for: those of plain PyTorch
            wanted = [x for x, asked in zip((maps, weight), needed, strict=True) if asked]
            output = twin(maps, weight, None, begins, ends, (ctx.stride, ctx.padding))
            found = iter(torch.autograd.grad(output, wanted, gradient, create_graph=True))
            return (*(next(found) if asked else None for asked in needed), None, None, None, None)
        of_maps = convolve(gradient, weight, None, *options, back_to=maps.shape[2:]) if needed[0] else None
        of_weight = of_weight_gradient(gradient, maps, weight.shape, *options) if needed[1] else None
        return of_maps, None if of_weight is None else of_weight.to(weight.dtype), None, None, None, None


def innermost(maps: Float[Tensor, "S C H W"]) -> Float[Tensor, "S H W C"]:
    """Return maps as they lie in memory with channels innermost; a copy where they do not."""
    return maps.permute(0, 2, 3, 1).contiguous()


def sizes(maps: Sequence[int], kernel: Sequence[int], stride: Pair, padding: Sequence[int]) -> Pair:
    """Return height and width of the result."""
    height, width = (
        (n + 2 * p - k) // s + 1 for n, k, s, p in zip(maps[2:], kernel[1:], stride, padding[1:], strict=True)
    )
    return height, width


def blocks(channels: int, pixels: int) -> Pair:
    """Return how many pixels and channels one program takes."""
    of_channels = min(power_of_2(channels), 64)
    return min(power_of_2(pixels), max(16, 1024 // of_channels)), of_channels


def units(channels: int) -> Pair:
    """Return how many units of channels there are, and the largest size of theirs that is a power of 2, up to 16."""
    size = math.gcd(channels, 16)
    return channels // size, size


def power_of_2(number: int) -> int:
    """Return the least power of 2 that is no less."""
    return 1 << (number - 1).bit_length()


def parts_of(number: int, size: int) -> int:
    """Return how many parts of a size a number has, the last of which may be smaller."""
    return -(-number // size)


def convolve(
    maps: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    begins: Tensor,
    ends: Tensor,
    stride: Pair,
    padding: Any,
    activation: str | None = None,
    back_to: Pair | None = None,
) -> Tensor:
    """Launch the kernel that convolves; back to maps of a height and width, where it is their gradient."""
    laid, channels = innermost(maps), maps.shape[1]
    taps = weight.flatten(1).T.contiguous()  # channels side by side
    height, width = back_to or sizes(maps.shape, weight.shape[2:], stride, padding)
    output = laid.new_empty(len(maps), height, width, channels)
    block = blocks(channels, height * width)
    grid = (len(maps) * parts_of(height * width, block[0]), parts_of(channels, block[1]))
    window = (*weight.shape[2:], *stride, *padding)
    how = (back_to is not None, bias is not None, activation or "none")
    spaces = (*laid.shape[1:3], height, width, *units(channels))
    with torch.cuda.device_of(maps):
        triton_kernels().gather[grid](
            laid, taps, taps if bias is None else bias, output, begins, ends, *spaces, *window, *how, *block
        )
    return output.permute(0, 3, 1, 2)


def of_weight_gradient(
    gradient: Tensor, maps: Tensor, shape: torch.Size, begins: Tensor, ends: Tensor, stride: Pair, padding: Any
) -> Tensor:
    """Launch the kernel that multiplies maps with gradients; sums over parts of the batch are added up here."""
    laid, of_output, channels, taps = innermost(maps), innermost(gradient), maps.shape[1], shape[2:].numel()
    rows = of_output[..., 0].numel()
    block = blocks(channels, rows)
    steps = power_of_2(parts_of(rows, PARTS * block[0]))  # few numbers, since the kernel is compiled for each
    parts = parts_of(rows, steps * block[0])
    sums = laid.new_empty(parts, taps, channels, dtype=torch.float32)
    spaces = (*laid.shape[1:3], *of_output.shape[1:3], *units(channels))
    with torch.cuda.device_of(maps):
        triton_kernels().weight_gradient[(taps, parts_of(channels, block[1]), parts)](
            laid, of_output, sums, begins, ends, rows, *spaces, *shape[3:], *stride, *padding, steps, *block
        )
    return sums.sum(0).T.reshape(shape)


def recorded(*maps_to_ends: Tensor | None, window: Window, activation: str | None = None) -> Tensor:
    """Do what `convolve` does by an operation that a graph can hold; with its gradient, if that is all.

    Args:
        maps_to_ends: the first five arguments of `convolve`.
    """
    from atfr.kernels.depthwise_operations import convolve

    operation: Any = convolve
    return operation(*maps_to_ends, *map(list, window), activation or "", [])


def triton_kernels() -> Any:
    """Return the module of the kernels, which imports Triton."""
    from atfr.kernels import triton_depthwise

    return triton_depthwise
