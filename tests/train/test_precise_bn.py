"""Precise batch-norm statistics against all values in one batch, and against fvcore's."""

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from atfr import PackedClips
from atfr.models import VideoModel
from atfr.train.precise_bn import update_batch_norm
from tests.evaluate.build import network
from tests.processes import run_processes


class Packing(nn.Module):
    """Clips lose their last maps, each another number, and come into batch norm packed."""

    def __init__(self, momentum: float | None = 0.1) -> None:
        super().__init__()
        self.norm = nn.BatchNorm3d(3, momentum=momentum)

    def forward(self, clips: Tensor) -> Tensor:
        packed = PackedClips.pack([clip[:, : 1 + number % 4] for number, clip in enumerate(clips)])
        return self.norm(packed).mean((2, 3, 4))


def clips(seed: int, count: int) -> Tensor:
    """A batch far from zero, whose mean and width go with its number."""
    generator = torch.Generator().manual_seed(seed)
    return 1000 + 5 * seed + (1 + seed) * torch.randn(count, 3, 4, 5, 6, generator=generator)


BATCHES = [clips(0, 2), clips(1, 7), clips(2, 3), clips(3, 5)]


def all_values() -> Tensor:
    """What comes into `Packing.norm`, channels by values, in float64."""
    parts = [clip[:, : 1 + number % 4].flatten(1) for batch in BATCHES for number, clip in enumerate(batch)]
    return torch.cat(parts, dim=1).double()


@pytest.mark.parametrize("momentum", [0.1, None])
def test_statistics_are_those_of_all_real_maps_in_one_batch(momentum: float | None) -> None:
    model = Packing(momentum)
    update_batch_norm(model, BATCHES)
    values = all_values()
    torch.testing.assert_close(model.norm.running_mean.double(), values.mean(1), rtol=1e-6, atol=0)
    torch.testing.assert_close(model.norm.running_var.double(), values.var(1), rtol=1e-5, atol=0)
    assert model.norm.track_running_stats
    assert model.norm.num_batches_tracked == 0
    assert not model.norm._forward_pre_hooks


def test_no_batch_changes_nothing() -> None:
    model = Packing()
    before = copy.deepcopy(model.state_dict())
    update_batch_norm(model, [])
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())


def test_an_adapted_network_has_fvcores_statistics() -> None:
    precise_bn = pytest.importorskip("fvcore.nn.precise_bn", reason="fvcore is not installed")
    ours, theirs = network().train(), network().train()
    batches = [torch.randn(count, 3, 4, 32, 32) + count for count in (2, 4, 3)]
    counts: Counter[str] = Counter()

    def count(name: str) -> Callable[..., None]:
        return lambda _, inputs: counts.update({name: inputs[0].numel() // inputs[0].shape[1]})

    layers = {name: layer for name, layer in ours.named_modules() if isinstance(layer, nn.BatchNorm3d)}
    for name, layer in layers.items():
        layer.register_forward_pre_hook(count(name))
    update_batch_norm(ours, batches)
    precise_bn.update_bn_stats(theirs, batches, num_iters=3)
    assert len(set(counts.values())) > 4
    for name, layer in layers.items():
        expected = theirs.get_submodule(name)
        biased = layer.running_var * (counts[name] - 1) / counts[name]  # fvcore leaves out Bessel's correction
        torch.testing.assert_close(layer.running_mean, expected.running_mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(biased, expected.running_var, rtol=1e-4, atol=1e-5)
        assert not torch.equal(layer.running_mean, torch.zeros_like(layer.running_mean))


def test_frozen_layers_and_weights_stay() -> None:
    model = network().train()
    model.stem.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    update_batch_norm(model, [torch.randn(2, 3, 4, 32, 32)])
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    expected = {name for name in before if "running_" in name and not name.startswith("stem.")}
    assert changed == expected


def share(rank: int, folder: Path, model: VideoModel) -> None:
    def mine() -> Iterator[Tensor]:
        yield from BATCHES[3:] if rank else BATCHES[:3]  # not alike

    update_batch_norm(model, mine())
    torch.save(model.state_dict(), folder / f"{rank}.pt")


def test_processes_with_batches_of_their_own_end_alike(tmp_path: Path) -> None:
    model = Packing()
    run_processes(share, tmp_path, model)
    update_batch_norm(model, BATCHES)
    for rank in range(2):
        for name, tensor in torch.load(tmp_path / f"{rank}.pt").items():
            torch.testing.assert_close(tensor, model.state_dict()[name], rtol=1e-6, atol=0)
