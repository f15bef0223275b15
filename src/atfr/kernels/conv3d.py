"""Conv3d, which trains faster on CPUs, and depthwise on GPUs (`ragged_depthwise`).

oneDNN, which convolves on CPUs, is fast where a convolution has two axes and the channels of a pixel lie side by side
in memory (channels last). Its gradients of depthwise convolutions with three run in reference code, and in PyTorch's
own format it spends more time on rearranging maps than on convolving them. So here a convolution with three axes is
made of some with two, and one without any is a matrix product. Maps of all clips are one row of maps, whatever each
clip's length; a kernel over time is one over space for each of its taps, and what they give is added up over maps that
lie so far apart in a clip. Clips of one length and packed ones are the same thing, without a call for each clip.
Figures: docs/performance.md.

N batch, C channels, T frames, M maps of all clips, H, W, t h w kernel.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from atfr.kernels import ragged_depthwise
from atfr.private import is_recorded

Triple = tuple[int, int, int]
LAST = torch.channels_last_3d
ONES = (1, 1, 1)


class Conv3d(nn.Conv3d):
    """`torch.nn.Conv3d`, which trains faster on CPUs, and depthwise on GPUs.

    Results and gradients, also second ones, are those of `nn.Conv3d` but for rounding. Deviates where it convolves in
    its own way (`gains`): forward-mode differentiation goes through `nn.Conv3d` only.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.padding_mode == "zeros":
            return conv3d(input, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        return super()._conv_forward(input, weight, bias)


def conv3d(
    input: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> Tensor:
    """`torch.nn.functional.conv3d`, faster where a kernel of ours is; triples, or a padding in a word."""
    if type(input) is Tensor and ragged_depthwise.takes(input, weight, stride, padding, dilation, groups):
        return ragged_depthwise.depthwise_clips(input, weight, bias, None, stride, padding)
    if gains(input, weight, stride, padding, dilation, groups):
        return convolve(input, weight, bias, stride, padding, (input.shape[2],) * len(input))
    input, weight, stride, padding, dilation = around_faults(input, weight, stride, padding, dilation)
    return F.conv3d(input, weight, bias, stride, padding, dilation, groups)


def around_faults(
    input: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any
) -> tuple[Tensor, Tensor, Any, Any, Any]:
    """Return a convolution that is the same, and that oneDNN does rightly; triples, or a padding in a word.

    In half precision on CPUs (PyTorch 2.14, with AMX) it gives NaN or anything where a kernel over time of three
    channels meets padding alone beside a clip's only map: then what of the kernel meets that map is taken. Where a
    stride in time is longer than the kernel (SlowFast 4x16) it leaves results out or writes beyond them: then the maps
    that are seen are picked, which lie side by side.
    """
    as_it_is = input, weight, stride, padding, dilation
    time = weight.shape[2]
    if type(input) is not Tensor or input.device.type != "cpu" or torch.compiler.is_compiling():
        return as_it_is
    half = input.dtype in (torch.bfloat16, torch.float16) or torch.is_autocast_enabled("cpu")
    if not half or time == 1 or input.dim() != 5 or not isinstance(padding, tuple):
        return as_it_is
    count = (input.shape[2] + 2 * padding[0] - (time - 1) * dilation[0] - 1) // stride[0] + 1
    if stride[0] > time and count > 0:
        padded = F.pad(input, (0, 0, 0, 0, padding[0], padding[0]))
        begins, taps = (torch.arange(n, device=input.device) for n in (count, time))
        seen = padded.index_select(2, (begins[:, None] * stride[0] + taps * dilation[0]).flatten())
        return seen, weight, (time, *stride[1:]), (0, *padding[1:]), (1, *dilation[1:])
    if input.shape[2] == 1 and 2 * padding[0] == (time - 1) * dilation[0]:
        return input, weight[:, :, time // 2 : time // 2 + 1], stride, (0, *padding[1:]), dilation
    return as_it_is


def trains_here(input: Tensor) -> bool:
    """Whether these are clips or maps that a network trains on in float32, on a CPU with oneDNN."""
    return type(input) is Tensor and torch.is_grad_enabled() and runs_here(input)


def runs_here(input: Tensor) -> bool:
    """Whether these are plain maps in float32 on a CPU with oneDNN, and no graph of what runs is being made."""
    if type(input) is not Tensor or is_recorded() or torch.jit.is_tracing():  # which knows no autograd functions
        return False
    if (input.device.type, input.dtype) != ("cpu", torch.float32):
        return False
    return (
        not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
    )


def channels_last(clips: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N C T H W"]:
    """Return clips in the format in which `Conv3d` trains fastest: channels last on CPUs, elsewhere as they are."""
    return clips.contiguous(memory_format=LAST) if trains_here(clips) else clips


def gains(input: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: int) -> bool:
    """Whether `convolve` does this convolution, and faster than PyTorch.

    It does where time keeps its length. It is faster where the convolution is depthwise, and in channels last where the
    kernel is one map high or one pixel wide.
    """
    if not trains_here(input) or not (input.requires_grad or weight.requires_grad):
        return False
    if not convolves(input, weight, stride, padding, dilation, groups):
        return False
    if is_depthwise(weight, groups):
        return True
    time, height, width = weight.shape[2:]
    return groups == 1 and (time == 1 or height == width == 1) and input.is_contiguous(memory_format=LAST)


def gains_packed(input: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: int) -> bool:
    """Whether `convolve` is faster on packed clips than PyTorch's convolution on each of them.

    PyTorch does not ask oneDNN for a dense convolution of one small clip (of up to 20480 channels x maps x rows), and
    takes three times as long; as one row of maps all clips are large.
    """
    in_space_and_time = weight.shape[2] > 1 and weight[0, 0, 0].numel() > 1
    return (
        groups == 1
        and in_space_and_time
        and runs_here(input)
        and convolves(input, weight, stride, padding, dilation, groups)
    )


def convolves(input: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: int) -> bool:
    """Whether `convolve` does this convolution of maps in float32: time keeps its length."""
    time, height, width = weight.shape[2:]
    if weight.dtype != torch.float32 or input.dim() != 5:
        return False
    if not input.numel() or input.shape[1] != groups * weight.shape[1]:
        return False  # nothing, or an error: PyTorch's
    if not isinstance(padding, tuple) or (stride[0], dilation) != (1, ONES) or time != 2 * padding[0] + 1:
        return False
    return padding[1] < height and padding[2] < width


def is_depthwise(weight: Tensor, groups: int) -> bool:
    """Whether each channel is convolved with one kernel, its own."""
    return 1 < groups == weight.shape[0] and weight.shape[1] == 1


def convolve(
    input: Float[Tensor, "N C T H W"],
    weight: Float[Tensor, "C2 _ t h w"],
    bias: Float[Tensor, " C2"] | None,
    stride: Triple,
    padding: Triple,
    lengths: Sequence[int],
) -> Float[Tensor, "N C2 T H2 W2"]:
    """Convolve each clip: as `conv3d` does with these arguments, but that many clips may lie in one row.

    Args:
        weight: depthwise where there is one channel in each kernel and several come in.
        stride: 1 in time.
        padding: zeros around, which keep the length of time.
        lengths: of the clips that lie end to end in the N rows of T maps.

    Returns:
        A result in the memory format of the input.
    """
    clips = input.contiguous(memory_format=LAST)
    if weight.shape[2:] == ONES == stride and clips.shape[1] == weight.shape[1]:
        output = F.linear(clips.movedim(1, -1), weight.flatten(1)).movedim(-1, 1)
    elif weight.shape[3:] == (1, 1) and stride == ONES and len(lengths) == len(clips):
        output = over_time(clips, weight)
    else:
        output = _Convolution.apply(clips, weight, stride, padding, tuple(lengths))
    output = output if bias is None else output + bias.view(-1, 1, 1, 1)
    return output.contiguous(memory_format=LAST if clips is input else torch.contiguous_format)


class _Convolution(torch.autograd.Function):
    """The convolution without bias; its gradients are made of differentiable operations."""

    generate_vmap_rule = True

    @staticmethod
    def forward(clips: Tensor, weight: Tensor, stride: Triple, padding: Triple, lengths: Sequence[int]) -> Tensor:
        if is_depthwise(weight, clips.shape[1]):
            return depthwise(clips, weight, stride, padding, lengths)
        maps, taps, across = maps_of(clips), weight.unbind(2), (None, stride[1:], padding[1:])
        output = F.conv2d(maps, taps[padding[0]], *across)
        for tap, here, there, strangers in meetings(padding[0], lengths):
            if here != there:
                output[here] += F.conv2d(maps[there], taps[tap], *across).index_fill_(0, strangers, 0)
        return clips_of(output, len(clips))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        clips, weight, ctx.stride, ctx.padding, ctx.lengths = inputs
        ctx.save_for_backward(clips, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        clips, weight = ctx.saved_tensors
        needed = ctx.needs_input_grad[:2]
        return (*gradients(gradient, clips, weight, ctx.stride, ctx.padding, ctx.lengths, needed), None, None, None)


def gradients(
    gradient: Float[Tensor, "N C2 T H2 W2"],
    clips: Float[Tensor, "N C T H W"],
    weight: Float[Tensor, "C2 _ t h w"],
    stride: Triple,
    padding: Triple,
    lengths: Sequence[int],
    needed: tuple[bool, bool],
) -> tuple[Float[Tensor, "N C T H W"] | None, Float[Tensor, "C2 _ t h w"] | None]:
    """Return the gradients of clips and kernel, where needed.

    Without a stride, that of the clips of a depthwise convolution is one too, with the kernel turned round.
    """
    gradient = gradient.contiguous(memory_format=LAST)
    for_clips, groups = None, clips.shape[1] // weight.shape[1]
    of_clips, of_weight = needed
    if of_clips and stride == ONES and is_depthwise(weight, groups):
        around = [size - 1 - pad for size, pad in zip(weight.shape[2:], padding, strict=True)]
        for_clips, of_clips = depthwise(gradient, weight.flip(2, 3, 4), stride, around, lengths), False
    maps, maps_out, taps = maps_of(clips), maps_of(gradient), weight.unbind(2)
    for_maps: Tensor | None = None
    for_taps = [torch.zeros_like(tap) for tap in taps]
    for tap, here, there, strangers in meetings(padding[0], lengths) if of_clips or of_weight else ():
        part = maps_out[here].index_fill(0, strangers, 0) if len(strangers) else maps_out[here]
        arguments = (None, stride[1:], padding[1:], (1, 1), False, (0, 0), groups)
        to_maps, to_tap, _ = torch.ops.aten.convolution_backward(
            part, maps[there], taps[tap], *arguments, [of_clips, of_weight, False]
        )
        for_taps[tap] = to_tap
        if for_maps is None:
            for_maps = to_maps
        elif of_clips:
            for_maps[there] += to_maps
    if of_clips and for_maps is not None:
        for_clips = clips_of(for_maps, len(clips))
    # flattened, so that strides are those of the kernel also where a size is 1: DDP compares them
    return for_clips, torch.stack(for_taps, 2).flatten().view(weight.shape) if of_weight else None


def over_time(clips: Float[Tensor, "N C T H W"], weight: Float[Tensor, "C2 _ t 1 1"]) -> Float[Tensor, "N C2 T H W"]:
    """Convolve clips of one length over time alone: time and all pixels are the two axes."""
    groups = clips.shape[1] // weight.shape[1]
    output = F.conv2d(clips.flatten(3), weight.flatten(3), None, 1, (weight.shape[2] // 2, 0), 1, groups)
    return output.unflatten(3, clips.shape[3:])


def depthwise(
    clips: Float[Tensor, "N C T H W"],
    weight: Float[Tensor, "C 1 t h w"],
    stride: Triple,
    padding: Sequence[int],
    lengths: Sequence[int],
) -> Float[Tensor, "N C T H2 W2"]:
    """Convolve each channel with its own kernel, clip by clip where they lie in one row."""
    clips = clips_of(maps_of(clips), len(clips))  # unsqueeze(0) leaves a stride that oneDNN takes for another format
    parts = [clips] if len(lengths) == len(clips) else clips.split(list(lengths), 2)
    outputs = [F.conv3d(part, weight, None, stride, padding, groups=len(weight)) for part in parts]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 2)


def meetings(reach: int, lengths: Sequence[int]) -> Iterator[tuple[int, slice, slice, Int[Tensor, " _"]]]:
    """Say for each tap of a kernel over time which maps it brings together, the middle one first.

    Args:
        reach: maps that the kernel sees on each side.

    Yields:
        The tap; the maps of the output; the maps of the input that it adds to them; and which of these pairs, by their
        place, are of different clips.
    """
    total = sum(lengths)
    for shift in sorted(range(-reach, reach + 1), key=abs):
        apart = abs(shift)
        if apart < max(lengths):
            ends = list(accumulate(lengths))[:-1]
            first = {place for end in ends for place in range(max(0, end - apart), min(end, total - apart))}
            here, there = slice(max(0, -shift), total - max(0, shift)), slice(max(0, shift), total + min(0, shift))
            yield reach + shift, here, there, torch.tensor(sorted(first), dtype=torch.long)


def maps_of(clips: Float[Tensor, "N C T H W"]) -> Float[Tensor, "M C H W"]:
    """Return all maps in a row; in channels last without a copy."""
    return clips.transpose(1, 2).flatten(0, 1)


def clips_of(maps: Float[Tensor, "M C H W"], count: int) -> Float[Tensor, "N C T H W"]:
    """Return a row of maps as so many clips of one length."""
    return maps.unflatten(0, (count, -1)).transpose(1, 2)


class ClipConv3d(Conv3d):
    """A convolution with one of two paddings that Conv3d does not know, or both.

    Args:
        same: pad height and width so that a stride s gives size / s, rounded up, as TensorFlow does: by the size of the
            input, and at the bottom and right more than at the top and left where it is odd.
        hold: pad time by repeating the first and the last map of a clip so often.
        arguments: as for `torch.nn.Conv3d`; its padding is added to these.
    """

    def __init__(self, *arguments: Any, same: bool = False, hold: int = 0, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.same, self.hold = same, hold

    def forward(self, input: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N C2 T2 H2 W2"]:
        """The convolved maps."""
        if self.same:
            around = [0, 0, 0, 0]  # left, right, top, bottom
            for axis, at in ((3, 2), (4, 0)):
                size, stride = input.shape[axis], self.stride[axis - 2]
                reach = (self.kernel_size[axis - 2] - 1) * self.dilation[axis - 2] + 1
                missing = max((-(-size // stride) - 1) * stride + reach - size, 0)
                around[at], around[at + 1] = missing // 2, missing - missing // 2
            input = F.pad(input, around) if any(around) else input
        if self.hold:
            input = F.pad(input, (0, 0, 0, 0, self.hold, self.hold), mode="replicate")
        return super().forward(input)

    def extra_repr(self) -> str:
        """What Conv3d says, and the paddings."""
        return f"{super().extra_repr()}, same={self.same}, hold={self.hold}"
