"""Precise batch-norm statistics: the running averages of a training, replaced by those of its present weights.

While a network trains, its running averages mix what was seen by weights that are gone. Here the weights stand still:
some batches run with batch statistics, as in training, and each layer's mean and variance are taken over all values
that come in, whatever batch, clip or process they are of. Packed clips weigh in by their real maps.

Source: Wu and Johnson 2021, "Rethinking 'Batch' in BatchNorm", Sec. 3. Why not a library's: torch's `update_bn`
averages the variances of batches, each batch alike, and forgets how their means differ; fvcore's `update_bn_stats`,
with which the tests compare, knows no processes and subtracts large squares in float32.
"""

import functools
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
import torch.distributed as dist
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from atfr.ragged import PackedClips

Moments = Float64[Tensor, "3 C"]
"""Of the values of each channel: their count, mean, and sum of squared deviations from it."""


@torch.no_grad()
def update_batch_norm(model: nn.Module, batches: Iterable[Float[Tensor, "N C T H W"]]) -> None:
    """Set the running statistics of a network's batch-norm layers to those over some batches of clips.

    They are what torch would note, with momentum 1, of all values in one batch: mean and unbiased variance. Layers in
    evaluation mode (frozen) keep theirs and normalise with them. Of several processes (`torch.distributed`) each brings
    its own batches, and all end with the same statistics.

    Args:
        model: a network in training mode.
        batches: clips, on the network's device; without a batch nothing changes.
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    with _watched(layers) as found:
        for clips in batches:
            model(clips)
    shares = _of_all_processes(found)
    for number, layer in enumerate(layers):
        parts = [share[number] for share in shares if number in share]
        if parts:
            count, mean, squares = functools.reduce(merged, parts)
            layer.running_mean.copy_(mean)  # type: ignore[union-attr]
            layer.running_var.copy_(squares / (count - 1))  # type: ignore[union-attr]


def moments(features: Tensor) -> Moments:
    """Return the moments of features whose channels are the second axis; of packed clips, those of the real maps."""
    plain = features.plain() if isinstance(features, PackedClips) else features
    values = plain.transpose(0, 1).flatten(1)
    values = values if values.dtype == torch.float64 else values.float()
    var, mean = (x.double() for x in torch.var_mean(values, dim=1, correction=0))
    count = torch.full_like(mean, values.shape[1])
    return torch.stack([count, mean, var * count])


def merged(first: Moments, second: Moments) -> Moments:
    """Return the moments of two sets of values together (Chan, Golub and LeVeque 1979, Eq. 2.1)."""
    (count, mean, squares), (more, other_mean, other_squares) = first, second
    total, apart = count + more, other_mean - mean
    return torch.stack([total, mean + apart * more / total, squares + other_squares + apart**2 * count * more / total])


@contextmanager
def _watched(layers: list[_BatchNorm]) -> Iterator[dict[int, Moments]]:
    """Gather the moments of what comes into each layer, by its number; running statistics rest meanwhile."""
    found: dict[int, Moments] = {}

    def gather(number: int, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        new = moments(inputs[0])
        found[number] = merged(found[number], new) if number in found else new

    with ExitStack() as stack:
        for number, layer in enumerate(layers):
            stack.enter_context(layer.register_forward_pre_hook(functools.partial(gather, number)))
            stack.callback(setattr, layer, "track_running_stats", True)
            layer.track_running_stats = False
        yield found


def _of_all_processes(found: dict[int, Moments]) -> list[dict[int, Moments]]:
    """Return what each process has found, on this one's device."""
    if not dist.is_available() or not dist.is_initialized():
        return [found]
    shares: list[dict[int, Moments]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(shares, {number: part.cpu() for number, part in found.items()})
    device = next((part.device for part in found.values()), torch.device("cpu"))
    return [{number: part.to(device) for number, part in share.items()} for share in shares]
