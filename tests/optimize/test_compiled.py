"""atfr.compile against the network itself: logits, gradients, statistics, whatever the lengths; and how many graphs."""

from __future__ import annotations

import copy
import random
import shutil
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import atfr
from atfr.kernels import ragged_depthwise
from atfr.kernels.conv3d import Conv3d
from atfr.ragged.bucket import bucket_of
from tests.alone import alone
from tests.models.narrow import narrow, short
from tests.models.randomise import scramble_
from tests.optimize.compiling import CHANGE, Small, Tiny, TwoPaths, assert_same, assert_same_step, clips, step, tiny

slow = pytest.mark.soak
RESNET = ("resnet3d_18", {"after": "res2"})  # strides in time behind it
CASES = [
    RESNET,
    ("slowfast_8x8_r18", {"after": "res2"}),  # a sampler in each pathway, which differ and meet
    ("x3d_xs", {"after": "res2"}),  # squeeze-and-excitation
    ("resnet3d_18", CHANGE),
    ("slowfast_8x8_r18", CHANGE),  # laterals, every 4th map
    ("slowfast_8x8_r101_nl", CHANGE),  # attention
    ("slowfast_8x8_r101_nl", {"after": "res2"}),
    ("i3d_inception", CHANGE),  # padding that depends on the length
    ("i3d_50", {"after": "res2"}),
    ("r2plus1d_18", {"after": "res3"}),
    ("i3d_efficientnet_lite0", CHANGE),
    ("i3d_efficientnet_lite0", {"after": "res3", "sampler": "uniform", "active_bins": 3.5}),
]


@slow
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
    kept = [{site: trace.sites[site].active_bins.tolist() for site in trace.sites} for trace in (found, expected)]
    assert kept[0] == kept[1]
    assert any(len(set(bins)) > 1 for bins in kept[0].values()), "the batch is not ragged: the test says little"
    assert_same_step(model.train(), compiled.train(), batch)


def test_a_residual_network_as_recorded(as_recorded) -> None:
    test_a_family_in_inference_and_in_training(*RESNET)


def test_ragged_batches_of_pathways_that_meet(as_recorded) -> None:
    """Of each number of maps in each of two paths, whichever of a clip's is longer, and where they meet twice."""
    model = scramble_(TwoPaths()).double().eval()
    atfr.adapt_(model, after=["left", "right"], sampler="change", num_bins=6)
    compiled, chance, totals = atfr.compile(copy.deepcopy(model)), random.Random(0), set()
    for training, batches in ((False, 4), (True, 2)):
        for _ in range(batches):
            batch = torch.randn(3, 3, 6, 8, 8, dtype=torch.float64)
            for clip in batch:
                still = chance.randrange(6)
                clip[:, still:] = clip[:, still : still + 1]
            if training:
                assert_same_step(model.train(), compiled.train(), batch)
                continue
            with atfr.record(model) as trace:
                assert_same(compiled(batch), model(batch))
            left, right = (site.active_bins.tolist() for site in trace.sites.values())
            met = [max(half, -(-whole // 2)) for whole, half in zip(left, right, strict=True)]
            totals.add(tuple(bucket_of(sum(kept), 3, most) for kept, most in ((left, 6), (right, 3), (met, 3))))
    assert next(iter(compiled.graphs.values())).behind.keys() == totals
    assert len(totals) > 2


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
        for _ in range(40):
            batch = torch.randn(4, 3, 2, 4, 4, dtype=torch.float64)
            for clip in batch:
                still = chance.randrange(2)
                clip[:, still:] = clip[:, still : still + 1]
            with atfr.record(model) as trace:
                expected = model(batch)
            assert_same(compiled(batch), expected)
            kept.add(sum(trace.kept_maps))
    assert len(kept) > 4, "the batches do not differ"
    assert len(graphs) == 1 + len({bucket_of(maps, 4, 2) for maps in kept})


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
    model = tiny(Tiny, **CHANGE) if training else tiny(after="input")  # of the latter PyTorch makes fewest files of C++
    model = model.float().train(training)
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
    """Alone: PyTorch's compiler does not start where setuptools was half imported before it."""
    monkeypatch.setenv("TORCHINDUCTOR_VEC_ISA_OK", "1")  # it compiles for 10 s to see what vectors there are
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")  # nor are there so many kernels as to need processes
    alone(partial(compare_in_compiled_code, training))


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
