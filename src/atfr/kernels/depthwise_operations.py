"""The kernels of `ragged_depthwise` as operations of PyTorch's, which recorded and compiled graphs hold.

A kernel that is launched is not seen by what records a graph; an operation is, with the form of its result and its
gradient. Imported only where a graph is recorded.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from atfr.kernels import ragged_depthwise as kernels


@torch.library.custom_op("atfr::ragged_depthwise", mutates_args=())
def convolve(
    maps: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    begins: Tensor,
    ends: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    activation: str,
    back_to: Sequence[int],
) -> Tensor:
    """`ragged_depthwise.convolve`; an empty activation or `back_to` is none."""
    pair: Any = tuple(stride)
    height_width: Any = tuple(back_to) or None
    return kernels.convolve(maps, weight, bias, begins, ends, pair, tuple(padding), activation or None, height_width)


@convolve.register_fake
def _(
    maps: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    begins: Tensor,
    ends: Tensor,
    stride: Any,
    padding: Any,
    activation: str,
    back_to: Sequence[int],
) -> Tensor:
    height, width = back_to or kernels.sizes(maps.shape, weight.shape[2:], stride, padding)
    return maps.new_empty(maps.shape[0], height, width, maps.shape[1]).permute(0, 3, 1, 2)


@torch.library.custom_op("atfr::ragged_depthwise_weight", mutates_args=())
def of_weight(
    gradient: Tensor,
    maps: Tensor,
    shape: Sequence[int],
    begins: Tensor,
    ends: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
) -> Tensor:
    """`ragged_depthwise.of_weight_gradient`, in float32."""
    pair: Any = tuple(stride)
    return kernels.of_weight_gradient(gradient, maps, torch.Size(shape), begins, ends, pair, tuple(padding))


@of_weight.register_fake
def _(
    gradient: Tensor, maps: Tensor, shape: Sequence[int], begins: Tensor, ends: Tensor, stride: Any, padding: Any
) -> Tensor:
    return maps.new_empty(shape, dtype=torch.float32)


def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Keep what the gradient needs."""
    maps, weight, bias, begins, ends, ctx.stride, ctx.padding, activation, back_to = inputs
    if bias is not None or activation or back_to:
        raise NotImplementedError("gradients of ragged_depthwise with a bias, an activation or of a gradient")
    ctx.save_for_backward(maps, weight, begins, ends)


def gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradients of maps and kernel."""
    maps, weight, begins, ends = ctx.saved_tensors
    of_maps, of_kernel, window = None, None, (ctx.stride, ctx.padding)
    if ctx.needs_input_grad[0]:
        of_maps = convolve(gradient, weight, None, begins, ends, *window, "", list(maps.shape[2:]))
    if ctx.needs_input_grad[1]:
        of_kernel = of_weight(gradient, maps, list(weight.shape), begins, ends, *window).to(weight.dtype)
    return of_maps, of_kernel, *([None] * 7)


convolve.register_autograd(gradients, setup_context=keep)
