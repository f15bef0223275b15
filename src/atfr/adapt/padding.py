"""How far zero padding in time reaches: which maps of a clip differ from the others, whatever the clip shows."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from atfr.adapt.meta import copied
from atfr.adapt.places import outputs_of, trial_inputs
from atfr.errors import AdaptError

FRAMES, SIDE = 192, 16
"""A clip that most networks take: many maps are left where some pathway strides over time, and no stride drops any."""
TOLERANCE = 1e-9


def edge_maps_at(model: nn.Module, paths: Sequence[str], example: Any = None) -> list[int]:
    """Return how many maps at either end zero padding has touched, in the output of each submodule; 0 at the input.

    A still clip goes through the network up to there, in float64 on the CPU: once with weights that are all positive,
    so that nothing that padding does can cancel out or be cut off, and once with random ones, so that no max pool hides
    it. Maps that differ from the one in the middle were touched. The network itself is left alone.

    Raises:
        AdaptError: no trial clip gets there.
    """
    inner = [path for path in paths if path]
    if not inner:
        return [0] * len(paths)
    generator = torch.Generator().manual_seed(0)
    twin = copied(model, "cpu", torch.float64)
    named = (*twin.named_parameters(), *twin.named_buffers())
    states = [{name: drawn(name, value, positive, generator) for name, value in named} for positive in (True, False)]
    failed: AdaptError | None = None
    for trial in still_clips(model, example, generator):
        try:
            found = [outputs_of(twin, inner, state, trial) for state in states]
        except AdaptError as error:
            failed = error
            continue
        return [max(touched(outputs[path]) for outputs in found) if path else 0 for path in paths]
    raise AdaptError(f"how far zero padding reaches could not be found; give it as edge_maps=: {failed}") from failed


def drawn(name: str, value: Tensor, positive: bool, generator: torch.Generator) -> Tensor:
    """Return what stands for a parameter or buffer: weights that keep the scale of maps, scales of 1, no shifts."""
    if not value.is_floating_point():
        return torch.zeros_like(value, device="cpu")
    if value.dim() < 2:
        shift = name.endswith(("bias", "running_mean"))
        return torch.full(value.shape, 0.0 if shift else 1.0, dtype=torch.float64)
    if not positive:
        normal = torch.randn(value.shape, dtype=torch.float32, generator=generator)  # of float64 it takes twice as long
        return normal.double() * (2 / value[0].numel()) ** 0.5
    weights = 0.5 + torch.rand(value.shape, dtype=torch.float64, generator=generator)
    return weights / weights.flatten(1).sum(1).view(-1, *[1] * (value.dim() - 1))


def still_clips(model: nn.Module, example: Any, generator: torch.Generator) -> Iterator[Any]:
    """Yield inputs to try, every clip of which repeats one positive frame."""

    def still(like: Tensor) -> Tensor:
        frame = torch.rand(1, like.shape[1], 1, *like.shape[3:], dtype=torch.float64, generator=generator)
        return (0.5 + frame).expand(1, *like.shape[1:])

    trials = trial_inputs(model, example)
    if isinstance(trials[0], Tensor):
        yield still(torch.empty(1, trials[0].shape[1], FRAMES, SIDE, SIDE, device="meta"))
    for trial in trials:
        yield torch.utils._pytree.tree_map_only(Tensor, still, trial)


def touched(maps: Tensor) -> int:
    """Return how many maps at the end that has more of them differ from the middle one."""
    by_time = maps.movedim(2, 0).flatten(1)
    middle = len(by_time) // 2
    off = (by_time - by_time[middle]).abs().amax(1) > TOLERANCE * by_time[middle].abs().amax()
    before, behind = off[:middle], off[middle + 1 :].flip(0)
    return max(int(side.nonzero().max()) + 1 if side.any() else 0 for side in (before, behind))
