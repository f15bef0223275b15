"""Let clips keep a chosen number of maps, while SGS does all of its work.

How many maps a clip keeps depends on its pictures and on the weights; for a measurement it must be known. The
similarity network runs, then what it found is replaced by embeddings that fall into as many bins as asked for:
everything behind it (magnitudes, bins, weights, the merging) goes on as ever.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from atfr.adapt.trace import site_names
from atfr.errors import InputError
from atfr.samplers.sgs import SimilarityGuidedSampling

SPREAD = (0, 2, -2, 1, -1, 3, -3, 0)
"""How far the clips of a ragged batch are from its mean, over and over."""
AS_IT_IS = "`atfr test` times a network as it is"


def ragged(mean: int, clips: int, frames: int) -> tuple[int, ...]:
    """Return different numbers of active bins for the clips of a batch, 1 to T, around a mean; one clip has the mean.

    Raises:
        InputError: the mean is not between 1 and T.

    Examples:
        >>> ragged(6, 8, 13)
        (6, 8, 4, 7, 5, 9, 3, 6)
    """
    if not 1 <= mean <= frames:
        raise InputError(f"a clip of {frames} maps can keep 1 to {frames} of them, asked for {mean}")
    return tuple(min(max(mean + SPREAD[clip % len(SPREAD)], 1), frames) for clip in range(clips))


@contextmanager
def forced(model: nn.Module, active_bins: Mapping[str, Sequence[int]]) -> Iterator[None]:
    """Make SGS keep as many maps of each clip as asked for while the context is open.

    Args:
        model: a network with SGS that compares maps by magnitude, with `top_edge="center"`.
        active_bins: by site, A of each clip of a batch.

    Raises:
        InputError: a site is missing, is no such SGS, or cannot keep so many maps (in the pass).

    Examples:
        >>> import atfr
        >>> model = atfr.create_model("resnet3d_18", num_classes=4).eval()
        >>> report = atfr.adapt_(model, after="res2")
        >>> with forced(model, {"res2": (3, 8)}), atfr.record(model) as trace, torch.no_grad():
        ...     logits = model(torch.rand(2, 3, 8, 32, 32))
        >>> trace.active_bins.tolist()
        [3, 8]
    """
    layers = site_names(model)
    if set(layers) != set(active_bins):
        raise InputError(f"expected active bins for the sites {tuple(layers)}, got them for {tuple(active_bins)}")
    with ExitStack() as stack:
        for site, kept in active_bins.items():
            layer = forcible(layers[site], site)
            stack.callback(layer.similarity.register_forward_hook(replaced(layer, tuple(kept))).remove)
        yield


def forcible(layer: nn.Module, site: str) -> SimilarityGuidedSampling:
    """Return the layer of a site where its A can be forced; else raise an InputError."""
    if not isinstance(layer, SimilarityGuidedSampling) or layer.coordinates != "magnitude":
        raise InputError(f"A can be forced where SGS compares magnitudes, not at {site!r}: {layer}; {AS_IT_IS}")
    if layer.top_edge != "center" or layer.temporal_block is not None:
        raise InputError(
            f"A can be forced with top_edge='center' and over whole clips, not at {site!r}: {layer}; {AS_IT_IS}"
        )
    return layer


def replaced(layer: SimilarityGuidedSampling, kept: tuple[int, ...]) -> Callable[[nn.Module, object, Tensor], Tensor]:
    """Return a hook behind the similarity network, which makes other embeddings once for each shape."""

    @functools.cache
    def made(shape: torch.Size, device: torch.device, dtype: torch.dtype) -> Float[Tensor, "N T L"]:
        if len(kept) != shape[0]:
            raise InputError(f"expected active bins for {shape[0]} clips, got {kept}")
        return embedding_of(layer, kept, shape[1]).to(device, dtype)

    return lambda _module, _inputs, found: made(found.shape, found.device, found.dtype)


def embedding_of(
    layer: SimilarityGuidedSampling, active_bins: Sequence[int], frames: int
) -> Float[torch.Tensor, "N T L"]:
    """Return embeddings of the T maps of clips that fall into so many bins.

    Raises:
        InputError: a clip cannot keep so many maps.
    """
    bins = layer.num_bins if isinstance(layer.num_bins, int) else frames
    most = min(bins, frames)
    if wrong := [kept for kept in active_bins if not 1 <= kept <= most]:
        raise InputError(f"a clip of {frames} maps in {bins} bins cannot keep {wrong[0]}: give each 1 to {most}")
    embedding = torch.zeros(len(active_bins), frames, layer.embedding_dim)
    embedding[:, :, 0] = torch.stack([magnitudes(kept, frames, bins) for kept in active_bins])
    return embedding


def magnitudes(active_bins: int, frames: int, num_bins: int) -> Float[Tensor, " T"]:
    """Return magnitudes of T maps at the centres of the highest A of B bins; neighbours in time share a bin."""
    bin_T = num_bins - active_bins + torch.arange(frames) * active_bins // frames
    return (2 * bin_T + 1) / (2 * num_bins - 1)


def at_every_site(active_bins: Sequence[int], maps: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Return the active bins at each site for those at the first: the same share of the maps, rounded up.

    Args:
        maps: by site, the maps that come in; SlowFast's pathways differ in them.
    """
    first = next(iter(maps.values()))
    return {site: tuple(math.ceil(kept * own / first) for kept in active_bins) for site, own in maps.items()}
