"""Depthwise 3D convolutions whose gradients are fast on CPUs.

On a CPU, PyTorch's gradients of depthwise 3D convolutions take most of a training step of X3D and EfficientNets: they
run in oneDNN's reference code, the forward pass in vectorised code. Both gradients are depthwise convolutions
themselves, and here that is how they are computed. Whole training steps get 1.2 to 1.9 times as fast
(benchmarks/depthwise.py). With a stride in height and width it does not pay, and PyTorch's own gradients are taken.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Triple = tuple[int, int, int]
ONES = (1, 1, 1)


class Conv3d(nn.Conv3d):
    """`torch.nn.Conv3d` in every respect, except that it trains faster on CPUs where it is depthwise."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if gains(input, weight, self.stride, self.padding, self.dilation, self.groups):
            return convolve(input, weight, bias, self.padding)  # type: ignore[arg-type]
        return super()._conv_forward(input, weight, bias)


def gains(input: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: int) -> bool:
    """Whether `convolve` does this convolution, and faster: depthwise, without stride, trained in float32 on a CPU."""
    if not (1 < groups == input.shape[1] == weight.shape[0] and (stride, dilation) == (ONES, ONES)):
        return False
    if not torch.is_grad_enabled() or not (input.requires_grad or weight.requires_grad):
        return False
    if (type(input), input.device.type) != (Tensor, "cpu") or {input.dtype, weight.dtype} != {torch.float32}:
        return False
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu") or not torch.backends.mkldnn.is_available():
        return False
    return isinstance(padding, tuple) and all(pad < size for pad, size in zip(padding, weight.shape[2:], strict=True))


def convolve(
    input: Float[Tensor, "N C T H W"],
    weight: Float[Tensor, "C 1 t h w"],
    bias: Float[Tensor, " C"] | None,
    padding: Triple,
) -> Float[Tensor, "N C T2 H2 W2"]:
    """Convolve each channel with its own kernel: `conv3d` with as many groups as channels.

    Args:
        padding: zeros around, in time, height and width; fewer than the kernel is long.
    """
    output = _Convolution.apply(input, weight, padding)
    return output if bias is None else output + bias.view(-1, 1, 1, 1)


class _Convolution(torch.autograd.Function):
    """The convolution without bias; its gradients are made of differentiable operations."""

    generate_vmap_rule = True

    @staticmethod
    def forward(input: Tensor, weight: Tensor, padding: Triple) -> Tensor:
        return F.conv3d(input, weight, padding=padding, groups=len(weight))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Triple], output: Tensor) -> None:
        input, weight, ctx.padding = inputs
        ctx.save_for_backward(input, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        input, weight = ctx.saved_tensors
        for_input = gradient_of_input(gradient, weight, ctx.padding) if ctx.needs_input_grad[0] else None
        for_weight = gradient_of_weight(gradient, input, ctx.padding) if ctx.needs_input_grad[1] else None
        return for_input, for_weight, None


def gradient_of_input(
    gradient: Float[Tensor, "N C T2 H2 W2"], weight: Float[Tensor, "C 1 t h w"], padding: Triple
) -> Float[Tensor, "N C T H W"]:
    """Convolve the gradient with the kernel turned round."""
    around = [size - 1 - pad for size, pad in zip(weight.shape[2:], padding, strict=True)]
    return F.conv3d(gradient, weight.flip(2, 3, 4), padding=around, groups=len(weight))


def gradient_of_weight(
    gradient: Float[Tensor, "N C T2 H2 W2"], input: Float[Tensor, "N C T H W"], padding: Triple
) -> Float[Tensor, "C 1 t h w"]:
    """Convolve the input with the gradient, each channel of each clip with its own; sum over clips."""
    kernels = gradient.flatten(0, 1).unsqueeze(1)
    met = F.conv3d(input.flatten(0, 1).unsqueeze(0), kernels, padding=padding, groups=len(kernels))
    return met.unflatten(1, input.shape[:2]).sum((0, 1)).unsqueeze(1)
