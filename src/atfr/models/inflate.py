"""inflate: a video network made from an image network, whose weights it starts with.

Source: Carreira & Zisserman 2017, https://arxiv.org/abs/1705.07750, "I3D": k x k kernels become t x k x k.

How it is done. Modules are exchanged one by one: Conv2d for Conv3d, BatchNorm2d for BatchNorm3d, and so on. The others
keep their class, their names, attributes and hooks, so SGS finds its place behind any of them. Whether the *forward* of
such a module suits clips is asked of torch.fx, which traces each module alone, its children as black boxes, in training
and in evaluation: every operation must be on the closed list of `atfr.models.forwards`. Most read the same for images
and clips; where one names the image's axes (``x.mean((2, 3))``, ``F.adaptive_avg_pool2d``), the module gets a forward
that torch.fx wrote down with that operation exchanged. Three other ways were not taken: frames folded into the batch
(packed clips behind SGS have no batch axis to fold into), functions exchanged at run time (that would reach into SGS as
well), and one trace of the whole network (no submodules would be left to put SGS behind).

On a clip of one image repeated, logits are those of the image network. With ``init="center"`` zero padding in time does
not touch that, since the slices of a kernel that reach into it are zeros. With ``init="average"`` it would, at the ends
of a clip; there the clip is padded in time by repeating its first and last map.
"""

import copy
import functools
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from atfr.adapt.meta import on_meta
from atfr.errors import InputError
from atfr.kernels.conv3d import ClipConv3d, Conv3d
from atfr.models.base import unknown_name
from atfr.models.forwards import ClipForward, check_input, forward_for_clips
from atfr.private import hooked
from atfr.ragged import PackedClips

Init = Literal["center", "average"]

SAME_STATE = {nn.BatchNorm2d: nn.BatchNorm3d, nn.Dropout2d: nn.Dropout3d, nn.InstanceNorm2d: nn.InstanceNorm3d}
"""Classes of which the one for clips differs in nothing but the number of axes that it checks."""

ANY_AXES = """Identity Flatten Linear Dropout AlphaDropout BatchNorm1d GroupNorm ZeroPad2d ConstantPad2d ReLU ReLU6
    LeakyReLU PReLU ELU SELU CELU GELU SiLU Mish Sigmoid LogSigmoid Tanh Tanhshrink Softplus Softsign Softshrink
    Hardshrink Hardtanh Hardswish Hardsigmoid Threshold""".split()
"""Classes of torch.nn that take images and clips alike."""

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
POOLS = {
    nn.MaxPool2d: nn.MaxPool3d,
    nn.AvgPool2d: nn.AvgPool3d,
    nn.AdaptiveAvgPool2d: nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool2d: nn.AdaptiveMaxPool3d,
}
TRIAL_SIDES = (224, 64, 32, 28, 299)  # pixels; the first that the image network takes
TRIAL_FRAMES = 16


@dataclass(frozen=True)
class InflatedModule:
    """One module that `inflate` exchanged.

    Attributes:
        path: its path in the network, the same as in the image network.
        before: its class in the image network.
        after: its class now; the same where only its forward is another.
        temporal_kernel: maps that it looks at; 1 where it looks at each map alone, or at all of a clip.
        temporal_stride: every how many maps it gives one.
    """

    path: str
    before: str
    after: str
    temporal_kernel: int = 1
    temporal_stride: int = 1


class Inflation(tuple[InflatedModule, ...]):
    """The modules that `inflate` exchanged, a tuple; `str` gives a table with one row a module."""

    __slots__ = ()

    def __str__(self) -> str:
        head = ("path", "before", "after", "kernel", "stride")
        rows = [head, *([str(value) for value in astuple(module)] for module in self)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


class BatchNormAct3d(nn.BatchNorm3d):
    """Batch norm with the dropout and activation behind it as its children, as timm's networks have it."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N C T H W"]:
        """The normalised and activated maps."""
        return self.act(self.drop(super().forward(input)))


class DropBranch(nn.Module):
    """Stochastic depth (Huang et al. 2016): in training a residual branch is dropped, for some clips or for all.

    Args:
        each: draw for each clip of a batch; otherwise once for all.
        rescale: divide what is kept by the probability of keeping.
    """

    def __init__(self, p: float, each: bool = True, rescale: bool = True) -> None:
        super().__init__()
        self.p, self.each, self.rescale = p, each, rescale

    def forward(self, branch: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N C T H W"]:
        """The branch; zeros for clips that drop it."""
        if not self.training or self.p == 0:
            return branch
        clips = len(branch.clip_layout) if isinstance(branch, PackedClips) else branch.shape[0]
        kept = torch.rand(clips if self.each else 1, 1, 1, 1, 1, device=branch.device) >= self.p
        return branch * (kept.to(branch.dtype) / (1 - self.p if self.rescale and self.p < 1 else 1))

    def extra_repr(self) -> str:
        """The arguments."""
        return f"p={self.p}, each={self.each}, rescale={self.rescale}"


def inflate(
    image_model: nn.Module,
    temporal_kernel: Mapping[str, int] | None = None,
    init: Init = "center",
    temporal_stride: Mapping[str, int] | None = None,
) -> nn.Module:
    """Make a video network of an image network; on a clip of one image repeated it gives that image's logits.

    The image network stays as it was. Names of modules and tensors are the same in both. What goes over all of height
    and width goes over all of a clip's time too: pools of a fixed output size, the means of squeeze-and-excitation, the
    statistics of group and instance norms.

    Args:
        image_model: takes images N x C x H x W and gives logits N x K.
        temporal_kernel: odd kernel sizes in time by path, for convolutions and max pools; 1 for all others, so that
            without any the network is the mean of its frames up to what is not linear behind its last pool.
        init: "center": the image kernel in the middle and zeros around it, so that each frame starts with the image
            network's own features; or "average": the image kernel divided by the size at every time, and the first and
            last map of a clip repeated at its ends.
        temporal_stride: strides in time by path, for convolutions and pools; 1 for all others. In a residual network
            the shortcut beside a convolution needs the same.

    Returns:
        A new module for clips N x C x T x H x W, which refuses other input with an InputError; its attribute
        ``inflation`` is a tuple of `InflatedModule`, one for each module that was exchanged, and prints as a table.

    Raises:
        InputError: a module or operation that cannot be inflated (the message names its path and class), or a path
            where there is nothing to inflate, or a size out of range.

    Examples:
        >>> from torchvision.models import resnet18
        >>> network = inflate(resnet18(num_classes=5), temporal_kernel={"layer1.0.conv1": 3})
        >>> network.inflation[3]
        InflatedModule(path='layer1.0.conv1', before='Conv2d', after='Conv3d', temporal_kernel=3, temporal_stride=1)
        >>> network(torch.zeros(2, 3, 4, 32, 32)).shape
        torch.Size([2, 5])
    """
    if not isinstance(image_model, nn.Module):
        raise InputError(f"inflate takes an image network, an nn.Module, got {type(image_model).__name__}")
    if init not in get_args(Init):
        raise InputError(f"unknown {unknown_name('init', str(init), get_args(Init))}")
    check_kind(image_model)
    twin = on_meta(image_model)
    changes = {path: change for path, module in twin.named_modules() if (change := change_of(module, path))}
    kernels = {} if temporal_kernel is None else temporal_kernel
    strides = {} if temporal_stride is None else temporal_stride
    of_kernels = [path for path, module in twin.named_modules() if isinstance(module, nn.Conv2d | nn.MaxPool2d)]
    strided = nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d
    check_sizes("temporal_kernel", kernels, of_kernels)
    check_sizes(
        "temporal_stride", strides, [path for path, module in twin.named_modules() if isinstance(module, strided)]
    )
    network, inflation = copy.deepcopy(image_model), []
    for path, change in reversed(changes.items()):  # children before their parents
        old = network.get_submodule(path)
        before, kernel, stride = type(old).__name__, kernels.get(path, 1), strides.get(path, 1)
        new = change(old, kernel, stride, init)
        network = new if old is network else exchanged(network, old, new)
        inflation.append(InflatedModule(path, before, type(new).__name__, kernel, stride))
    if channels := try_clip(twin, network, type(image_model).__name__):
        network.register_forward_pre_hook(functools.partial(check_input, channels))
    network.inflation = Inflation(reversed(inflation))  # type: ignore[assignment]
    return network


def inflate_weight(weight: Float[Tensor, "O I H W"], kernel: int, init: Init = "center") -> Float[Tensor, "O I T H W"]:
    """A kernel for clips that on a clip of one image repeated does what the image kernel does."""
    if init == "average":
        return weight.unsqueeze(2).repeat(1, 1, kernel, 1, 1) / kernel
    inflated = weight.new_zeros(*weight.shape[:2], kernel, *weight.shape[2:])
    inflated[:, :, kernel // 2] = weight
    return inflated


def check_kind(network: nn.Module) -> None:
    """Refuse networks that are known by their modules to be none for inflation, before any operation is named.

    Raises:
        InputError: a video network, or a transformer.
    """
    name = type(network).__name__
    for path, module in network.named_modules():
        if isinstance(module, nn.Conv3d):
            raise InputError(f"{name} is a video network already ({path!r} is a Conv3d); atfr.adapt_ takes it as it is")
        if isinstance(module, nn.MultiheadAttention) or hasattr(module, "qkv"):
            raise InputError(
                f"cannot inflate {name}: {path!r} ({type(module).__name__}) is attention, and transformers cannot be "
                "inflated; take an image network of convolutions, such as torchvision's resnet50"
            )


Change = Callable[[nn.Module, int, int, Init], nn.Module]
"""Makes a module for clips of one for images, with a kernel size and a stride in time."""


def change_of(module: nn.Module, path: str) -> Change | None:
    """How a module is to be changed, or None where it suits clips as it is.

    Raises:
        InputError: it cannot be inflated.
    """
    cls = type(module)
    name = f"{path!r} ({cls.__name__})" if path else f"the network itself ({cls.__name__})"
    home = cls.__module__.partition(".")[0]
    if isinstance(module, nn.Conv2d) and (cls.forward is nn.Conv2d.forward or is_named(module, "timm", "Conv2dSame")):
        if list(module.children()) or hooked(module):
            raise InputError(f"cannot inflate {name}: its kernel is made by a hook or a parametrisation; remove that")
        if module.padding == "same" and module.padding_mode != "zeros":
            raise InputError(f"cannot inflate {name}: padding 'same' with {module.padding_mode!r}; give it in numbers")
        return inflated_conv
    if cls in POOLS:
        sizes = getattr(module, "output_size", 1)
        if getattr(module, "return_indices", False) or (isinstance(sizes, tuple) and None in sizes) or hooked(module):
            raise InputError(f"cannot inflate {name}: a pool with hooks, with indices, or with an output size of None")
        return inflated_pool
    if cls in SAME_STATE or is_named(module, "timm", "BatchNormAct2d"):
        return recast
    if is_named(module, "timm", "DropPath") or is_named(module, "torchvision", "StochasticDepth"):
        return inflated_drop
    if home == "torch":
        known = cls.forward in [container.forward for container in CONTAINERS] or cls.__name__ in ANY_AXES
        if isinstance(module, nn.Flatten | nn.Softmax | nn.LogSoftmax):  # axes other than that of channels move
            known = (module.start_dim, module.end_dim) == (1, -1) if isinstance(module, nn.Flatten) else module.dim == 1
        if not known:
            raise InputError(f"cannot inflate {name}: no form of it for clips is known; exchange it for one that has")
        return None
    if cls.forward in [container.forward for container in CONTAINERS] or is_named(module, "timm", "Linear"):
        return None
    sources = forward_for_clips(module, name)
    if sources is None:
        return None

    def rewritten(old: nn.Module, *_: Any) -> nn.Module:
        old.forward = ClipForward(old, sources)
        return old

    return rewritten


def is_named(module: nn.Module, library: str, name: str) -> bool:
    """Whether a module is of a class of a library that need not be installed."""
    return type(module).__name__ == name and type(module).__module__.partition(".")[0] == library


def check_sizes(argument: str, sizes: Mapping[str, int], paths: list[str]) -> None:
    """Refuse paths where there is nothing to inflate, and sizes out of range."""
    if not isinstance(sizes, Mapping):
        raise InputError(f"{argument} must be a dict of path: size, such as {{{paths[-1]!r}: 3}}, got {sizes!r}")
    odd = argument == "temporal_kernel"
    for path, size in sizes.items():
        if path not in paths:
            raise InputError(f"{argument}: unknown {unknown_name('path', path, paths)}")
        if type(size) is not int or size < 1 or (odd and size % 2 == 0):
            kind = "an odd" if odd else "a whole"
            raise InputError(f"{argument} must be {kind} number of 1 or more for each path, got {size!r} for {path!r}")


def with_time(time: int, space: Any) -> tuple[int, int, int]:
    """A setting for time, height and width, of one for time and one for space, which may be one number for both."""
    height, width = space if isinstance(space, tuple | list) else (space, space)
    return time, height, width


def inflated_conv(conv: nn.Module, kernel: int, stride: int, init: Init) -> nn.Conv3d:
    """A convolution for clips, with the image's kernel; how random numbers are drawn is left alone."""
    assert isinstance(conv, nn.Conv2d)
    same = conv.padding == "same" or type(conv).forward is not nn.Conv2d.forward
    spatial = (0, 0) if same or conv.padding == "valid" else conv.padding
    hold = kernel // 2 if init == "average" else 0
    options: dict[str, Any] = {"same": same, "hold": hold} if same or hold else {}
    new = (ClipConv3d if options else Conv3d)(
        conv.in_channels,
        conv.out_channels,
        with_time(kernel, conv.kernel_size),
        stride=with_time(stride, conv.stride),
        padding=with_time(0 if hold else kernel // 2, spatial),
        dilation=with_time(1, conv.dilation),
        groups=conv.groups,
        bias=conv.bias is not None,
        padding_mode=conv.padding_mode,
        device="meta",
        **options,
    )
    new.weight = nn.Parameter(inflate_weight(conv.weight.detach(), kernel, init), conv.weight.requires_grad)
    new.bias = conv.bias
    return new.train(conv.training)


def inflated_pool(pool: nn.Module, kernel: int, stride: int, init: Init) -> nn.Module:
    """A pool for clips: in windows of space with the time asked for; of all of time where the output size is fixed."""
    new: nn.Module
    if isinstance(pool, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d):
        new = POOLS[type(pool)](with_time(1, pool.output_size))
    else:
        assert isinstance(pool, nn.MaxPool2d | nn.AvgPool2d)
        window, step = with_time(kernel, pool.kernel_size), with_time(stride, pool.stride)
        around = with_time(kernel // 2, pool.padding)
        if isinstance(pool, nn.MaxPool2d):
            new = nn.MaxPool3d(window, step, around, with_time(1, pool.dilation), ceil_mode=pool.ceil_mode)
        else:
            new = nn.AvgPool3d(
                window, step, around, pool.ceil_mode, pool.count_include_pad, divisor_override=pool.divisor_override
            )
    return new.train(pool.training)


def recast(module: nn.Module, *_: Any) -> nn.Module:
    """The same module as one of the class for clips, which has the same state."""
    module.__class__ = SAME_STATE.get(type(module), BatchNormAct3d)
    return module


def inflated_drop(drop: Any, *_: Any) -> DropBranch:
    """Stochastic depth for clips, of timm's or torchvision's."""
    if is_named(drop, "torchvision", "StochasticDepth"):
        new = DropBranch(drop.p, each=drop.mode == "row")
    else:
        new = DropBranch(drop.drop_prob or 0.0, rescale=drop.scale_by_keep)
    return new.train(drop.training)


def exchanged(network: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """The network with a module exchanged for another, at all its places."""
    places = [(parent, name) for parent in network.modules() for name, child in parent._modules.items() if child is old]
    for parent, name in places:
        parent._modules[name] = new
    return network


def try_clip(image_model: nn.Module, network: nn.Module, name: str) -> int | None:
    """Run both networks without numbers: for each logit of an image there must be one of a clip.

    Returns:
        The channels of the clip, where they are known: those of the first convolution, and a trial image passed.

    Raises:
        InputError: the clip does not pass, or gives something else. Nothing is said where no trial image passes.
    """
    first = next((module for module in image_model.modules() if isinstance(module, nn.Conv2d)), None)
    channels = first.in_channels if first else 3
    like = next((p for p in image_model.parameters() if p.is_floating_point()), torch.empty(0))
    clip_model = on_meta(network)
    for side in TRIAL_SIDES:
        clips = torch.empty(2, channels, TRIAL_FRAMES, side, side, device="meta", dtype=like.dtype)
        with torch.no_grad():
            try:
                expected = image_model(clips[:, :, 0])
            except Exception:  # an image of another size may pass
                continue
            try:
                got = clip_model(clips)
            except Exception as error:
                reason = str(error).strip().partition("\n")[0]
                raise InputError(f"{name} was inflated, and a trial clip did not pass through it: {reason}") from error
        if isinstance(expected, Tensor) and expected.ndim == 2 and got.shape != expected.shape:
            raise InputError(
                f"{name} gives {tuple(expected.shape)} for 2 images, and inflated {tuple(got.shape)} for 2 clips"
            )
        return first.in_channels if first else None
    return None
