"""The kernels of weighted sums against float64, and their twin; Triton's interpreter runs them here.

Where there is a GPU, they run there, compiled.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import atfr
from atfr.kernels import weighted_sums
from atfr.kernels.weighted_sums import row_by_row, twin
from atfr.samplers import functional

pytest.importorskip("triton", reason="no Triton here")
import triton

from atfr.kernels import triton_sums

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
AS_INTERPRETED = DEVICE == "cpu" and [int(part) for part in triton.__version__.split(".")[:2]] < [3, 7]
runs_loops = pytest.mark.skipif(
    AS_INTERPRETED, reason="Triton 3.6's interpreter has no loops whose ends are loaded, with NumPy 2.4"
)
EPS = {torch.float32: 1e-5, torch.bfloat16: 1e-2}


@pytest.fixture
def here(monkeypatch) -> list[Tensor]:
    """The kernel takes maps on this device too, which the interpreter makes slow; the rows it got."""
    calls: list[Tensor] = []
    real = triton_sums.weighted_sums
    monkeypatch.setattr(triton_sums, "weighted_sums", lambda rows, *a: calls.append(rows) or real(rows, *a))
    for module in (weighted_sums, functional):
        monkeypatch.setattr(module, "runs_triton", lambda maps: maps.dtype != torch.float64)
    return calls


def random(rows: int, width: int, slots: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and weights that want gradients, and a slot for each; `slots` is none."""
    made = torch.randn(rows, width).to(DEVICE, dtype), torch.randn(rows).to(DEVICE)
    return *(x.requires_grad_() for x in made), torch.randint(slots + 1, (rows,)).to(DEVICE)


def close(found: Tensor, expected: Tensor, eps: float) -> None:
    """Within so much of the largest number; NaN is never close."""
    assert found.shape == expected.shape
    assert (found.double() - expected).abs().max() <= eps * max(1.0, float(expected.detach().abs().max()))


@runs_loops
@settings(max_examples=12, deadline=None)
@given(
    rows=st.integers(1, 6),
    width=st.sampled_from([1, 7, 1024, 1025, 2100]),
    slots=st.integers(1, 5),
    dtype=st.sampled_from(list(EPS)),
    frozen=st.booleans(),
)
def test_sums_and_gradients_are_those_of_a_product_with_a_matrix(rows, width, slots, dtype, frozen) -> None:
    torch.manual_seed(rows + width + slots)
    maps, weight, slot = random(rows, width, slots, dtype)
    leaves = [weight] if frozen else [maps, weight]
    output = triton_sums.weighted_sums(maps.detach() if frozen else maps, weight, slot, slots)
    gradient = torch.randn_like(output)
    wide, wide_weight = (x.detach().double().requires_grad_() for x in (maps, weight))
    matrix = (slot == torch.arange(slots, device=DEVICE)[:, None]) * wide_weight  # S x M
    expected = matrix @ wide
    assert output.dtype == dtype
    close(output, expected, EPS[dtype])
    found = torch.autograd.grad(output, leaves, gradient)
    of_wide = torch.autograd.grad(expected, [wide_weight] if frozen else [wide, wide_weight], gradient.double())
    for one, other, leaf in zip(found, of_wide, leaves, strict=True):
        assert one.dtype == leaf.dtype
        close(one, other, EPS[dtype])


@runs_loops
@pytest.mark.usefixtures("unwritten_is_nan")
def test_every_number_is_written_and_what_is_left_out_is_not_read() -> None:
    maps = torch.ones(4, 1030, device=DEVICE)
    maps[3] = torch.nan
    leaf, weight = maps.requires_grad_(), torch.ones(4, device=DEVICE, requires_grad=True)
    output = triton_sums.weighted_sums(leaf, weight, torch.tensor([2, 0, 2, 3], device=DEVICE), 3)
    assert output[:, 0].tolist() == [1, 0, 2]  # no row has slot 1; 3 is none
    assert torch.equal(output, output[:, :1].expand_as(output))
    of_maps, of_weight = torch.autograd.grad(output.sum(), (leaf, weight))
    assert of_maps[:, 0].tolist() == [1, 1, 1, 0]
    assert of_weight.tolist() == [1030, 1030, 1030, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_row_by_row_as_the_twin(dtype: torch.dtype) -> None:
    maps, weight, slot = (x.detach().cpu() for x in random(6, 7, 3, torch.float32))
    maps[2], weight[4] = torch.inf, torch.nan
    found, expected = (add(maps.to(dtype), weight.to(dtype), slot, 4) for add in (row_by_row, twin))
    torch.testing.assert_close(found, expected, equal_nan=True)


def test_wide_rows_are_added_up_one_by_one_with_gradients(monkeypatch) -> None:
    calls = []
    monkeypatch.setattr(weighted_sums, "row_by_row", lambda *a: calls.append(a) or row_by_row(*a))
    for width in (weighted_sums.WIDE - 1, weighted_sums.WIDE):
        maps, weight, slot = (x.detach().cpu() for x in random(4, width, 2, torch.float32))
        leaves = maps.requires_grad_(), weight.requires_grad_()
        sums = [add(*leaves, slot, 3) for add in (weighted_sums.weighted_sums, twin)]
        torch.testing.assert_close(*sums)
        gradient = torch.randn_like(sums[0])
        for one, other in zip(*(torch.autograd.grad(x, leaves, gradient) for x in sums), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert len(calls) == 1


@runs_loops
def test_nan_stays_in_its_slot() -> None:
    maps = torch.ones(3, 5, device=DEVICE)
    maps[1, 2] = torch.nan
    output = triton_sums.weighted_sums(maps, torch.ones(3, device=DEVICE), torch.tensor([0, 1, 2], device=DEVICE), 3)
    assert output.isnan().nonzero().tolist() == [[1, 2]]


@runs_loops
def test_bfloat16_is_rounded_once() -> None:
    """Maps of 1: added up in bfloat16 they stay at 256."""
    maps = torch.ones(260, 2, dtype=torch.bfloat16, device=DEVICE)
    weight, slot = torch.ones(260, device=DEVICE), torch.zeros(260, dtype=torch.long, device=DEVICE)
    assert triton_sums.weighted_sums(maps, weight, slot, 1).tolist() == [[260, 260]]


@runs_loops
def test_second_gradients_are_those_of_the_twin() -> None:
    maps, weight, slot = random(5, 3, 2, torch.float32)

    def second(operation) -> tuple[Tensor, ...]:
        output = operation(maps, weight, slot, 3)[:2].square().sum()
        first = torch.autograd.grad(output, (maps, weight), create_graph=True)
        return torch.autograd.grad(sum(x.square().sum() for x in first), (maps, weight))

    for one, other in zip(second(triton_sums.weighted_sums), second(twin), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@runs_loops
@pytest.mark.parametrize("last", [False, True], ids=["planar", "channels last"])
@pytest.mark.parametrize("options", [{}, {"kernel": "keep"}, {"temporal_block": 2}], ids=str)
def test_samplers_merge_by_it(here, options, last) -> None:
    layer = atfr.SimilarityGuidedSampling(3, **options).to(DEVICE)
    torch.nn.init.zeros_(layer.similarity.output.bias)
    clips = torch.rand(2, 3, 5, 4, 4, device=DEVICE)
    clips = (clips.contiguous(memory_format=torch.channels_last_3d) if last else clips).requires_grad_()
    output = layer(clips)
    assert len(here) == (last or "kernel" not in options)  # planar maps are picked by PyTorch, without a copy
    double = layer.double()
    expected = double(clips.double())
    assert output.lengths == expected.lengths
    close(output.plain(), expected.plain(), 1e-5)
    gradient = torch.randn_like(output.plain())
    found = torch.autograd.grad(output.plain(), clips, gradient)
    close(found[0], torch.autograd.grad(expected.plain(), clips, gradient.double())[0].double(), 1e-4)


@runs_loops
@pytest.mark.usefixtures("here")
def test_recorded_graphs_hold_it() -> None:
    """As `atfr.compile` records them, with gradients."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv3d(3, 4, 1), torch.nn.ReLU(), torch.nn.Conv3d(4, 4, 3, padding=1), torch.nn.AdaptiveAvgPool3d(1)
    ).to(DEVICE, memory_format=torch.channels_last_3d)
    atfr.adapt_(model, after="1")
    held: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]):
        held.extend(str(node.target) for node in graph.graph.nodes)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    compiled = atfr.compile(model, backend=backend)
    clips, found = torch.rand(2, 3, 4, 4, 4, device=DEVICE).contiguous(memory_format=torch.channels_last_3d), []
    for run in (model, compiled):
        model.zero_grad()
        logits = run(clips)
        logits.square().sum().backward()
        found.append([logits.detach(), *(p.grad for p in model.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert "atfr.weighted_sums.default" in held
