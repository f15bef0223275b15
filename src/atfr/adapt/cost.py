"""clip_cost: multiply-adds of a network for one clip, as a table by the clip's number of active bins.

"GFLOPs" in this field means billions of multiply-adds; so do these. Convolutions and matrix products are counted, as
usual, and SGS's weighted sum. The network is counted on the meta device, for different numbers of active bins.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import flop_registry

from atfr.adapt.meta import Shapes, StandIn, on_meta, put_stand_ins
from atfr.adapt.trace import SamplingTrace, uncompiled
from atfr.checks import whole_number
from atfr.errors import AtfrError, InputError
from atfr.words import first_line

ActiveBins = int | tuple[int, ...]


@dataclass(frozen=True)
class ClipCost:
    """Multiply-adds of one clip.

    Attributes:
        static: without SGS (or the control in its place).
        adaptive: with SGS and a active bins, for each a that can occur; empty for a network without SGS. With several
            sites the key is a tuple, one number of active bins for each, and is counted when it is first asked for.
        sites: the sites, in the order of such a tuple.
    """

    static: int
    adaptive: dict[ActiveBins, int]
    sites: tuple[str, ...]

    def of(self, trace: SamplingTrace) -> list[int]:
        """Return the multiply-adds of each clip of a trace, from its own number of active bins.

        Raises:
            InputError: the trace is of another network or clip shape.
        """
        if tuple(trace.sites) != self.sites:
            raise InputError(f"the trace is of the sites {tuple(trace.sites)}, this cost table is for {self.sites}")
        lengths = [trace.sites[site].lengths for site in self.sites]
        try:
            return [self.adaptive[kept if len(kept) > 1 else kept[0]] for kept in zip(*lengths, strict=True)]
        except KeyError as error:
            raise InputError(
                f"the trace has a clip of {error} active bins, this cost table is for {sorted(self.adaptive)}: count "
                "the same network at the same clip shape"
            ) from None


class _MultiplyAdds(Shapes):
    """Counts as `torch.utils.flop_counter` does, whose own mode also keeps a stack of modules and is slower for it."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an operation, and count it."""
        if func._overloadpacket not in flop_registry:  # inference mode leaves composite operations whole
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        result = func(*args, **kwargs)
        if count := flop_registry.get(func._overloadpacket):
            self.total += count(*args, **kwargs, out_val=result) // 2  # two operations a multiply-add
        return result


class _Counter:
    """Counts one network at one clip shape, for any numbers of maps that its samplers keep."""

    def __init__(self, model: nn.Module, clip: Any) -> None:
        self.network = on_meta(model)
        self.stand_ins: dict[str, StandIn] = put_stand_ins(self.network)
        self.clip = torch.utils._pytree.tree_map_only(Tensor, lambda x: x.to("meta"), clip)

    def __call__(self, kept: Sequence[int | None]) -> int:
        """Return the multiply-adds with so many maps kept at each site; None passes all on, without the work."""
        for stand_in, active_bins in zip(self.stand_ins.values(), kept, strict=True):
            stand_in.keep = None if active_bins is None else (active_bins,)
        counter = _MultiplyAdds()
        clip = torch.utils._pytree.tree_map(lambda leaf: leaf, self.clip)  # PyTorchVideo's SlowFast overwrites its list
        with torch.no_grad(), counter:
            self.network(clip)
        return counter.total + sum(stand_in.merging for stand_in in self.stand_ins.values())


class _WhenAsked(dict[ActiveBins, int]):
    """Multiply-adds by the active bins of several sites: too many to count them all beforehand."""

    def __init__(self, count: _Counter) -> None:
        super().__init__()
        self.count = count

    def __missing__(self, active_bins: ActiveBins) -> int:
        if not isinstance(active_bins, tuple) or len(active_bins) != len(self.count.stand_ins):
            raise KeyError(active_bins)
        counted = self.count(active_bins)
        for kept, stand_in in zip(active_bins, self.count.stand_ins.values(), strict=True):
            if kept not in stand_in.layer.possible_active_bins(stand_in.frames[0]):
                raise KeyError(active_bins)
        self[active_bins] = counted
        return counted


def clip_cost(model: nn.Module, clip_shape: Sequence[int] | None = None, *, example: Any = None) -> ClipCost:
    """Count the multiply-adds of a network for one clip of C x T x H x W.

    Args:
        clip_shape: C, T, H, W; by default the one that a network of atfr is made for.
        example: instead of it, an input of one clip for a network that takes anything else than clips.

    Raises:
        InputError: the clip shape is not C x T x H x W, or the network does not take such clips.

    Examples:
        >>> import atfr
        >>> cost = atfr.clip_cost(atfr.create_model("x3d_s"), (3, 13, 160, 160))
        >>> f"{cost.static / 1e9:.2f} GFLOPs (multiply-adds)"
        '1.96 GFLOPs (multiply-adds)'
    """
    model = uncompiled(model)
    if example is None:
        clip_shape = getattr(model, "clip_shape", None) if clip_shape is None else clip_shape
        lengths = [whole_number(length) or 0 for length in clip_shape] if isinstance(clip_shape, Iterable) else []
        if len(lengths) != 4 or min(lengths) < 1:
            raise InputError(f"clip_shape must be C, T, H, W, got {clip_shape}")
        like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
        example = torch.empty(1, *lengths, dtype=like.dtype, device="meta")
    count = _Counter(model, example)
    sites = tuple(count.stand_ins)
    try:
        static = count([None] * len(sites))
    except AtfrError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        first = next((module.in_channels for module in model.modules() if isinstance(module, nn.Conv3d)), "any")
        got = "an example" if clip_shape is None else f"C, T, H, W = {tuple(clip_shape)}"
        raise InputError(
            f"expected a clip that {type(model).__name__} takes (its first convolution: {first} channels), got {got}: "
            f"{first_line(error)}"
        ) from error
    if len(sites) != 1:
        return ClipCost(static, _WhenAsked(count) if sites else {}, sites)
    (stand_in,) = count.stand_ins.values()
    return ClipCost(static, by_active_bins(count, stand_in.layer.possible_active_bins(stand_in.frames[0])), sites)


def by_active_bins(count: _Counter, possible: range) -> dict[ActiveBins, int]:
    """Return the multiply-adds for each number of active bins.

    Without temporal strides each further map costs the same, and then a few counts tell all: a stride would show
    between the first two, of which it makes one map.
    """
    few = sorted({*possible[:2], possible[len(possible) // 2], possible[-1]})
    counts: dict[ActiveBins, int] = {active_bins: count([active_bins]) for active_bins in few}
    first, a_map = counts[few[0]], counts[few[1]] - counts[few[0]] if len(few) > 1 else 0
    if all(counts[active_bins] == first + (active_bins - few[0]) * a_map for active_bins in few):
        return {active_bins: first + (active_bins - few[0]) * a_map for active_bins in possible}
    return {active_bins: counts.get(active_bins) or count([active_bins]) for active_bins in possible}
