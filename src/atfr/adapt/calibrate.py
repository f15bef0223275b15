"""calibrate_: set the noise floor and the number of bins of a sampler from some unlabelled clips.

N clips, T maps of the longest clip.
"""

import statistics
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from atfr.adapt.cost import ClipCost, clip_cost
from atfr.adapt.places import evaluating
from atfr.adapt.trace import site_names, uncompiled
from atfr.checks import in_range
from atfr.errors import AdaptError, InputError
from atfr.ragged import PackedClips
from atfr.samplers import WITH_BINS, ChangeGuidedSampling
from atfr.samplers.sampler import TemporalSampler


class Spread(NamedTuple):
    """How a figure is distributed over clips; `std` is that of the clips themselves."""

    mean: float
    std: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Describe some values, one at least."""
        return cls(statistics.fmean(values), statistics.pstdev(values), min(values), max(values))


@dataclass(frozen=True)
class Calibration:
    """What `calibrate_` set, and what clips like those it saw will cost.

    Attributes:
        clips: how many it saw.
        dead_zone: the noise floor at each site with change-guided sampling.
        num_bins: of the one site; None where no budget was asked for.
        active_bins: maps of a clip at the first site.
        gflops: multiply-adds / 1e9 of a clip; None where there are several sites.
        static_gflops: those of the network without its samplers.
    """

    clips: int
    dead_zone: dict[str, float]
    num_bins: int | None
    active_bins: Spread
    gflops: Spread | None
    static_gflops: float


Seen = list[Float[Tensor, "T L"]]
"""What came to one site: what describes each clip's maps."""


@torch.inference_mode()
def calibrate_(
    model: nn.Module,
    clips: Float[Tensor, "N C T H W"] | Iterable[Float[Tensor, "N C T H W"]],
    *,
    share: float | None = None,
    gflops: float | None = None,
) -> Calibration:
    """Set a network's samplers by some unlabelled clips, in place: the noise floor, and the bins for a wanted cost.

    The noise floor (`dead_zone`) of change-guided sampling becomes the median over the clips of what each would find
    by itself. From then on a clip in which nothing exceeds it keeps one map. Some tens of clips are enough.

    Args:
        model: a network with change-guided sampling or SGS.
        clips: a batch, or several, as the network takes them, of one shape.
        share: the wanted mean cost as a share of the network without samplers, between 0 and 1;
        gflops: or in multiply-adds / 1e9 a clip. Sets the number of bins to the largest whose mean cost is not above.

    Raises:
        AdaptError: the network has no such sampler.
        InputError: no clip, two wishes, or a cost that one map a clip exceeds already.

    Examples:
        >>> import atfr
        >>> model = atfr.create_model("x3d_xs", num_classes=10)
        >>> report = atfr.adapt_(model, after="input", sampler="change")
        >>> atfr.calibrate_(model, torch.rand(4, 3, 16, 32, 32), share=0.55).num_bins
        8
    """
    model = uncompiled(model)
    layers = {site: layer for site, layer in site_names(model).items() if isinstance(layer, WITH_BINS)}
    if not layers:
        raise AdaptError("the network has no sampler with bins (sgs, change); put one in with atfr.adapt_")
    if share is not None and gflops is not None:
        raise InputError(f"the wanted cost is a share or gflops, not both, got {share=}, {gflops=}")
    if (share is not None or gflops is not None) and len(layers) > 1:
        raise InputError(f"a budget is for one sampler, the network has {len(layers)}: {', '.join(layers)}")
    if share is not None:
        in_range("share", share, 0.0, 1.0)
    batches = [clips] if isinstance(clips, Tensor) else list(clips)
    if not batches or not all(isinstance(one, Tensor) and one.dim() == 5 and len(one) for one in batches):
        raise InputError(
            "calibrate_ takes clips N x C x T x H x W, or several such batches, and at least one clip; of a list of "
            "clips C x T x H x W make a batch: torch.stack(clips)"
        )
    if not all(one.isfinite().all() for one in batches):
        raise InputError("clips to calibrate with hold NaN or infinite values; leave these clips out")
    seen = watched(model, layers, batches)
    guided = {site: layer for site, layer in layers.items() if isinstance(layer, ChangeGuidedSampling)}
    before = {site: layer.dead_zone for site, layer in guided.items()}
    zones = {site: set_dead_zone(layer, seen[site]) for site, layer in guided.items()}
    site, layer = next(iter(layers.items()))
    cost = cost_by_any_bins(model, layer, batches[0])
    wanted = cost.static * share if share is not None else None if gflops is None else gflops * 1e9
    if wanted is not None:
        try:
            layer.num_bins = bins_for(wanted, layer, seen[site], cost)
        except InputError:
            for name, guiding in guided.items():
                guiding.dead_zone = before[name]
            raise
    kept = active_bins(layer, seen[site])
    spent = [cost.adaptive[active] / 1e9 for active in kept] if len(cost.sites) == 1 else None
    return Calibration(
        len(kept),
        zones,
        None if wanted is None else layer.num_bins,  # type: ignore[arg-type]
        Spread.of([float(active) for active in kept]),
        None if spent is None else Spread.of(spent),
        cost.static / 1e9,
    )


def cost_by_any_bins(model: nn.Module, layer: Any, clips: Tensor) -> ClipCost:
    """Return the cost of a clip by its active bins, whatever the number of bins of the layer is now."""
    before, layer.num_bins = layer.num_bins, None
    try:
        return clip_cost(model, tuple(clips.shape[1:]))
    finally:
        layer.num_bins = before


def watched(model: nn.Module, layers: dict[str, Any], batches: Iterable[Tensor]) -> dict[str, Seen]:
    """Run clips, and return what came to each site."""
    seen: dict[str, Seen] = {site: [] for site in layers}
    device = next((p.device for p in model.parameters()), torch.device("cpu"))

    def look(site: str, layer: TemporalSampler, features: Tensor) -> None:
        packed = isinstance(features, PackedClips)
        described = layer.describe(features.plain() if packed else features)  # type: ignore[attr-defined]
        parts = described[0].split(features.lengths) if packed else described  # type: ignore[attr-defined]
        seen[site] += [one.cpu() for one in parts]

    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        for site, layer in layers.items():
            hook = layer.register_forward_pre_hook(lambda layer, args, site=site: look(site, layer, args[0]))
            stack.callback(hook.remove)
        for batch in batches:
            model(batch.to(device))
    return seen


def active_bins(layer: Any, seen: Seen) -> list[int]:
    """Return the maps that the layer, as it is set, keeps of each clip."""
    return [layer.sampling(one[None], torch.tensor([len(one)])).layout.lengths[0] for one in seen]


def set_dead_zone(layer: ChangeGuidedSampling, seen: Seen) -> float:
    """Set the noise floor to the median of those that clips have by themselves."""
    floors = [float(layer.floor(one[None], torch.tensor([len(one)]))) for one in seen]
    layer.dead_zone = float(torch.tensor(floors).median())
    return layer.dead_zone


def bins_for(wanted: float, layer: Any, seen: Seen, cost: ClipCost) -> int:
    """Return the largest number of bins with which the clips cost no more than wanted, on average.

    Raises:
        InputError: one map a clip costs more already.
    """
    before, (least, most) = layer.num_bins, (1, max(map(len, seen)))

    def mean_cost(bins: int) -> float:
        layer.num_bins = bins
        counts = [cost.adaptive[active] for active in active_bins(layer, seen)]
        return sum(counts) / len(counts)

    try:
        if (lowest := mean_cost(1)) > wanted:
            raise InputError(
                f"the wanted cost of {wanted / 1e9:.4g} GFLOPs ({wanted / cost.static:.2g} of static) is less than "
                f"that of one map a clip, {lowest / 1e9:.4g} ({lowest / cost.static:.2g}); ask for more, or put the "
                "sampler at an earlier place"
            )
        while least < most:  # more bins never keep fewer maps
            middle = (least + most + 1) // 2
            least, most = (middle, most) if mean_cost(middle) <= wanted else (least, middle - 1)
        return least
    finally:
        layer.num_bins = before
