"""atfr.compile takes a network, or says why not: random ones, and each kind that is refused."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import atfr
from atfr.errors import AdaptError, AtfrError, InputError, UnsupportedNetworkError, UnsupportedOperationError
from atfr.ragged import each_clip
from tests.optimize.compiling import Small, TwoPaths, assert_same_step, clips, tiny
from tests.optimize.random_networks import SHAPE, random_network
from tests.optimize.test_random_networks import adapt


def check(seed: int) -> str:
    """Compare a random network with what is compiled of it; return what was done, in a word."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    model = random_network(seed)
    if adapt(model, draw, half=False) == "plain":
        return "plain"
    training = draw.random() < 0.5
    model = model.double().train(training)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    batch = torch.randn(3, *SHAPE[1:], dtype=torch.float64)
    batch[0], batch[1, :, 1:] = batch[0, :, :1], batch[1, :, 1:2]
    other, results = copy.deepcopy(model), []
    for network in (model, atfr.compile(other, backend="eager")):
        try:
            with torch.set_grad_enabled(training):
                logits = network(batch.clone())
            if training:
                logits.square().sum().backward()
        except AtfrError:
            return "refused"
        except (RuntimeError, ValueError):
            assert network is model, "only the compiled one fails"
            return "fails"
        results.append(logits.detach())
    torch.testing.assert_close(*results, rtol=1e-8, atol=1e-9, equal_nan=True)
    for (name, ours), (_, theirs) in zip(other.named_buffers(), model.named_buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9, equal_nan=True, msg=name)
    for (name, ours), (_, theirs) in zip(other.named_parameters(), model.named_parameters(), strict=True):
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in (ours, theirs)]
        torch.testing.assert_close(*grads, rtol=1e-7, atol=1e-7, equal_nan=True, msg=name)
    return "same"


def test_random_networks_are_the_same_or_refused(as_recorded) -> None:
    found = [check(seed) for seed in (127, *range(366, 378))]  # 127 writes over its clips
    assert found.count("same") >= 2, found


@pytest.mark.soak
def test_many_random_networks() -> None:
    found = [check(seed) for seed in (*range(360, 385), *range(1000, 1600))]
    assert found.count("same") > 20, found


class Around(Small):
    """A shortcut around the sampler."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.head(x.mean((2, 3, 4)).repeat(1, 2))


class Frozen(Small):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.stem(x)
        return self.head(self.late(x).mean((2, 3, 4)))


class HalfPrecise(Small):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            x = self.stem(x)
        return self.head(self.late(x.double()).mean((2, 3, 4)))


class RowNorm(Small):
    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.rows(super().forward(x))


class OneByOne(Small):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(each_clip(lambda clip: clip.cumsum(2), self.late(self.stem(x))).mean((2, 3, 4)))


class Twice(Small):
    """A sampler that was put in by hand; `adapt_` refuses such a place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(self.stem, atfr.SimilarityGuidedSampling(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(sum(self.late(self.stem(x + i)).mean((2, 3, 4)) for i in range(2)))


class Branches(nn.Module):
    """Two samplers beside each other, and what happens to the clips between them."""

    def __init__(self, between: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.one, self.two, self.between = nn.Identity(), nn.Conv3d(3, 3, 1), between
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x + 1
        one = self.one(x).mean((2, 3, 4))
        return self.head(torch.cat([one, self.between(self.two, x).mean((2, 3, 4))], 1))


def within(context: Callable[[], AbstractContextManager[object]]) -> Callable[[nn.Module, Tensor], Tensor]:
    def run(two: nn.Module, x: Tensor) -> Tensor:
        with context():
            return two(x)

    return run


def branches(between: Callable[[nn.Module, Tensor], Tensor]) -> nn.Module:
    torch.manual_seed(0)
    model = Branches(between).double()
    atfr.adapt_(model, after=["one", "two"], sampler="change")
    return model


@pytest.mark.parametrize(
    ("between", "words"),
    [
        (lambda two, x: two(x.mul_(2)), r"writes over maps \(mul__1\) after one of its samplers has run"),
        (lambda two, x: (x[:, :, 1:].zero_(), two(x))[1], r"writes over maps \(zero_\)"),
        (within(torch.no_grad), r"has its sampler within torch.no_grad\(\)"),
        (within(partial(torch.autocast, "cpu", torch.bfloat16)), "has its sampler within torch.autocast"),
    ],
)
def test_between_two_samplers_what_the_first_took_stays(as_recorded, between, words: str) -> None:
    refused(branches(between).train(), words)


@pytest.mark.parametrize("between", [lambda two, x: two(x * 2).relu_(), lambda two, x: two((x + 1)[:, :, 1:].mul_(2))])
def test_between_two_samplers_other_maps_may_be_written_over(as_recorded, between) -> None:
    model = branches(between).train()
    assert_same_step(model, atfr.compile(copy.deepcopy(model)), clips(2, 8, 8))


class ByNumbers(Small):
    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits if logits.abs().max() < 100 else logits / 100


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.sign()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient


class OwnGradient(Small):
    def forward(self, x: Tensor) -> Tensor:
        return StraightThrough.apply(super().forward(x))


def refused(model: nn.Module, words: str, batch: Tensor | None = None) -> None:
    with pytest.raises(UnsupportedOperationError, match=words):
        atfr.compile(model, backend="eager")(clips(2, 8, 8) if batch is None else batch)


def adapted(model: nn.Module) -> nn.Module:
    model = model.double()
    atfr.adapt_(model, after="stem")
    return model


def test_what_cannot_be_compiled_says_so(as_recorded) -> None:
    refused(Small(), "has no sampler: put one in with atfr.adapt_")
    refused(adapted(Around()), "one clip more than goes in, so nothing may lead around it")
    for mode in (torch.enable_grad, torch.no_grad):
        with mode():
            if mode is torch.enable_grad:
                refused(adapted(Frozen()), r"has its sampler within torch.no_grad\(\).* requires_grad_\(False\)")
            else:
                atfr.compile(adapted(Frozen()), backend="eager")(clips(2, 8, 8))
            assert torch.is_grad_enabled() is (mode is torch.enable_grad)
    refused(adapted(HalfPrecise()), r"has its sampler within torch.autocast: let that end before the sampler")
    refused(adapted(RowNorm()).train(), "rows is a BatchNorm1d, which atfr.compile does not train")
    refused(adapted(OneByOne()), "runs clip by clip, or asks how long each clip is")
    refused(adapted(ByNumbers()), "cannot be recorded for atfr.compile: .*tracing tensor")
    two = tiny()
    atfr.adapt_(two.late, after="0")
    refused(Twice().double(), "sampler at stem.1 runs twice")
    refused(two, r"sampler at late.0 stands behind another \(stem\)")
    one_path = TwoPaths().double()
    atfr.adapt_(one_path, after="left", sampler="change")
    refused(one_path, "every path that is joined needs a sampler")
    refused(adapted(OwnGradient()).train(), "an autograd function of its own .StraightThrough., whose gradient")
    counting = tiny().train()
    counting.late[1].momentum = None
    refused(counting, r"late.1 is a batch norm with momentum=None")
    several = adapted(nn.SyncBatchNorm.convert_sync_batchnorm(Small())).train()
    refused(several, "is a SyncBatchNorm")


def test_wrong_input() -> None:
    compiled = atfr.compile(tiny().eval(), backend="eager")
    with pytest.raises(InputError, match=r"plain clips N x C x T x H x W, one at least, got shape \(3, 8, 8, 8\)"):
        compiled(torch.zeros(3, 8, 8, 8))
    with pytest.raises(InputError, match="got PackedClips"):
        compiled(atfr.PackedClips.pack([torch.zeros(3, 8, 8, 8)]))
    with pytest.raises(InputError, match="leave out dynamic"):
        atfr.compile(tiny(), dynamic=True)
    with pytest.raises(InputError, match=r"an nn\.Module, got str"):
        atfr.compile("model")
    with pytest.raises(AdaptError, match="got one inside"):
        atfr.compile(nn.DataParallel(tiny()))
    assert issubclass(UnsupportedNetworkError, UnsupportedOperationError)
