"""Kinds of networks that a rewriting could change without a word, each against the network itself."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import atfr
from atfr import private
from atfr.kernels.conv3d import Conv3d
from atfr.optimize import conv
from atfr.optimize.conv import FusedConv3d
from tests.models.randomise import scramble_

SHAPE = (2, 3, 4, 6, 6)


def unit() -> nn.Sequential:
    return nn.Sequential(nn.Conv3d(3, 3, 3, padding=1), nn.BatchNorm3d(3), nn.ReLU())


class Made(nn.Module):
    """One unit, a convolution, and a forward of one's own."""

    def __init__(self, run: Callable[..., Any]) -> None:
        super().__init__()
        self.unit, self.conv, self.run, self.calls = unit(), nn.Conv3d(3, 3, 1), run, 0
        self.held: list[Any] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def assert_same(model: nn.Module, clips: Tensor | None = None, gradients: bool = False) -> nn.Module:
    """Values, gradients of the clips, and what is not finite; twice, as a forward may keep something."""
    model = scramble_(model).eval()
    fast = atfr.optimize_for_inference(model)
    clips = torch.randn(SHAPE) if clips is None else clips
    for _ in range(2):
        results = []
        for each in (model, fast):
            given = clips.clone().requires_grad_(gradients)
            with torch.enable_grad() if gradients else torch.inference_mode():
                logits = each(given)
                results.append([logits, *([torch.autograd.grad(logits.sum(), given)[0]] if gradients else [])])
        assert results[0][0].stride() == results[1][0].stride()
        for expected, got in zip(*results, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4, equal_nan=True)
    return fast


def counts(m: Made, x: Tensor) -> Tensor:
    m.calls += 1
    return m.unit(x) * m.calls


def caches(m: Made, x: Tensor) -> Tensor:
    m.held.append(x)
    return m.unit(x) + len(m.held)


def asks(m: Made, x: Tensor) -> Tensor:
    return m.unit(x) if isinstance(x, Tensor) else x


def cuts(m: Made, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = m.unit(x)
    return y * m.conv(x)


def first_frame(m: Made, x: Tensor) -> Tensor:
    y = m.conv(x)
    return (y * y[:, :, :1]).mean((2, 3, 4))


def over_a_view(m: Made, x: Tensor) -> Tensor:
    y = m.conv(x)
    part = y[:, :2]
    part += m.unit(x)[:, :2]
    return F.relu(y + m.conv.weight[0, 0, 0, 0, 0])


def in_parts(m: Made, x: Tensor) -> Tensor:
    return m.unit[:2](x) if x.shape[2] > 1 else m.unit(x)


def flat_view(m: Made, x: Tensor) -> Tensor:
    return m.unit(x).view(x.size(0), -1)


def written_through_flatten(m: Made, x: Tensor) -> Tensor:
    y = m.conv(x)
    y.flatten(1).mul_(2)
    return F.relu(y)


def with_its_size(m: Made, x: Tensor) -> Tensor:
    return m.unit(x) + m.conv(x) + x.shape[2]


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 1

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


RUNS = [counts, caches, asks, cuts, first_frame, over_a_view, in_parts, flat_view, written_through_flatten]
RUNS += [with_its_size, lambda m, x: Reversed.apply(m.unit(x)), lambda m, x: F.conv3d(m.unit(x), m.unit[0].weight)]
RUNS += [lambda m, x: torch.cat([m.unit(x).detach(), m.conv(x)], 1), lambda m, x: m.unit(x).permute(0, 2, 3, 4, 1)]


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("run", RUNS)
def test_forwards_that_keep_ask_cut_and_alias(run: Callable[..., Any], gradients: bool) -> None:
    assert_same(Made(run), gradients=gradients)


def test_optional_arguments() -> None:
    class Optional(Made):
        def forward(self, x: Tensor, scale: float | None = None) -> Tensor:
            return self.unit(x) if scale is None else self.conv(x) * scale

    fast = assert_same(Optional(first_frame))
    clips = torch.randn(SHAPE)
    torch.testing.assert_close(fast(clips, 2.0), fast(clips, scale=2.0))


def test_a_forward_of_an_instance() -> None:
    model = nn.Sequential(unit(), nn.Conv3d(3, 3, 1))
    model[0].forward = lambda x: x + 1  # type: ignore[method-assign]
    model[1]._conv_forward = lambda x, w, b: F.conv3d(x, w, b) * 2  # type: ignore[method-assign]
    assert_same(model)
    model = unit()
    model.forward = lambda x: x + 1  # type: ignore[method-assign]
    assert_same(model)
    model = nn.Sequential(unit())
    model.forward = MethodType(lambda m, x: m[0][1](m[0][0](x)) + m[0](x), model)  # type: ignore[method-assign]
    assert_same(model)


def test_a_class_of_ones_own_with_a_forward_of_ours() -> None:
    class Own(type(atfr.create_model("resnet3d_18", num_classes=5))):  # type: ignore[misc]
        pass

    model = assert_same(Own("resnet3d_18", num_classes=5), torch.randn(1, 3, 4, 32, 32))
    assert not [module for module in model.modules() if isinstance(module, nn.BatchNorm3d)]


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
def test_hooks_on_each_module(place: int, kind: str) -> None:
    model, seen = unit(), []
    getattr(model[place], f"register_{kind}_hook")(lambda *args: seen.append(args[0]))
    fast = assert_same(model, gradients="backward" in kind)
    assert len(seen) == 4
    assert model[place] in seen
    assert fast.get_submodule(str(place)) in seen


def test_hooks_on_all_modules() -> None:
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, args, output: output + 1 if isinstance(module, nn.ReLU) else None
    )
    try:
        assert_same(unit())
    finally:
        handle.remove()


@pytest.mark.parametrize("after", ["0.2", "1.0.unit.0"])
def test_a_sampler_on_what_is_rewritten(after: str) -> None:
    blocks = nn.Sequential(Made(lambda m, x: m.unit(x)), unit())
    model = scramble_(nn.Sequential(unit(), blocks, nn.AdaptiveAvgPool3d(1), nn.Flatten())).eval()
    atfr.adapt_(model, after=after)
    fast = atfr.optimize_for_inference(model)
    clips = torch.randn(2, 3, 6, 8, 8)
    clips[0] = clips[0, :, :1]
    with torch.inference_mode(), atfr.record(model) as expected, atfr.record(fast) as got:
        torch.testing.assert_close(fast(clips), model(clips), rtol=1e-4, atol=1e-3)
    assert got.kept_maps == expected.kept_maps != []


@pytest.mark.parametrize("name", ["x3d_xs", "resnet3d_18"])
def test_an_input_that_requires_grad(name: str) -> None:
    model = scramble_(atfr.create_model(name, num_classes=5)).eval()
    atfr.adapt_(model, after="res2", sampler="uniform", active_bins=3)
    model.double()  # in float32 the input of a ReLU that is almost 0 may round to its other side, and open another path
    clips = torch.randn(2, 3, 4, 32, 32, dtype=torch.float64, requires_grad=True)
    logits, ours = model(clips), atfr.optimize_for_inference(model)(clips)
    torch.testing.assert_close(ours, logits, rtol=0, atol=1e-9 * logits.abs().max().item())
    expected, got = (torch.autograd.grad(each.sum(), clips)[0] for each in (logits, ours))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-9 * expected.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_what_is_not_finite_stays(value: float, dtype: torch.dtype) -> None:
    model = scramble_(nn.Sequential(unit(), unit(), nn.Conv3d(3, 4, 1), nn.ReLU6())).eval()
    fast = atfr.optimize_for_inference(model).to(dtype)
    assert [module.activation for module in fast.modules() if isinstance(module, FusedConv3d)] == [
        "relu",
        "relu",
        "relu6",
    ]
    clips = torch.randn(SHAPE).to(dtype)
    clips[0, 1, 2, 3, 3] = value
    with torch.inference_mode():
        expected, got = model.to(dtype)(clips), fast(clips)
    assert torch.equal(got.isnan(), expected.isnan())
    assert got.isnan().any() == (value != 3e38)


def test_numbers_that_leave_float32_between_two_layers() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Sequential(nn.Conv3d(8, 8, 1), nn.ReLU()) for _ in range(8))).eval()
    for module in model:
        module[0].weight.data.uniform_(-1e8, 1e8)
    clips = torch.randn(2, 8, 2, 3, 3)
    with torch.inference_mode():
        expected, got = model(clips), atfr.optimize_for_inference(model)(clips)
    assert expected.isnan().any()
    assert torch.equal(got.isnan(), expected.isnan())


@pytest.mark.parametrize("name", ["stem.norm.weight", "res2.0.norm_a.running_var"])
def test_a_bad_weight_makes_bad_logits(name: str) -> None:
    model = scramble_(atfr.create_model("resnet3d_18", num_classes=5)).eval()
    model.state_dict()[name].view(-1)[0] = float("nan")
    with torch.inference_mode():
        assert atfr.optimize_for_inference(model)(torch.randn(1, 3, 4, 32, 32)).isnan().all()


def test_what_our_convolution_does_not_keep_may_be_written_over() -> None:
    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = Conv3d(3, 3, 3, padding=1, groups=3)

        def forward(self, x: Tensor) -> Tensor:
            y = F.silu(x)
            return self.conv(y) + torch.relu_(y)  # PyTorch's convolution keeps y, for a gradient that nobody asks for

    assert_same(Written().requires_grad_(False), gradients=True)


def test_a_caller_with_our_hooks_that_does_more_with_a_part_than_call_it() -> None:
    class Nested(nn.Module):
        def __init__(self, run: Callable[..., Any]) -> None:
            super().__init__()
            self.stem, self.block, self.run = nn.Conv3d(3, 3, 1), Made(lambda m, x: m.unit(x)), run
            self.block.scale = 2.0

        def forward(self, x: Tensor) -> Tensor:
            return self.run(self, self.stem(x)).mean((2, 3, 4))

    calls: list[tuple[Callable[..., Any], int]] = [
        (lambda m, x: m.block(x), 1),
        (lambda m, x: m.block(x) * m.block.scale, 0),
        (lambda m, x: m.block.unit[1](m.block.conv(x)) + m.block(x), 0),
        (lambda m, x: m.block(x) * m.block.unit[0].bias[:, None, None, None], 0),
    ]
    for run, fused in calls:
        model = scramble_(Nested(run)).eval()
        atfr.adapt_(model, after="stem", sampler="uniform", active_bins=2, example=torch.randn(SHAPE))
        fast = assert_same(model)
        assert sum(isinstance(module, FusedConv3d) for module in fast.modules()) == fused


def test_transforms_of_functions() -> None:
    model = scramble_(nn.Sequential(unit(), nn.Conv3d(3, 4, 1), nn.AdaptiveAvgPool3d(1), nn.Flatten())).eval()
    fast = atfr.optimize_for_inference(model)
    model.requires_grad_(False)
    clips = torch.randn(SHAPE)
    for transformed in (
        lambda f: torch.func.grad(lambda x: f(x).sum())(clips),
        lambda f: torch.func.vmap(f)(clips[None]),
    ):
        torch.testing.assert_close(transformed(fast), transformed(model), rtol=1e-4, atol=1e-4)


@contextmanager
def without(monkeypatch: pytest.MonkeyPatch, part: str) -> Iterator[None]:
    """A torch in which a private part is missing or answers otherwise."""
    if part == "MKLDNN":
        monkeypatch.setattr(conv, "MKLDNN", None)
    else:
        monkeypatch.setattr(private, part, None)
    yield


@pytest.mark.parametrize("part", ["MKLDNN", "FORWARD_LEVEL", "FUNCTORCH", "HOOKS_ARE_SEEN"])
def test_without_what_is_private_in_torch(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with without(monkeypatch, part):
        fast = assert_same(nn.Sequential(unit(), nn.Conv3d(3, 3, 1), nn.SiLU()))
        fused = [module for module in fast.modules() if isinstance(module, FusedConv3d)]
        assert len(fused) == (0 if part == "HOOKS_ARE_SEEN" else 2)
        assert all(not module._by_shape for module in fused), "an operation of oneDNN ran"


def test_the_probe_finds_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert private.sees_hooks()
    monkeypatch.setattr(private, "OF_CALLS", private.OF_CALLS[1:])
    assert not private.sees_hooks()
    monkeypatch.setattr(torch.ops.mkldnn, "_convolution_pointwise", lambda *args: args[0], raising=False)
    assert private.mkldnn(torch.float32) is None


def test_a_processor_whose_onednn_has_no_bfloat16_runs_it_in_pytorchs_operations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It raised "bf16 path needs the cpu support avx_ne_convert or avx512bw" on such a processor."""
    monkeypatch.setattr(conv, "MKLDNN_TYPES", frozenset({torch.float32}))
    fast = assert_same(nn.Sequential(unit(), nn.Conv3d(3, 3, 1), nn.SiLU()))
    convolutions = [module for module in fast.modules() if isinstance(module, FusedConv3d)]
    assert all(module._by_shape for module in convolutions)
    fast, clips = fast.to(torch.bfloat16), torch.randn(2, 3, 4, 8, 8).bfloat16()
    with torch.inference_mode():
        found = fast(clips)
    assert not any(module._by_shape for module in convolutions), "an operation of oneDNN ran"
    torch.testing.assert_close(found.float(), fast.float()(clips.float()), rtol=0.05, atol=0.05)
