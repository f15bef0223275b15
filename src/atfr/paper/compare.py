"""Our multiply-adds beside the paper's figures; of an adaptive network the share of maps that its figure implies."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from atfr.adapt import adapt_
from atfr.adapt.cost import clip_cost
from atfr.measure.saving import maps_that_come
from atfr.models import VideoModel
from atfr.models.zoo import outline
from atfr.paper.figures import FIGURES, Line, Network
from atfr.paper.shares import Share, by_share, implied_share


@dataclass(frozen=True)
class Count:
    """What we count of a network."""

    static: int  # multiply-adds without SGS (of temporal attention: with it)
    maps: dict[str, int]  # those that a clip has at each site, by the site's name; empty for a static network
    shares: Sequence[Share] = ()  # multiply-adds by the share of maps kept


@dataclass(frozen=True)
class Comparison:
    """A GFLOPs figure of the paper and what we count of the network that we compare it with.

    Attributes:
        line: the paper's.
        count: ours.
    """

    line: Line
    count: Count

    @property
    def difference(self) -> float | None:
        """How much more ours costs, as a share of the paper's figure; None for an adaptive network."""
        if self.count.shares:
            return None
        return self.count.static / 1e9 / self.line.paper["gflops"] - 1

    @property
    def share(self) -> float | None:
        """The share of maps that a clip keeps in an adaptive network of ours which costs the paper's figure.

        Where there are several sites it is the same at each. It is below 0 where even one map costs more.
        """
        if not self.count.shares:
            return None
        return implied_share(self.count.shares, self.line.paper["gflops"] * 1e9)

    @property
    def possible(self) -> bool | None:
        """Whether clips of an adaptive network of ours can cost the paper's figure on average."""
        if not self.count.shares:
            return None
        costs = [share.multiply_adds / 1e9 for share in self.count.shares]
        return min(costs) <= self.line.paper["gflops"] <= max(costs)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        line = self.line
        values: dict[str, Any] = {
            "table": line.table,
            "model": line.model,
            "setting": line.setting,
            "paper_gflops": line.paper["gflops"],
            "network": line.network and given(line.network),
            "note": line.note or None,
        }
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
    """Return what a network is made with, as plain JSON values."""
    placed = {"after": network.after, "sampler": network.sampler, **dict(network.options)} if network.after else {}
    return {"name": network.name, "clip_shape": list(network.clip_shape), **network.arguments, **placed}


def compare(
    lines: Sequence[Line] = FIGURES, progress: Callable[[int, int], None] = lambda *_: None
) -> list[Comparison]:
    """Count what figures are compared with, each network once; `progress` is called with (done, total)."""
    networks = dict.fromkeys(line.network for line in lines if line.network)
    counts: dict[Network, Count] = {}
    for done, network in enumerate(sorted(networks, key=lambda network: not network.adaptive), 1):
        if network not in counts:
            counts[network] = count(network)
        if network.adaptive:  # what it costs without SGS is counted with it
            counts[network.static] = Count(counts[network].static, {})
        progress(done, len(networks))
    return [Comparison(line, counts[line.network]) for line in lines if line.network]


def count(network: Network) -> Count:
    """Count a network at its clip size; no weight is drawn."""
    model = on_paper(network)
    cost = clip_cost(model, network.clip_shape)
    if not network.adaptive:
        return Count(cost.static, {})
    maps = maps_that_come(model, network.clip_shape)
    return Count(cost.static, maps, by_share(model, cost, network.clip_shape))


def on_paper(network: Network, num_classes: int = 400) -> VideoModel:
    """Build a network on the meta device."""
    model = outline(network.name, num_classes, **network.arguments)
    if network.after:
        adapt_(model, network.after, **dict(network.options))
    return model
