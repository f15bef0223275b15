"""What is rewritten in a graph, and what must be left alone, on networks made for the purpose."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

import atfr
from atfr.optimize.conv import FusedConv3d
from atfr.optimize.one_clip import plain_maps
from atfr.ragged import ClipLayout, PackedClips
from tests.models.randomise import scramble_

AROUND = ("plain_maps", "only_layout", "packed_again", "are_numbers", "in_own_format")


class Made(nn.Module):
    """Two convolutions with batch norm, and a forward of one's own."""

    def __init__(self, run: Callable[["Made", Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b = nn.Conv3d(3, 4, 1), nn.Conv3d(3, 4, (3, 3, 3), padding=1, bias=False)
        self.norm_a, self.norm_b = nn.BatchNorm3d(4), nn.BatchNorm3d(4)
        self.again = nn.Conv3d(4, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool3d((3, 1, 1), (1, 1, 1))
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def twice(m: Made, x: Tensor) -> Tensor:
    y = m.a(x)
    return m.norm_a(y) + y


def calls(fast: nn.Module) -> list[str]:
    """The operations of the graphs, in order, without those around them."""
    graphs = [module.graph for module in fast.modules() if isinstance(module, fx.GraphModule)]
    nodes = [node for graph in graphs for node in graph.nodes if node.op.startswith("call")]
    names = [str(node.target) if node.op != "call_function" else node.target.__name__ for node in nodes]
    return [name for name in names if name not in AROUND]


def unpacks(fast: nn.Module) -> list[bool]:
    """Whether each graph takes a single packed clip as plain maps."""
    graphs = [module.graph for module in fast.modules() if isinstance(module, fx.GraphModule)]
    return [bool(graph.find_nodes(op="call_function", target=plain_maps)) for graph in graphs]


FUSED: dict[str, tuple[Callable[[Made, Tensor], Tensor], list[str]]] = {
    "norm and relu": (lambda m, x: F.relu(m.norm_a(m.a(x))), ["a"]),
    "silu": (lambda m, x: F.silu(m.norm_b(m.b(x))), ["b"]),
    "a product with the own sigmoid": (lambda m, x: (y := m.norm_a(m.a(x))) * torch.sigmoid(y), ["a"]),
    "a sum": (lambda m, x: m.relu(m.norm_a(m.a(x)) + m.norm_b(m.b(x))), ["a", "b"]),
    "a sum written over": (lambda m, x: m.norm_a(m.a(x)).add_(m.b(x)), ["a", "b"]),
    "relu6": (lambda m, x: F.relu6(m.a(x)), ["a"]),
    "a shortcut": (lambda m, x: (y := m.a(x)) + m.again(y), ["a", "again"]),
    "dropout": (lambda m, x: F.relu(nn.Dropout.forward(nn.Dropout().eval(), m.a(x))), ["a", "dropout", "relu"]),
}


@pytest.mark.parametrize("case", FUSED)
def test_what_becomes_one_operation(case: str) -> None:
    run, expected = FUSED[case]
    assert_parity(run, expected)


LEFT: dict[str, tuple[Callable[[Made, Tensor], Tensor], list[str]]] = {
    "a norm beside another path": (twice, ["a", "norm_a", "add"]),
    "a norm before the convolution": (lambda m, x: m.again(m.norm_a(m.a(x)).relu()), ["a", "again"]),
    "a module called twice": (lambda m, x: F.relu(m.a(x)) + F.silu(m.a(2 * x)), None),
    "a row that is added": (lambda m, x: m.a(x) + m.b(x).mean((2, 3, 4), keepdim=True), None),
    "maps that are added to a row": (lambda m, x: m.a(x.mean((2, 3, 4), keepdim=True)) + x[:, :1], None),
    "an input that is written over later": (
        lambda m, x: m.a(y := x + 0) + (z := m.b(m.relu(y))) + z.mean((3, 4), keepdim=True),
        None,
    ),
    "an input that is written over": (lambda m, x: m.a(y := x + 0) + m.b(m.relu(y)), None),
    "maps that the sum changes": (lambda m, x: (y := m.a(x)).add_(m.b(x)) + y, None),
    "a gate larger than the maps": (lambda m, x: F.silu(m.a(x.mean((2, 3, 4), keepdim=True)) * m.b(x)), None),
    "a gate that is read later": (lambda m, x: (y := m.a(x)) * (g := m.b(x).sigmoid()) + y * g, None),
    "maps that come out too": (lambda m, x: torch.stack([y := m.a(x), F.relu(y)]), None),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_must_be_left_alone(case: str) -> None:
    run, expected = LEFT[case]
    assert_parity(run, expected)


def assert_parity(run: Callable[[Made, Tensor], Tensor], expected: list[str] | None) -> None:
    model = scramble_(Made(run)).eval()
    fast = atfr.optimize_for_inference(model)
    if expected is not None:
        assert calls(fast) == expected
    for clips in (torch.randn(2, 3, 4, 5, 6), torch.randn(1, 3, 1, 5, 6)):
        with torch.inference_mode():
            for _ in range(2):
                torch.testing.assert_close(fast(clips.clone()), model(clips.clone()), rtol=1e-5, atol=1e-5)


def test_squeeze_and_excitation_writes_over_its_maps() -> None:
    fast = atfr.optimize_for_inference(atfr.create_model("x3d_xs"))
    assert "scaled" in calls(fast)
    assert "silu_" in calls(fast)
    assert "relu" not in calls(fast)
    assert all(unpacks(fast))


def test_forwards_that_cannot_be_read_stay() -> None:
    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4), nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            x = self.inner(x)
            return x.mean(2) if x.shape[2] > 2 else x.sum(2)

    class Random(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.rand(1)

    model = scramble_(nn.Sequential(Asks(), nn.Flatten())).eval()
    fast = atfr.optimize_for_inference(model)
    assert not [name for name, m in fast.named_modules() if isinstance(m, FusedConv3d)]
    with torch.inference_mode():
        for frames in (2, 3):
            clips = torch.randn(1, 3, frames, 4, 4)
            torch.testing.assert_close(fast(clips), model(clips), rtol=1e-5, atol=1e-5)
        noisy = atfr.optimize_for_inference(nn.Sequential(nn.Conv3d(3, 3, 1), Random()))
        assert not torch.equal(noisy(clips), noisy(clips)), "a random number became a constant"


def test_hooks_are_called() -> None:
    model = nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4), nn.Sequential(nn.Conv3d(4, 4, 1), nn.ReLU())).eval()
    seen: list[torch.Size] = []
    model[0].register_forward_hook(lambda *args: seen.append(args[2].shape))
    model[2].register_forward_hook(lambda *args: args[2] + 1)
    fast = atfr.optimize_for_inference(model)
    clips = torch.randn(1, 3, 2, 4, 4)
    with torch.inference_mode():
        torch.testing.assert_close(fast(clips), model(clips), rtol=1e-5, atol=1e-5)
    assert len(seen) == 2


def test_shared_weights_stay_one() -> None:
    model = nn.Sequential(nn.Conv3d(3, 3, 1), nn.BatchNorm3d(3), nn.Conv3d(3, 3, 1), nn.BatchNorm3d(3))
    model[2].weight = model[0].weight
    scramble_(model).eval()
    clips = torch.randn(1, 3, 2, 4, 4)
    with torch.inference_mode():
        torch.testing.assert_close(atfr.optimize_for_inference(model)(clips), model(clips), rtol=1e-5, atol=1e-5)


def test_a_module_at_two_places_is_left_alone() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            conv = nn.Conv3d(3, 3, 1)
            self.first, self.second = (nn.Sequential(conv, nn.BatchNorm3d(3), nn.ReLU()) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x)) if x.shape[2] > 1 else self.first(x)

    model = scramble_(Twice()).eval()
    clips = torch.randn(1, 3, 2, 4, 4)
    with torch.inference_mode():
        torch.testing.assert_close(atfr.optimize_for_inference(model)(clips), model(clips), rtol=1e-5, atol=1e-5)


def test_a_single_clip_is_unpacked_where_that_is_the_same() -> None:
    assert all(unpacks(atfr.optimize_for_inference(atfr.create_model("resnet3d_18"))))


@pytest.mark.parametrize(
    "run",
    [
        lambda m, x: F.max_pool3d(m.a(x), (3, 1, 1), (1, 1, 1)),  # clamped to short clips
        lambda m, x: m.pool(m.a(x)),
        lambda m, x: m.a(x) * m.b(x).mean((3, 4), keepdim=True),
        lambda m, x: m.a(x).flatten(2).mean(-1),
    ],
)
def test_what_treats_packed_clips_differently_stays_packed(run: Callable[[Made, Tensor], Tensor]) -> None:
    model = scramble_(Made(run)).eval()
    fast = atfr.optimize_for_inference(model)
    assert unpacks(fast) == [False]
    assert_same_packed(fast, model, 2)


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize(
    "run",
    [
        lambda m, x: F.relu(m.norm_a(m.a(x)) + m.norm_b(m.b(x))),
        lambda m, x: F.silu((y := m.a(x)) * m.again(y.mean((2, 3, 4), keepdim=True)).sigmoid()),
        lambda m, x: nn.AdaptiveAvgPool3d.forward(nn.AdaptiveAvgPool3d(1), m.b(x)).flatten(1),
    ],
)
def test_packed_clips_one_and_several(run: Callable[[Made, Tensor], Tensor], frames: int) -> None:
    model = scramble_(Made(run)).eval()
    fast = atfr.optimize_for_inference(model)
    assert_same_packed(fast, model, frames)


def assert_same_packed(fast: nn.Module, model: nn.Module, frames: int) -> None:
    for lengths in ([frames], [frames, 4, frames]):
        packed = PackedClips(torch.randn(1, 3, sum(lengths), 5, 6), ClipLayout(lengths))
        with torch.inference_mode():
            got, expected = fast(packed), model(packed)
        assert type(got) is type(expected)
        assert getattr(got, "lengths", None) == getattr(expected, "lengths", None)
        torch.testing.assert_close(got.as_subclass(Tensor), expected.as_subclass(Tensor), rtol=1e-5, atol=1e-5)
