"""Clips together and alone: how far what a network makes of a clip moves with the other clips of its batch.

A forward may calculate with anything, `1.0 / x.shape[2]` say, where `x.shape[2]` counts the maps of all clips together.
No operation on packed clips can notice every such use, so a network is asked by numbers too.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from atfr.adapt.meta import StandIn, copied, leaves_of, put_stand_ins
from atfr.adapt.passes import Pass, distance, failure, farthest, numbers, one_pass
from atfr.adapt.places import float_like, is_clips, real_input, trial_inputs, undisturbed
from atfr.adapt.trace import uncompiled
from atfr.errors import InputError, UnsupportedNetworkError
from atfr.ragged.windows import triple
from atfr.words import first_line

CLIPS = 3
"""How many clips are made up."""
SIZES = (
    (8, 16, torch.float64),
    (None, 16, torch.float64),
    (None, 32, torch.float32),
    (None, 64, torch.float64),
    (None, None, torch.float32),
)
"""The most frames, height and width of these (None: as the network is made for), and their type: the first it takes."""
TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3}
"""Up to this share of its size, what moves is rounding."""

KERNEL = 2**14
"""Gradients are compared in parameters of up to so many numbers; those of large kernels cost most of the time."""


@dataclass(frozen=True)
class BatchCheck:
    """How far clips move with their batch mates: that which moves most, as a share of what it is alone.

    Attributes:
        forward: of the network's output.
        inside: of what passes between its modules.
        backward: of the gradients in its input and its smaller parameters.
        module: that in whose own forward it begins; where gradients alone move, the last in which a parameter's does.
            "" is the network itself, None: nothing moves.
        tolerance: up to which it is rounding.
    """

    forward: float
    inside: float
    backward: float
    module: str | None
    tolerance: float

    @property
    def most(self) -> float:
        """The most that anything moves."""
        return max(self.forward, self.inside, self.backward)

    @property
    def apart(self) -> bool:
        """Whether each clip is on its own."""
        return self.most <= self.tolerance

    def __str__(self) -> str:
        moved = {"results move": self.forward, "maps inside": self.inside, "gradients": self.backward}
        told = ", ".join(f"{name} by {share:.2g}" for name, share in moved.items())
        name = repr(self.module) if self.module else "the network's own forward"
        where = "" if self.module is None else f", first in {name}"
        return f"with its batch mates a clip's {told} of their size{where}"


def check(model: nn.Module, clips: Any = None) -> BatchCheck:
    """Say how far a clip's result moves with its batch mates, forward and backward, and where it begins.

    A copy of the network runs in evaluation mode on its own device, in float64 (in float32 where it takes no other):
    all clips together, then each alone. The network is left as it is.

    Args:
        model: adapted or not.
        clips: an input of the network, of two clips or more; its samplers choose their maps. None: three small clips of
            noise, of which one map, two and all go on (at a second sampler two, three and all, and so on).

    Raises:
        InputError: fewer than two clips.
        UnsupportedNetworkError: the network does not take these clips, together and alone.

    Examples:
        >>> import atfr
        >>> model = atfr.create_model("x3d_xs", num_classes=4)
        >>> report = atfr.adapt_(model, after="res2")
        >>> atfr.check(model).apart
        True
    """
    model = uncompiled(model)
    if clips is not None and number_of_clips(clips) < 2:
        raise InputError("check compares clips with each other: give it a batch of two or more, N x C x T x H x W")
    found: list[BatchCheck] = []
    failed: tuple[str, Exception] | None = None
    with undisturbed(model):
        for network, stand_ins, inputs in networks_with_clips(model, clips, made_up=clips is None):
            compare = partial(together_and_alone, network, inputs, stand_ins)
            failed = failure(network, lambda compare=compare: found.append(compare()))
            if failed is None:
                return found[0]
    assert failed is not None
    raise UnsupportedNetworkError(
        f"{type(model).__name__} does not take the clips, together and each alone: {failed[0]}: "
        f"{first_line(failed[1])}; give others: atfr.check(model, clips)"
    ) from failed[1]


def networks_with_clips(
    model: nn.Module, example: Any = None, made_up: bool = True
) -> Iterator[tuple[nn.Module, dict[str, StandIn], Any]]:
    """Yield copies of a network, each with stand-ins for its samplers and clips to run it on, the smallest first.

    Args:
        example: an input of the network, whose clips are taken as they are, without stand-ins.
        made_up: whether clips of noise take their place, or that of the usual ones.
    """
    like = float_like(model)
    for frames, side, dtype in SIZES if made_up else [(None, None, torch.float64), (None, None, torch.float32)]:
        network = copied(model, dtype=dtype)
        for parameter in network.parameters():
            parameter.requires_grad_(parameter.requires_grad and parameter.numel() <= KERNEL)
        if side:
            network.apply(clamp_window)
        form = trial_inputs(model, None)[0] if example is None else example
        yield (
            network,
            put_stand_ins(network) if made_up else {},
            real_input(form, like, dtype, (frames, side, side) if made_up else None, CLIPS),
        )


def clamp_window(module: nn.Module) -> None:
    """Let a pool take maps that are smaller than its window, as heads for clips of one size need for small ones."""

    def clamp(pool: Any, args: tuple[Tensor, ...]) -> None:
        kernel, padding = triple(pool.kernel_size), triple(pool.padding)
        room = [size + 2 * pad for size, pad in zip(args[0].shape[-2:], padding[1:], strict=True)]
        pool.kernel_size = (kernel[0], *(min(pair) for pair in zip(kernel[1:], room, strict=True)))

    if isinstance(module, nn.AvgPool3d | nn.MaxPool3d):
        module.register_forward_pre_hook(clamp)


def keeps(site: int) -> tuple[int, int, int]:
    """Return how many maps the made-up clips keep at a sampler: other numbers at each, the last clip all of them."""
    return 1 + site, 2 + site, 10**9


def together_and_alone(network: nn.Module, inputs: Any, stand_ins: Mapping[str, StandIn]) -> BatchCheck:
    """Run clips together, then each alone, and compare."""
    count = number_of_clips(inputs)

    def run(clips: range) -> Pass:
        for site, stand_in in enumerate(stand_ins.values()):
            stand_in.keep, stand_in.passes = [keeps(site)[min(clip, CLIPS - 1)] for clip in clips], 0
        return one_pass(network, rows(inputs, slice(clips.start, clips.stop), count), len(clips))

    together, alone = run(range(count)), [run(range(clip, clip + 1)) for clip in range(count)]
    return compared(together, alone, TOLERANCES[next(leaf.dtype for leaf in leaves_of(inputs) if is_clips(leaf))])


def compared(together: Pass, alone: Sequence[Pass], tolerance: float) -> BatchCheck:
    """Return how far a pass of all clips is from those of each alone."""
    forward = farthest(together.results, [one.results for one in alone])
    backward = farthest(together.gradients, [one.gradients for one in alone])
    inside = [farthest(seen, [one.seen.get(call) for one in alone]) for call, seen in together.seen.items()]
    moving = [giving for (giving, *_), share in zip(together.seen, inside, strict=True) if share > tolerance]
    ends = {giving: place for place, (giving, *_) in enumerate(together.seen)}
    for name, slope in sorted(together.slopes.items(), key=lambda one: -ends.get(one[0].rpartition(".")[0], -1)):
        each = torch.stack([one.slopes[name] for one in alone])
        share = distance(numbers(slope), numbers(each.sum(0)), numbers(each.abs().sum(0)))
        backward = max(backward, share)
        moving += [name.rpartition(".")[0]] if share > tolerance else []
    moving += [""] if max(forward, backward) > tolerance else []
    return BatchCheck(forward, max(inside, default=0.0), backward, moving[0] if moving else None, tolerance)


def number_of_clips(inputs: Any) -> int:
    """Return how many clips an input of a network has; 0 where it has none."""
    return next((len(value) for value in leaves_of(inputs) if is_clips(value)), 0)


def rows(inputs: Any, clips: slice, count: int) -> Any:
    """Return an input with some of its clips, and with those rows of what else has one a clip."""

    def part(value: Tensor) -> Tensor:
        return value[clips] if value.dim() and len(value) == count else value

    return torch.utils._pytree.tree_map_only(Tensor, part, inputs)
