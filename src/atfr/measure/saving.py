"""The saving, measured: a network with SGS and the same without, in turns, against the ideal and against FLOPs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from atfr.adapt.cost import clip_cost
from atfr.adapt.meta import Shapes, on_meta, put_stand_ins
from atfr.adapt.trace import site_names
from atfr.errors import InputError
from atfr.kernels.allocator import freed_memory_kept
from atfr.measure.forcing import at_every_site
from atfr.measure.turns import Ratio, Timing, Variant, in_turns


@dataclass(frozen=True)
class Work:
    """What a batch asks of a network."""

    active_bins: dict[str, tuple[int, ...]]  # A of each clip, by site
    maps: dict[str, int]  # T, the maps that come to SGS, by site
    static_multiply_adds: int  # of the batch, without SGS
    adaptive_multiply_adds: int  # of the batch, with SGS, by each clip's A

    @property
    def kept(self) -> tuple[int, ...]:
        """A of each clip, at the first site."""
        return next(iter(self.active_bins.values()))

    @property
    def share(self) -> float:
        """The share of the maps that is kept, sum of A over N T."""
        return sum(self.kept) / (len(self.kept) * next(iter(self.maps.values())))

    @property
    def flops_ratio(self) -> float:
        """How many times fewer multiply-adds the network spends with SGS."""
        return self.static_multiply_adds / self.adaptive_multiply_adds


def work_of(model: nn.Module, clip_shape: Sequence[int], active_bins: Sequence[int]) -> Work:
    """Return what a batch asks of a network with SGS at one place, where its clips keep so many maps.

    Args:
        clip_shape: C T H W of each clip.
        active_bins: A of each clip; in SlowFast behind the fast pathway, and the same share behind the slow one.

    Raises:
        InputError: there is no SGS, or at more than one place, where the ideal is not defined; or so many maps cannot
            be kept.
    """
    cost = clip_cost(model, clip_shape)
    if len({site.partition(".")[0] for site in cost.sites}) != 1:
        raise InputError(f"the saving is measured with SGS at one place, this network has it at {cost.sites or 'none'}")
    maps = maps_that_come(model, clip_shape)
    kept = at_every_site(active_bins, maps)
    for site, layer in site_names(model).items():
        possible = layer.possible_active_bins(maps[site])
        if wrong := [one for one in kept[site] if one not in possible]:
            raise InputError(
                f"a clip can keep {possible[0]} to {possible[-1]} maps of {maps[site]} at {site!r}, "
                f"asked for {wrong[0]}"
            )
    keys = zip(*kept.values(), strict=True)
    adaptive = sum(cost.adaptive[key if len(key) > 1 else key[0]] for key in keys)
    return Work(kept, maps, cost.static * len(active_bins), adaptive)


def maps_that_come(model: nn.Module, clip_shape: Sequence[int]) -> dict[str, int]:
    """Return how many maps of a clip come to each site."""
    network = on_meta(model)
    stand_ins = put_stand_ins(network)
    like = next(network.parameters())
    with Shapes():
        network(like.new_empty(1, *clip_shape))
    return {site: stand_in.frames[0] for site, stand_in in stand_ins.items()}


@dataclass(frozen=True)
class Saving:
    """Times of a batch in a network without and with SGS, and of their parts."""

    # seconds of "static" and "adaptive", and of their parts: "before" and "after" the place of SGS in the static
    # network, "sgs" and "after sgs" in the adaptive one
    timing: Timing
    work: Work  # what the batch asks of both

    @property
    def speedup(self) -> Ratio:
        """How many times as fast as without SGS the network is."""
        return self.timing.speedup("adaptive", over="static")

    @property
    def ideal(self) -> Ratio:
        """What the speed-up would be if all behind SGS took A / T of its time, and SGS none."""
        return self.timing.ratio(lambda s: s["static"] / (s["before"] + s["after"] * self.work.share))

    @property
    def efficiency(self) -> Ratio:
        """The efficiency of the saving: speed-up over ideal."""
        return self.timing.ratio(lambda s: (s["before"] + s["after"] * self.work.share) / s["adaptive"])

    @property
    def over_flops(self) -> Ratio:
        """Speed-up over FLOPs ratio, which is also the rate of multiply-adds with SGS over that without.

        The paper's X3D-S on Kinetics-400 has 1.51 / 1.9 = 0.80.
        """
        return self.timing.ratio(lambda s: s["static"] / s["adaptive"] / self.work.flops_ratio)

    @property
    def sgs_share(self) -> Ratio:
        """The share of its time that the network with SGS spends in SGS."""
        return self.timing.ratio(lambda s: s["sgs"] / s["adaptive"])

    @property
    def static_gflops(self) -> Ratio:
        """Multiply-adds / 1e9 a second, without SGS."""
        return self.timing.ratio(lambda s: self.work.static_multiply_adds / s["static"] / 1e9)

    @property
    def adaptive_gflops(self) -> Ratio:
        """Multiply-adds / 1e9 a second, with SGS."""
        return self.timing.ratio(lambda s: self.work.adaptive_multiply_adds / s["adaptive"] / 1e9)

    def to_dict(self) -> dict[str, Any]:
        """Turn the saving into plain JSON values."""
        names = ("speedup", "ideal", "efficiency", "over_flops", "sgs_share", "static_gflops", "adaptive_gflops")
        return {
            "clips": len(self.work.kept),
            "active_bins": {site: list(kept) for site, kept in self.work.active_bins.items()},
            "maps": self.work.maps,
            "flops_ratio": self.work.flops_ratio,
            **{name: getattr(self, name).to_dict() for name in names},
            **self.timing.to_dict(),
        }


@dataclass(frozen=True)
class Pair:
    """A network without SGS and with it, on the same clips, in one runtime."""

    variants: Mapping[str, Variant]  # what to time: "static", "adaptive", and what their parts are made of
    seconds: Callable[[Timing], dict[str, tuple[float, ...]]]  # makes the times that a `Saving` needs of these
    work: Work  # what the clips ask of both


def measure(
    pairs: Mapping[str, Pair], others: Mapping[str, Variant] | None = None, **turns: Any
) -> tuple[dict[str, Saving], Timing]:
    """Time pairs, and other variants, all in turns.

    Args:
        pairs: by name: a network in several runtimes, or with several clips.
        others: what to compare with.
        turns: options of `atfr.measure.in_turns`.

    Returns:
        The saving of each pair, and the times of all ("NAME static", "NAME adaptive", and the others).
    """
    names = {name: {part: f"{name} {part}" for part in pair.variants} for name, pair in pairs.items()}
    variants = {names[name][part]: run for name, pair in pairs.items() for part, run in pair.variants.items()}
    with freed_memory_kept():
        timing = in_turns(variants | dict(others or {}), **turns)
    savings = {}
    for name, pair in pairs.items():
        own = Timing({part: timing.seconds[full] for part, full in names[name].items()})
        savings[name] = Saving(Timing(pair.seconds(own)), pair.work)
    return savings, timing
