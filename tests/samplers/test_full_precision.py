"""Which bin a map falls into does not depend on settings that shorten products: those that decide it take float64."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import atfr
from atfr.adapt.layers import CLASSES
from atfr.samplers.sampling import one_coordinate
from atfr.samplers.sgs import SimilarityNet

SHORTENED = ("mm", "bmm", "addmm", "baddbmm", "matmul", "linear", "dot", "mv", "addmv", "einsum", "conv")


class Dispatched(TorchDispatchMode):
    """Notes the names of all operations that run, and the types that matrix products take."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.types: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func._overloadpacket.__name__)
        if func._overloadpacket.__name__.startswith(SHORTENED):
            self.types |= {arg.dtype for arg in args if isinstance(arg, torch.Tensor)}
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("sampler", ["sgs", "change", "uniform", "average", "random"])
@pytest.mark.parametrize("similarity", ["magnitude", "spherical"])
def test_products_that_decide_a_bin_are_not_shortened(sampler: str, similarity: str) -> None:
    options = {"num_bins": 4, "embedding_dim": 3, "similarity": similarity} if sampler == "sgs" else {}
    options |= {} if sampler in ("sgs", "change") else {"active_bins": 2.5}
    layer = CLASSES[sampler](6, **options)
    clips = torch.rand(3, 6, 5, 4, 4)
    with torch.no_grad(), Dispatched() as seen:
        packed = layer(clips)
        layer(packed)
    assert "sum" in seen.names
    assert seen.types == ({torch.float64} if sampler == "sgs" else set())


def test_the_similarity_network_is_two_convolutions() -> None:
    torch.manual_seed(0)
    network, clips = SimilarityNet(5, 3).double(), torch.rand(2, 5, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    want = network.output(network.hidden(clips.mean((3, 4))).relu()).transpose(1, 2)
    leaves = [clips, *network.parameters()]
    weights = torch.rand_like(want)
    expected = torch.autograd.grad((want * weights).sum(), leaves)
    found = torch.autograd.grad((network(clips) * weights).sum(), leaves)
    torch.testing.assert_close(network(clips), want)
    torch.testing.assert_close(found, expected)
    assert torch.autograd.gradcheck(network, clips)
    assert torch.autograd.gradgradcheck(network, clips)


def test_low_settings_change_no_bin() -> None:
    torch.manual_seed(0)
    layer = atfr.SimilarityGuidedSampling(64)
    nn.init.normal_(layer.similarity.output.weight)
    clips = torch.rand(4, 64, 16, 4, 4) * torch.linspace(0.5, 1, 16).view(-1, 1, 1)
    before = torch.get_float32_matmul_precision()
    described = []
    try:
        for precision in ("highest", "medium"):
            torch.set_float32_matmul_precision(precision)
            described.append(layer.describe(clips))
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(*described)


@pytest.mark.parametrize("bins", [128, 1024, 65536])
def test_float32_knows_a_weight_within_2e_7_times_the_bins(bins: int) -> None:
    values = torch.rand(2000, 64, generator=torch.Generator().manual_seed(0))
    number = torch.full((2000,), bins)
    narrow, wide = (one_coordinate(each, number, "linear", "center") for each in (values, values.double()))
    off = (narrow.weights.double() - wide.weights).abs()
    assert 2e-8 * bins < off.max() < 2e-7 * bins
    assert (narrow.bins - wide.bins).abs().max() <= 1
