"""Our multiply-adds beside the paper's figures; of an adaptive network the share of maps that its figure implies."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from atfr.adapt import adapt_
from atfr.adapt.cost import clip_cost
from atfr.models import create_model
from atfr.paper.figures import FIGURES, Figure, Network
from atfr.paper.shares import Share, Sites, by_share, implied_share


@dataclass(frozen=True)
class Count:
    """What we count of a network.

    Attributes:
        static: multiply-adds without SGS (of temporal attention: with it).
        maps: those that a clip has at each site, by the site's name; empty for a static network.
        shares: multiply-adds by the share of maps kept.
    """

    static: int
    maps: dict[str, int]
    shares: Sequence[Share] = ()


@dataclass(frozen=True)
class Comparison:
    """A figure of the paper and what we count of the network that we compare it with.

    Attributes:
        figure: the paper's.
        count: ours; None where we have no such network.
    """

    figure: Figure
    count: Count | None

    @property
    def difference(self) -> float | None:
        """How much more ours costs, as a share of the paper's figure; None for an adaptive network."""
        if self.count is None or self.count.shares:
            return None
        return self.count.static / 1e9 / self.figure.gflops - 1

    @property
    def share(self) -> float | None:
        """The share of maps that a clip keeps in an adaptive network of ours which costs the paper's figure.

        Where there are several sites it is the same at each. It is below 0 where even one map costs more.
        """
        if self.count is None or not self.count.shares:
            return None
        return implied_share(self.count.shares, self.figure.gflops * 1e9)

    @property
    def possible(self) -> bool | None:
        """Whether clips of an adaptive network of ours can cost the paper's figure on average."""
        if self.count is None or not self.count.shares:
            return None
        costs = [share.multiply_adds / 1e9 for share in self.count.shares]
        return min(costs) <= self.figure.gflops <= max(costs)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        figure, network = self.figure, self.figure.network
        values: dict[str, Any] = {
            "table": figure.table,
            "model": figure.model,
            "setting": figure.setting,
            "paper_gflops": figure.gflops,
            "network": network and {"clip_shape": list(network.clip_shape), **given(network)},
            "note": figure.note or None,
        }
        if self.count is None:
            return values
        if self.share is None:
            return values | {"gflops": self.count.static / 1e9, "difference": self.difference}
        return values | {
            "least_gflops": self.count.shares[0].multiply_adds / 1e9,
            "most_gflops": self.count.shares[-1].multiply_adds / 1e9,
            "maps": self.count.maps,
            "implied_share": self.share,
            "implied_active_bins": {site: self.share * maps for site, maps in self.count.maps.items()},
            "possible": self.possible,
        }


def given(network: Network) -> dict[str, Any]:
    """Return the arguments by which a network is made, but for those at their defaults."""
    options = {"temporal_strides": network.strides, "after": network.after, "num_bins": network.num_bins}
    options |= {"temporal_block": network.temporal_block, "sampler": network.sampler if network.after else None}
    return {"name": network.name} | {name: value for name, value in options.items() if value is not None}


def compare(
    figures: Sequence[Figure] = FIGURES, progress: Callable[[int, int], None] | None = None
) -> list[Comparison]:
    """Count what figures are compared with, each network once; `progress` is called with (done, total)."""
    networks = dict.fromkeys(figure.network for figure in figures if figure.network)
    counts: dict[Network, Count] = {}
    for done, network in enumerate(sorted(networks, key=lambda network: not network.adaptive), 1):
        if network not in counts:
            counts[network] = count(network)
        if network.adaptive:  # what it costs without SGS is counted with it
            static = replace(network, after=None, num_bins=None, temporal_block=None)
            counts[static] = Count(counts[network].static, {})
        if progress:
            progress(done, len(networks))
    return [Comparison(figure, counts[figure.network] if figure.network else None) for figure in figures]


def count(network: Network) -> Count:
    """Count a network at its clip size; no weight is drawn."""
    arguments: dict[str, Any] = {"temporal_strides": network.strides} if network.strides else {}
    with torch.device("meta"):
        model = create_model(network.name, **arguments)
    if network.after:
        options: dict[str, Any] = {"temporal_block": network.temporal_block, "sampler": network.sampler}
        adapt_(model, network.after, network.num_bins, **options)
    cost = clip_cost(model, network.clip_shape)
    if not network.adaptive:
        return Count(cost.static, {})
    maps = [frames for frames, _ in Sites(model, network.clip_shape).maps()]
    shares = by_share(model, cost, network.clip_shape)
    return Count(cost.static, dict(zip(cost.sites, maps, strict=True)), shares)
