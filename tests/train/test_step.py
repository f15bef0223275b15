"""What a step with SGS does: it waits for A alone, batch norm takes no further pass, SGS keeps hardly anything."""

import warnings
from collections import Counter
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import atfr

NETWORKS = {"x3d_xs": (2, 3, 6, 32, 32), "resnet3d_18": (2, 3, 6, 32, 32)}
WAITING = {"_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal", "masked_select", "_unique2", "unique_dim"}
"""Operations that wait for a device until all before them is done."""


class Operations(TorchDispatchMode):
    """Counts what reaches the kernels, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func.overloadpacket.__name__] += 1
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


def adaptive(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = atfr.create_model(name, num_classes=3).train()
    atfr.adapt_(model, after="res2")
    return model


def step(model: nn.Module, optimizer: torch.optim.Optimizer, clips: Tensor) -> None:
    optimizer.zero_grad()
    F.cross_entropy(model(clips), torch.arange(len(clips), device=clips.device)).backward()
    optimizer.step()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_reads_the_lengths_and_no_other_value(name: str) -> None:
    model, clips = adaptive(name), torch.randn(NETWORKS[name])
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    step(model, optimizer, clips)
    read: list[torch.Size] = []
    tolist = Tensor.tolist

    def noted(tensor: Tensor) -> Any:
        read.append(tensor.shape)
        return tolist(tensor)

    with Operations() as operations, patch.object(Tensor, "tolist", noted):
        step(model, optimizer, clips)
    assert read == [(len(clips),)]
    assert not WAITING & operations.counts.keys()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_waits_for_the_device_once(name: str) -> None:
    model, clips = adaptive(name).cuda(), torch.randn(NETWORKS[name], device="cuda")
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    step(model, optimizer, clips)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            step(model, optimizer, clips)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(waits) == 1, [str(wait.message) for wait in waits]


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last_3d])
def test_batch_norm_of_packed_clips_is_one_pass_each_way(format: torch.memory_format) -> None:
    packed = atfr.PackedClips.pack([torch.randn(4, length, 5, 5) for length in (3, 1, 2)]).contiguous(
        memory_format=format
    )
    layer = nn.BatchNorm3d(4)
    slope = torch.randn_like(packed.plain())
    with Operations() as operations:
        layer(packed.requires_grad_()).plain().backward(slope)
    heavy = {
        name: count for name, count in operations.counts.items() if name not in ("detach", "alias", "empty", "add_")
    }
    assert heavy == {"native_batch_norm": 1, "native_batch_norm_backward": 1}


@pytest.mark.parametrize("name", NETWORKS)
def test_sgs_keeps_next_to_nothing_for_the_backward_pass(name: str) -> None:
    model, clips = adaptive(name), torch.randn(NETWORKS[name])
    layer = model.get_submodule(model.stage_paths["res2"]).sgs
    own, others, forward = {}, {}, layer.forward

    def keep(kept: dict[int, int], tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    def keeping(kept: dict[int, int]) -> torch.autograd.graph.saved_tensors_hooks:
        return torch.autograd.graph.saved_tensors_hooks(lambda tensor: keep(kept, tensor), lambda tensor: tensor)

    def watched(features: Tensor) -> Tensor:
        with keeping(own):
            return forward(features)

    with patch.object(layer, "forward", watched), keeping(others):
        logits = model(clips)
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    alone = sum(size for place, size in own.items() if place not in others and place not in parameters)
    everything = sum(size for place, size in (own | others).items() if place not in parameters)
    assert logits.requires_grad
    assert 0 < alone < 0.01 * everything
