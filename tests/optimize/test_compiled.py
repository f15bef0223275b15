"""atfr.compile against the network itself: logits, gradients, statistics, whatever the lengths; and how many graphs."""

from __future__ import annotations

import copy
import random
import shutil
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import atfr
from atfr import private
from atfr.adapt.trace import site_names
from atfr.errors import AdaptError, AtfrError, InputError, UnsupportedNetworkError, UnsupportedOperationError
from atfr.kernels import ragged_depthwise
from atfr.kernels.conv3d import Conv3d
from atfr.optimize import compiled as compiled_networks
from atfr.optimize.compiled import bucket_of
from atfr.ragged import each_clip
from tests.models.narrow import narrow, short
from tests.models.randomise import scramble_
from tests.optimize.random_networks import SHAPE, random_network
from tests.optimize.test_random_networks import adapt

slow = pytest.mark.soak
CHANGE = {"after": "input", "sampler": "change"}
CASES = [
    ("resnet3d_18", {"after": "res2"}),  # strides in time behind it
    pytest.param("x3d_xs", {"after": "res2"}, marks=slow),  # squeeze-and-excitation
    pytest.param("resnet3d_18", CHANGE, marks=slow),
    pytest.param("slowfast_8x8_r18", CHANGE, marks=slow),  # laterals, every 4th map
    pytest.param("slowfast_8x8_r101_nl", CHANGE, marks=slow),  # attention
    pytest.param("i3d_inception", CHANGE, marks=slow),  # padding that depends on the length
    pytest.param("i3d_50", {"after": "res2"}, marks=slow),
    pytest.param("r2plus1d_18", {"after": "res3"}, marks=slow),
    pytest.param("i3d_efficientnet_lite0", CHANGE, marks=slow),
    pytest.param("i3d_efficientnet_lite0", {"after": "res3", "sampler": "uniform", "active_bins": 3.5}, marks=slow),
]


def clips(count: int = 3, frames: int = 16, size: int = 32, dtype: torch.dtype = torch.float64) -> Tensor:
    """A still clip, one that changes all the time, one that stops."""
    made = torch.randn(count, 3, frames, size, size, generator=torch.Generator().manual_seed(count), dtype=dtype)
    made[0] = made[0, :, :1]
    made[-1, :, frames // 3 :] = made[-1, :, frames // 3 : frames // 3 + 1]
    return made


class Excited(nn.Module):
    """Squeeze-and-excitation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv(x.mean((2, 3, 4), keepdim=True)).sigmoid()


class Small(nn.Module):
    """What a network has at least, for tests of all but its layers: recording takes a while for each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv3d(3, 4, 3, (1, 2, 2), 1), nn.BatchNorm3d(4), nn.ReLU())
        self.late = nn.Sequential(nn.Conv3d(4, 6, (3, 1, 1), (2, 1, 1), (1, 0, 0)), nn.BatchNorm3d(6), nn.ReLU())
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.late(self.stem(x)).mean((2, 3, 4)))


class Tiny(Small):
    """Most kinds of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.late = nn.Sequential(
            *self.late[:2],
            nn.ReLU(inplace=True),
            nn.MaxPool3d((2, 1, 1), padding=(1, 0, 0)),
            nn.AvgPool3d((3, 1, 1), 1, (1, 0, 0)),
            Excited(6),
            nn.GroupNorm(2, 6),
            nn.ConstantPad3d((0, 0, 0, 0, 1, 2), 0.5),
        )


def tiny(network: type[nn.Module] = Small, **options: object) -> nn.Module:
    torch.manual_seed(0)
    model = scramble_(network()).double()
    atfr.adapt_(model, **({"after": "stem"} | options))
    generator = torch.Generator().manual_seed(1)
    for layer in site_names(model).values():
        for parameter in layer.parameters():
            nn.init.normal_(parameter, std=0.3, generator=generator)
    return model


@pytest.fixture
def as_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs run as they were recorded, which is quick; that torch.compile takes them is for the other tests here."""
    monkeypatch.setattr(torch, "compile", lambda graph, **options: graph)


def assert_same(found: Tensor, expected: Tensor) -> None:
    """Equal in float64, but for rounding."""
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11 * max(1.0, float(expected.detach().abs().max())))


def step(model: nn.Module, batch: Tensor) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Logits, gradients and buffers of a training step."""
    model.zero_grad()
    logits = model(batch)
    (logits.square().sum() + logits[:, 0].sum()).backward()
    inner = getattr(model, "_orig_mod", model)
    gradients = {name: p.grad for name, p in inner.named_parameters() if p.grad is not None}
    return logits, gradients, dict(inner.named_buffers())


def assert_same_step(model: nn.Module, compiled: nn.Module, batch: Tensor) -> None:
    expected, found = step(model, batch), step(compiled, batch)
    assert_same(found[0], expected[0])
    for ours, theirs in zip(found[1:], expected[1:], strict=True):
        assert ours.keys() == theirs.keys()
        for name in theirs:
            assert_same(ours[name].double(), theirs[name].double())


@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_family_in_inference_and_in_training(name: str, options: dict[str, object]) -> None:
    torch.manual_seed(0)
    with short():
        model = scramble_(narrow(name, num_classes=5, dropout=0.0)).double()
    atfr.adapt_(model, **options)
    batch, model = clips(), model.eval()
    compiled = atfr.compile(copy.deepcopy(model), backend="eager")
    with torch.no_grad(), atfr.record(model) as expected, atfr.record(compiled) as found:
        assert_same(compiled(batch), model(batch))
    assert found.active_bins.tolist() == expected.active_bins.tolist()
    assert len(set(found.kept_maps)) > 1, "the batch is not ragged: the test says little"
    assert_same_step(model.train(), compiled.train(), batch)


def test_many_ragged_batches_need_few_graphs() -> None:
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        graphs.append(graph)
        return graph.forward

    layers = nn.Conv3d(3, 4, 3, (2, 1, 1), 1), nn.BatchNorm3d(4), nn.MaxPool3d((2, 1, 1)), nn.AdaptiveAvgPool3d(1)
    model = scramble_(nn.Sequential(*layers, nn.Flatten(), nn.Linear(4, 5))).double().eval()
    atfr.adapt_(model, after="input", sampler="change")
    compiled = atfr.compile(model, backend=backend)
    chance, kept = random.Random(0), set()
    with torch.no_grad():
        for _ in range(70):
            batch = torch.randn(6, 3, 2, 4, 4, dtype=torch.float64)
            for clip in batch:
                still = chance.randrange(2)
                clip[:, still:] = clip[:, still : still + 1]
            with atfr.record(model) as trace:
                expected = model(batch)
            assert_same(compiled(batch), expected)
            kept.add(sum(trace.kept_maps))
    assert len(kept) > 6, "the batches do not differ"
    assert len(graphs) == 1 + len({bucket_of(maps, 6, 2) for maps in kept})


@given(st.integers(1, 80), st.integers(1, 64), st.data())
def test_numbers_of_maps_are_few_and_little_above(count: int, frames: int, data: st.DataObject) -> None:
    maps = data.draw(st.integers(count, count * frames))
    size = bucket_of(maps, count, frames)
    assert maps + 1 <= size <= max(maps + 2, (maps + 1) * 17 / 16)
    assert size <= count * frames + 1
    assert bucket_of(min(size - 1, count * frames), count, frames) == size


def test_all_options_of_sgs_in_training(as_recorded) -> None:
    for options in (
        {"kernel": "linear_mean", "order": "time", "edge_maps": "found"},
        {"kernel": "kronecker", "temporal_block": 5},
        {"kernel": "keep", "similarity": "spherical", "num_bins": 3},
        {"sampler": "random", "active_bins": 4.5},
    ):
        model = tiny(Tiny if "order" in options else Small, **options).train()
        compiled = atfr.compile(copy.deepcopy(model), backend="eager")
        assert_same_step(model, compiled, clips(4, 12, 8))


def test_statistics_are_those_of_the_real_maps_and_counted_once() -> None:
    model = tiny().train()
    compiled = atfr.compile(copy.deepcopy(model), backend="aot_eager")
    for batch in (clips(4, 12, 8), clips(4, 12, 8).flip(0)):
        assert_same_step(model, compiled, batch)
    assert model.late[1].num_batches_tracked == 2


def test_recording_draws_no_random_numbers(as_recorded) -> None:
    compiled, batch = atfr.compile(tiny().train(), backend="eager"), clips(2, 8, 8)
    state = torch.get_rng_state()
    compiled(batch)
    assert torch.equal(torch.get_rng_state(), state)


def test_modes_weights_and_types_may_change(as_recorded) -> None:
    model = tiny().train()
    compiled = atfr.compile(model, backend="eager")
    other, batch = copy.deepcopy(model), clips(3, 12, 8)
    assert_same_step(other, compiled, batch)
    assert_same_step(other.eval(), compiled.eval(), batch)
    other.late[0].requires_grad_(False), model.late[0].requires_grad_(False)
    assert_same_step(other, compiled, batch)
    with torch.no_grad():
        other.head.weight.mul_(2), model.head.weight.mul_(2)
    fresh = {name: torch.rand_like(value) for name, value in model.late[1].named_buffers() if value.dim()}
    for network in (other, model):
        for name, value in fresh.items():
            setattr(network.late[1], name, value.clone())  # other tensors, not other numbers in them
    with torch.inference_mode():
        assert_same(compiled(batch), other(batch))
        found = compiled.float()(batch.float())
        torch.testing.assert_close(found, other.float()(batch.float()), rtol=1e-4, atol=1e-5)


class Scaled(Small):
    """Its numbers do not all lie in layers."""

    scale = torch.tensor(2.0, dtype=torch.float64)

    def __init__(self) -> None:
        super().__init__()
        self.late.append(nn.ConstantPad3d((0, 0, 0, 0, 1, 2), 0.5))
        self.scales = ([1], [2])

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale * self.scales[1][0]


CHANGES = {
    "a batch norm's momentum": lambda m: setattr(m.late[1], "momentum", 0.9),
    "its epsilon": lambda m: setattr(m.late[1], "eps", 0.5),
    "another activation": lambda m: setattr(m.stem, "2", nn.Tanh()),
    "a stride": lambda m: setattr(m.late[0], "stride", (1, 1, 1)),
    "a padding value": lambda m: setattr(m.late[3], "value", 3.0),
    "a tensor that is no buffer": lambda m: setattr(m, "scale", torch.tensor(5.0, dtype=torch.float64)),
    "lists in a tuple": lambda m: setattr(m, "scales", ([1], [4])),
    "a hook": lambda m: m.late[3].register_forward_hook(lambda module, args, output: output * 0.5),
}


def test_modules_may_change(as_recorded) -> None:
    model, batch = tiny(Scaled, sampler="uniform", active_bins=4).train(), clips(2, 4, 8)  # all maps: one recording
    compiled = atfr.compile(copy.deepcopy(model), backend="eager")
    last = compiled(batch)
    model(batch)  # statistics
    for name, change in CHANGES.items():
        for network in (model, compiled._orig_mod):
            change(network)
        assert_same_step(model, compiled, batch)
        logits, graphs = compiled(batch), len(compiled.graphs)
        model(batch)
        assert name == "a batch norm's momentum" or not torch.allclose(logits, last), name
        compiled(batch), model(batch)
        assert len(compiled.graphs) == graphs, f"{name} has not changed, and it was recorded again"
        last = logits


def test_threads_record_one_after_the_other(as_recorded) -> None:
    model = tiny(after="input", sampler="change").eval()
    compiled = atfr.compile(model, backend="eager")
    batches = [clips(3, frames, 8) for frames in (4, 6, 8, 4)]
    with ThreadPoolExecutor(4) as pool, torch.no_grad():
        results = list(pool.map(torch.no_grad()(compiled), batches))
        for found, batch in zip(results, batches, strict=True):
            assert_same(found, model(batch))


def test_what_is_asked_of_it_is_told_of_the_network(as_recorded) -> None:
    model, batch = tiny(after="input", sampler="change").eval(), clips(3, 8, 8)
    for compiled in (atfr.compile(model, backend="eager"), torch.compile(model, backend="eager")):
        assert atfr.check(compiled, batch).apart
        assert atfr.calibrate_(compiled, batch, share=0.5) == atfr.calibrate_(copy.deepcopy(model), batch, share=0.5)
        assert atfr.clip_cost(compiled, batch.shape[1:]) == atfr.clip_cost(model, batch.shape[1:])
    compiled = atfr.compile(model, backend="eager")
    with torch.no_grad(), atfr.record(compiled) as trace:
        compiled(batch)
    assert list(trace.sites) == ["input"]
    assert atfr.clip_cost(compiled, batch.shape[1:]).of(trace)


def test_it_is_recorded_once_with_the_hooks_of_its_sampler(as_recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch, totals = tiny(after="input", sampler="change").eval(), clips(3, 8, 8), []
    record = compiled_networks.recorded
    monkeypatch.setattr(compiled_networks, "recorded", lambda *args: totals.append(args[2]) or record(*args))
    (layer,) = site_names(model).values()
    layer.register_forward_hook(lambda module, args, output: output * 2)
    with torch.no_grad():
        with atfr.record(model) as trace:
            expected = model(batch)
        assert_same(atfr.compile(model, backend="eager")(batch), expected)
    assert totals == [bucket_of(sum(trace.kept_maps), 3, 8)]


def test_graphs_of_few_states_are_kept(as_recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atfr.optimize.compiled.STATES", 2)
    model = tiny(after="input", sampler="change").eval()
    compiled = atfr.compile(model)
    with torch.no_grad():
        for frames in (4, 5, 6, 4, 6):
            assert_same(compiled(clips(3, frames, 8)), model(clips(3, frames, 8)))
    assert len(compiled.graphs) == 2


def test_without_one_fake_mode_it_is_recorded_too(as_recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private, "FAKE_MODE", None)
    model, batch = tiny().train(), clips(3, 8, 8)
    assert_same_step(model, atfr.compile(copy.deepcopy(model)), batch)


def test_the_sampler_may_change(as_recorded) -> None:
    model, batch = tiny().eval(), clips(3, 12, 8)
    compiled = atfr.compile(model, backend="eager")
    with torch.no_grad():
        first = compiled(batch)
        atfr.set_num_bins_(model, 2)
        expected = copy.deepcopy(model)(batch)
        assert_same(compiled(batch), expected)
        assert not torch.allclose(first, expected)
        atfr.restore_(model)
        with pytest.raises(UnsupportedNetworkError, match="has no sampler"):
            compiled(batch)


def test_a_copy_is_a_network_of_its_own(as_recorded) -> None:
    batch, compiled = clips(3, 12, 8), atfr.compile(tiny().eval(), backend="eager")
    with torch.no_grad():
        expected = compiled(batch)
        other = copy.deepcopy(compiled)
        other._orig_mod.head.bias.add_(1)
        assert_same(other(batch), expected + 1)
        assert_same(compiled(batch), expected)


def test_under_autocast_as_the_network(as_recorded) -> None:
    model = tiny().float().eval()
    compiled = atfr.compile(model, backend="eager")
    batch = clips(3, 12, 8, torch.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), atfr.record(model) as trace:
        expected, found = model(batch), compiled(batch)
    assert found.dtype == expected.dtype == torch.bfloat16
    assert trace.kept_maps[:3] == trace.kept_maps[3:]
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)


def test_a_clip_that_is_not_finite_stays_alone_and_training_of_others_is_finite(as_recorded) -> None:
    model = tiny().train()
    compiled = atfr.compile(model, backend="eager")
    batch = clips(3, 12, 8)
    for part in (model.stem[1], model.late[1]):
        part.eval()
    batch[1] = torch.nan
    logits = compiled(batch)
    assert logits[[0, 2]].isfinite().all()
    assert logits[1].isnan().all()
    logits[0].sum().backward()  # a gradient of 0 times NaN is NaN, here as in the network
    assert_same(logits[[0, 2]], model(batch)[[0, 2]])


def test_an_optimized_network(as_recorded) -> None:
    with short():
        model = scramble_(narrow("x3d_xs", num_classes=5)).eval()
    atfr.adapt_(model, after="res2")
    batch = clips(dtype=torch.float32, frames=6)
    with torch.inference_mode():
        expected = model(batch)
        found = atfr.compile(atfr.optimize_for_inference(model), backend="eager")(batch)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_a_checkpoint_of_it_is_read(tmp_path) -> None:
    compiled = atfr.compile(tiny(), backend="eager")
    torch.save(compiled.state_dict(), tmp_path / "weights.pth")
    other = tiny()
    with torch.no_grad():
        other.head.weight.zero_()
    atfr.load_weights(other, tmp_path / "weights.pth")
    assert torch.equal(other.head.weight, compiled._orig_mod.head.weight)


def compare_in_compiled_code(training: bool) -> None:
    model = tiny(Tiny if training else Small, after="input", sampler="change").float().train(training)
    compiled = atfr.compile(copy.deepcopy(model))
    batch = clips(3, 12, 8, torch.float32)
    with torch.set_grad_enabled(training):
        torch.testing.assert_close(compiled(batch), model(batch), rtol=1e-4, atol=1e-4)
    if training:
        for name, gradient in step(model, batch)[1].items():
            found, scale = step(compiled, batch)[1][name], float(gradient.abs().max())
            torch.testing.assert_close(found, gradient, rtol=1e-3, atol=1e-4 * scale + 1e-5)


@pytest.mark.skipif(not shutil.which("g++"), reason="NOT TESTED: torch.compile's own code, there is no C++ compiler")
@pytest.mark.parametrize("training", [False, pytest.param(True, marks=slow)])
def test_in_compiled_code(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own: PyTorch's compiler does not start where setuptools was half imported before it."""
    monkeypatch.setenv("TORCHINDUCTOR_VEC_ISA_OK", "1")  # it compiles for 10 s to see what vectors there are
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")  # nor are there so many kernels as to need processes
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        process.submit(compare_in_compiled_code, training).result()


def test_depthwise_kernels_are_recorded_with_their_gradients(monkeypatch) -> None:
    pytest.importorskip("triton", reason="no Triton here")
    if torch.cuda.is_available():
        pytest.skip("Triton's interpreter runs where there is no GPU")
    calls = []
    real = ragged_depthwise.convolve
    monkeypatch.setattr(ragged_depthwise, "convolve", lambda *a, **k: calls.append(a) or real(*a, **k))
    monkeypatch.setattr(ragged_depthwise, "takes", ragged_depthwise.fits)
    model = tiny().float()
    model.late[0] = nn.Sequential(Conv3d(4, 4, 3, padding=1, groups=4), nn.Conv3d(4, 6, 1, (2, 1, 1)))
    plain, batch = copy.deepcopy(model).train(), clips(2, 2, 5, torch.float32)
    compiled = atfr.compile(model.train(), backend="aot_eager")
    found = step(compiled, batch)
    assert len(calls) >= 2, "forward and gradient of the maps"
    monkeypatch.setattr(ragged_depthwise, "takes", lambda *a: False)
    expected = step(plain, batch)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-5)
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("optimized", [False, True])
def test_static_networks_are_one_graph_of_torch_compile(optimized: bool) -> None:
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        graphs.append(graph)
        return graph.forward

    with short():
        model = scramble_(narrow("resnet3d_18", num_classes=5)).eval()
    network = atfr.optimize_for_inference(model) if optimized else model
    batch = clips(2, 4, 16, torch.float32)
    with torch.no_grad():
        found = torch.compile(network, backend=backend)(batch)
        expected = model(batch)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    assert len(graphs) == 1


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


@slow
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
    refused(Small(), "has no sampler, atfr.compile takes one: put one in with atfr.adapt_")
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
    refused(two, "has samplers at .*put one at one place")
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
    with pytest.raises(AdaptError, match="cannot adapt a network inside"):
        atfr.compile(nn.DataParallel(tiny()))
    assert issubclass(UnsupportedNetworkError, UnsupportedOperationError)
