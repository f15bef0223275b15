"""`adapt_` tries a network by numbers, and `atfr.check` does: clips together are what they are alone, or it is said.

Nothing of the network changes by being tried, whatever its forward keeps, asserts or calls.
"""

import random
import warnings
from collections.abc import Callable
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils import weight_norm as old_weight_norm
from torch.utils.checkpoint import checkpoint

import atfr
from atfr.adapt.passes import wave
from atfr.errors import AdaptError, InputError, UnsupportedNetworkError


class Middle(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Own(nn.Module):
    """A network with a middle of the test's choice, in a module or in its own forward."""

    def __init__(self, function: Callable[[Tensor], Tensor], inside: bool = False) -> None:
        super().__init__()
        self.early, self.late = nn.Conv3d(3, 6, 3, padding=1), nn.Conv3d(6, 6, 3, padding=1)
        self.middle = Middle(function) if inside else function

    def forward(self, clips: Tensor) -> Tensor:
        return self.late(self.middle(self.early(clips))).mean((2, 3, 4))


class MixingBackward(torch.autograd.Function):
    """The identity, whose gradient knows how many maps all clips have."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * (1.0 / gradient.shape[2])


MIXING = {
    "one over its length": lambda x: x * (1.0 / x.shape[2]),
    "half its length": lambda x: x * (0.5 * x.shape[2]),
    "without its class": lambda x: x - torch.Tensor(x).mean(),
    "printed and read": lambda x: x * int(f"{x.shape[2]}"),
    "a sum of a range": lambda x: x * sum(range(x.shape[2])),
    "hidden by a zero": lambda x: x,
    "backward alone": MixingBackward.apply,
}


class ZeroGate(Own):
    """What mixes clips is multiplied by zero, as residual branches are before training."""

    def __init__(self) -> None:
        super().__init__(lambda x: x, inside=True)
        self.branch, self.gate = Middle(lambda x: x * (1.0 / x.shape[2])), nn.Parameter(torch.zeros(1))

    def forward(self, clips: Tensor) -> Tensor:
        x = self.early(clips)
        return self.late(x + self.gate * self.branch(x)).mean((2, 3, 4))


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("name", MIXING)
def test_what_no_operation_notices_is_refused(name: str, inside: bool) -> None:
    torch.manual_seed(0)
    gated = name == "hidden by a zero"
    model = ZeroGate() if gated else Own(MIXING[name], inside)
    keys = list(model.state_dict())
    where = "'branch'" if gated else "'middle'" if inside else "the network's own forward"
    where = "'early" if name == "backward alone" else where
    with pytest.raises(UnsupportedNetworkError, match=f"first in {where}"):
        atfr.adapt_(model, after="early")
    assert list(model.state_dict()) == keys


# Networks that need numbers, or keep what they have made: tried, and left as they were.


class NeedsNumbers(Own):
    def __init__(self) -> None:
        super().__init__(lambda x: x)

    def forward(self, clips: Tensor) -> Tensor:
        assert clips.max() < 10
        return super().forward(clips)


class PlainTensors(Own):
    """A tensor that is no buffer, one in a list, and one that was computed."""

    def __init__(self) -> None:
        super().__init__(lambda x: x)
        self.mean, self.scales = torch.rand(3, 1, 1, 1), [torch.rand(6, 1, 1, 1)]
        self.computed = self.late.weight.mean((2, 3, 4), keepdim=True) * 2

    def forward(self, clips: Tensor) -> Tensor:
        return self.late(self.early(clips - self.mean) * self.scales[0] * self.computed.mean()).mean((2, 3, 4))


class Cached(Own):
    """A mask made on first use, a counter, a history, an empty table and a buffer written in place."""

    def __init__(self) -> None:
        super().__init__(lambda x: x)
        self.mask: Tensor | None = None
        self.calls, self.history, self.seen = 0, [], {}
        self.register_buffer("largest", torch.zeros(()))

    def forward(self, clips: Tensor) -> Tensor:
        if self.mask is None:
            self.mask = torch.ones(1, 6, 1, 1, 1, device=clips.device, dtype=clips.dtype)
        self.calls += 1
        self.history.append(clips.shape)
        self.seen[len(clips)] = True
        self.largest.copy_(clips.max())
        return self.late(self.early(clips) * self.mask).mean((2, 3, 4))


class Hooked(Own):
    """Hooks that count: a closure, a bound method and one by a default; and a buffer of batch norm."""

    def __init__(self) -> None:
        super().__init__(lambda x: x)
        self.norm, self.counted = nn.BatchNorm3d(6), 0
        self.early.register_forward_hook(self.count)
        self.middle = self.norm

    def count(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        self.counted += 1
        return output * 2


class Stochastic(Own):
    """Draws numbers from every source in training."""

    def __init__(self) -> None:
        super().__init__(lambda x: x)

    def forward(self, clips: Tensor) -> Tensor:
        noise = random.random() + np.random.rand() + float(torch.rand(1)) if self.training else 0.0
        return super().forward(clips) + noise


class Locked(Own):
    """Has what cannot be copied."""

    def __init__(self) -> None:
        super().__init__(lambda x: x)
        self.lines = (line for line in ["a"])


def weight_normed() -> nn.Module:
    model = Own(nn.Identity())
    old_weight_norm(model.late)
    model(torch.rand(1, 3, 4, 8, 8))  # the weight is the result of a computation from here on
    return model


def pruned() -> nn.Module:
    model = Own(nn.Identity())
    prune.l1_unstructured(model.late, "weight", 0.5)
    return model


def parametrized() -> nn.Module:
    model = Own(nn.Identity())
    parametrizations.weight_norm(model.late)
    return model


def everything(model: nn.Module) -> list[Any]:
    """All that modules hold but for submodules, tensors with their identity, version, device and numbers."""
    found: list[Any] = []
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            for leaf in torch.utils._pytree.tree_leaves(value):
                if isinstance(leaf, Tensor):
                    found.append((path, name, id(leaf), leaf._version, leaf.device, leaf.detach().clone()))
                elif not isinstance(leaf, nn.Module):
                    found.append((path, name, id(leaf), leaf))
    return found


def assert_same(before: list[Any], after: list[Any]) -> None:
    for one, other in zip(before, after, strict=True):
        for value, now in zip(one, other, strict=True):
            assert torch.equal(value, now) if isinstance(value, Tensor) else value == now, (one[:2], value, now)


NETWORKS: list[Callable[[], nn.Module]] = [
    NeedsNumbers, PlainTensors, Cached, Hooked, Stochastic, Locked, weight_normed, pruned, parametrized
]  # fmt: skip
CALLED: list[int] = []


def count_globally(*_: Any) -> None:
    CALLED.append(1)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("make", NETWORKS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("grad", [False, True])
def test_a_network_is_left_as_it_was(make: Callable[[], nn.Module], grad: bool) -> None:
    torch.manual_seed(0)
    model, called = make(), []
    model.late.register_forward_hook(lambda *_: called.append(1))
    model.late.register_forward_pre_hook(lambda module, args, called=called: called.append(1))
    model.late.register_forward_hook(count_globally)
    model.late.train()
    before = everything(model)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    with torch.set_grad_enabled(grad):
        assert atfr.adapt_(model, after="early", sampler="uniform", active_bins=2).tried
        report = atfr.check(model)
        assert torch.is_grad_enabled() == grad
    assert report.apart, report
    assert not called
    assert not CALLED
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]
    atfr.restore_(model)
    assert_same(before, everything(model))


def test_a_hook_is_tried_with_the_rest() -> None:
    model = Own(nn.Identity())
    model.late.register_forward_hook(lambda module, args, output: output * (1.0 / output.shape[2]))
    with pytest.raises(UnsupportedNetworkError, match="results move"):
        atfr.adapt_(model, after="early")


class TwoPlaces(Own):
    def __init__(self) -> None:
        super().__init__(nn.Identity())
        self.other = nn.Conv3d(3, 6, 1)

    def forward(self, clips: Tensor) -> Tensor:
        return self.late(self.early(clips) + self.other(clips)).mean((2, 3, 4))


def test_places_whose_outputs_are_added_are_refused_at_once() -> None:
    model = TwoPlaces()
    with pytest.raises(UnsupportedNetworkError, match="same length on both sides"):
        atfr.adapt_(model, after=["early", "other"])
    assert len(model(torch.rand(2, 3, 4, 8, 8))) == 2


def test_a_network_that_mixes_clips_anyway_is_no_fault_of_the_sampler() -> None:
    model = Own(lambda x: nn.functional.dropout(x, 0.5, training=True), inside=True)
    with pytest.warns(UserWarning, match="not apart without a sampler either"):
        assert atfr.adapt_(model, after="early").tried
    assert atfr.check(model).module == "middle"


def test_check_of_ones_own_clips() -> None:
    torch.manual_seed(0)
    model = Own(nn.Identity())
    atfr.adapt_(model, after="early", kernel="linear_mean")
    clips = torch.rand(3, 3, 6, 8, 8) * torch.linspace(0, 3, 6).view(-1, 1, 1)
    assert atfr.check(model, clips).apart
    with pytest.raises(InputError, match="two or more"):
        atfr.check(model, clips[:1])
    with pytest.raises(UnsupportedNetworkError, match="'early'"):
        atfr.check(model, clips[:, :2])
    model.middle = Middle(lambda x: x * (1.0 / x.shape[2]))
    found = atfr.check(model, clips)
    assert (found.module, found.apart) == ("middle", False)
    alone, together = model(clips[:1]), model(clips)[:1]
    moved = ((alone - together).abs().max() / torch.maximum(alone.abs().max(), together.abs().max())).item()
    assert moved == pytest.approx(found.forward, rel=0.5) or found.forward > moved


def test_scripted_modules_and_compiled_networks_are_refused_by_name() -> None:
    model = Own(nn.Identity())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        model.middle = torch.jit.script(nn.Identity())
    with pytest.raises(AdaptError, match=r"'middle'.*torch\.jit"):
        atfr.adapt_(model, after="early")
    model = Own(nn.Identity())
    model.late.compile()
    with pytest.raises(AdaptError, match=r"'late'.*compile"):
        atfr.adapt_(model, after="early")


class Checkpointed(Own):
    def __init__(self, reentrant: bool) -> None:
        super().__init__(nn.Sequential(nn.Conv3d(6, 6, 1), nn.ReLU()))
        self.reentrant = reentrant

    def forward(self, clips: Tensor) -> Tensor:
        x = checkpoint(self.middle, self.early(clips), use_reentrant=self.reentrant)
        return self.late(x).mean((2, 3, 4))


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.filterwarnings("ignore:None of the inputs:UserWarning")
def test_a_checkpointed_stage_is_recorded_once(reentrant: bool) -> None:
    model = Checkpointed(reentrant)
    assert atfr.adapt_(model, after="middle").tried
    with atfr.record(model) as trace:
        model(torch.rand(2, 3, 4, 8, 8)).sum().backward()
    assert len(trace.active_bins) == 2
    assert model.middle[0].weight.grad is not None


def test_a_layer_is_of_the_device_and_type_of_its_place() -> None:
    class InTwoTypes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Sequential(nn.Conv3d(3, 4, 1), nn.ReLU())
            self.second = nn.Sequential(nn.Conv3d(4, 6, 1), nn.ReLU()).double()
            self.head = nn.Linear(6, 5).double()

        def forward(self, clips: Tensor) -> Tensor:
            return self.head(self.second(self.first(clips).double()).mean((2, 3, 4)))

    for place, dtype in (("first.1", torch.float32), ("second.1", torch.float64)):
        model = InTwoTypes()
        assert atfr.adapt_(model, after=place).tried
        assert {p.dtype for p in model.get_submodule(place).sgs.parameters()} == {dtype}
        assert model(torch.rand(2, 3, 4, 8, 8)).shape == (2, 5)


@pytest.mark.filterwarnings("ignore")  # what torch.compile has to say
def test_compiling_an_adapted_network_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # torch 2.11 traces into our checks
    model = Own(nn.Identity())
    atfr.adapt_(model, after="early", sampler="change")  # of SGS more is compiled until then
    model.compile(backend="eager")
    with pytest.raises(Exception, match=r"torch\.compile itself does not take adapted networks"):
        model(torch.rand(2, 3, 4, 8, 8))


def test_samplers_behind_each_other_are_checked_with_clips_of_ones_own() -> None:
    model = Own(lambda x: x)
    atfr.adapt_(model, after=["input", "early"], sampler="change", num_bins=6)
    clips = torch.randn(3, 3, 12, 16, 16)
    clips[1] = clips[1, :, :1]
    assert atfr.check(model, clips).apart


def test_no_two_numbers_of_a_clip_weigh_the_same() -> None:
    weights = wave(torch.zeros(100, 10_000, dtype=torch.float64))
    assert len(weights.unique()) == 1_000_000
    assert weights.mean().abs() < 1e-5  # what all of them move by is told by the mean
