"""clip_cost against the paper's figures, against arithmetic by hand, and against what a batch really keeps."""

import numpy as np
import pytest
import torch
from torch import nn

import atfr
from atfr.errors import InputError
from tests.models.narrow import narrow

SELDOM = [pytest.param(f"x3d_{size}", marks=pytest.mark.soak) for size in ("s", "m", "l", "xl")]
SELDOM += [pytest.param("resnet3d_50", marks=pytest.mark.soak)]


# Multiply-adds / 1e9 counted from Table A.1 with SGS after res2, by active bins.
@pytest.mark.parametrize(
    ("name", "size", "static", "adaptive"),
    [
        ("resnet3d_18", 224, 18.06, {4: 4.58, 8: 6.50, 16: 10.36, 20: 12.28}),
        ("resnet3d_18", 256, 23.59, {16: 13.53}),
        ("resnet3d_50", 224, 31.27, {8: 9.93, 16: 17.04}),
        ("resnet3d_50", 256, 40.85, {16: 22.26}),
    ],
)
def test_golden_costs_by_active_bins(name: str, size: int, static: float, adaptive: dict[int, float]) -> None:
    model = atfr.create_model(name)
    atfr.adapt_(model, after="res2")
    cost = atfr.clip_cost(model, (3, 32, size, size))
    assert cost.static / 1e9 == pytest.approx(static, rel=0.01)
    assert sorted(cost.adaptive) == list(range(1, 33))
    for active, golden in adaptive.items():
        assert cost.adaptive[active] / 1e9 == pytest.approx(golden, rel=0.01)


@pytest.mark.parametrize("name", ["x3d_xs", "resnet3d_18", *SELDOM])
def test_sgs_costs_at_most_one_percent(name: str) -> None:
    model = atfr.create_model(name)
    frames = model.clip_shape[1]
    atfr.adapt_(model, after="res2", num_bins=frames)
    cost = atfr.clip_cost(model, model.clip_shape)
    assert 0 < cost.adaptive[frames] - cost.static <= 0.01 * cost.static


class TwoConvs(nn.Module):
    """A network whose multiply-adds one can count by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.early = nn.Conv3d(3, 4, (1, 3, 3), padding=(0, 1, 1), bias=False)
        self.late = nn.Conv3d(4, 8, (3, 1, 1), stride=(2, 1, 1), padding=(1, 0, 0), bias=False)
        self.head = nn.Linear(8, 5)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return self.head(self.late(self.early(clips)).mean((2, 3, 4)))


def test_counts_what_one_counts_by_hand() -> None:
    frames, side, embedding = 6, 10, 8
    model = TwoConvs()
    atfr.adapt_(model, after="early", embedding_dim=embedding)
    cost = atfr.clip_cost(model, (3, frames, side, side))
    early, head = frames * side * side * 3 * 4 * 9, 8 * 5
    sgs = frames * (4 * 4 + 4 * embedding) + 4 * frames * side * side
    for active in range(1, frames + 1):
        late = -(-active // 2) * side * side * 4 * 8 * 3  # the stride halves the clip, rounded up
        assert cost.adaptive[active] == early + sgs + late + head
    assert cost.static == early + 3 * side * side * 4 * 8 * 3 + head


def test_of_a_trace_is_each_clips_own_cost() -> None:
    model = atfr.create_model("resnet3d_18", num_classes=4).eval()
    atfr.adapt_(model, after="res2", num_bins=6)
    with torch.no_grad():
        model.res2.sgs.similarity.output.bias.zero_()
    cost = atfr.clip_cost(model, (3, 8, 32, 32))
    assert sorted(cost.adaptive) == [1, 2, 3, 4, 5, 6]
    clips = torch.rand(3, 3, 8, 32, 32)
    clips[0] *= torch.linspace(0, 5, 8).view(1, 8, 1, 1)
    with atfr.record(model) as trace, torch.no_grad():
        model(clips)
    assert len(set(trace.active_bins.tolist())) > 1
    assert cost.of(trace) == [cost.adaptive[active] for active in trace.active_bins.tolist()]


def test_leaves_the_network_as_it_was() -> None:
    model = narrow("resnet3d_18", num_classes=4).train()
    atfr.adapt_(model, after="res2")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    atfr.clip_cost(model, (3, 4, 32, 32))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_static_network_has_one_cost() -> None:
    cost = atfr.clip_cost(TwoConvs(), (3, 6, 10, 10))
    assert cost.adaptive == {}
    assert cost.static > 0


def test_refuses_what_is_no_clip_shape() -> None:
    with pytest.raises(InputError, match=r"C, T, H, W, got \(13, 160, 160\)"):
        atfr.clip_cost(TwoConvs(), (13, 160, 160))


def test_a_trace_of_another_clip_length_is_an_error() -> None:
    model = TwoConvs()
    atfr.adapt_(model, after="early")
    cost = atfr.clip_cost(model, (3, 1, 10, 10))
    with torch.no_grad():
        model.early.sgs.similarity.output.bias.zero_()
        with atfr.record(model) as trace:
            model(torch.rand(1, 3, 6, 10, 10) * torch.linspace(0.1, 5, 6).view(1, 1, 6, 1, 1))
    assert trace.active_bins.item() > 1
    with pytest.raises(InputError, match="same clip shape"):
        cost.of(trace)


def test_counts_the_same_in_inference_mode() -> None:
    model = narrow("resnet3d_18", num_classes=4)
    atfr.adapt_(model, after="res2")
    cost = atfr.clip_cost(model, (3, 4, 32, 32))
    with torch.inference_mode():
        assert atfr.clip_cost(model, (3, 4, 32, 32)) == cost


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_networks_of_other_types_are_counted(dtype: torch.dtype) -> None:
    model = narrow("resnet3d_18", num_classes=3)
    static = atfr.clip_cost(model, (3, 4, 32, 32)).static
    assert atfr.clip_cost(model.to(dtype), (3, 4, 32, 32)).static == static


def test_the_clip_of_the_design_is_the_default() -> None:
    model = narrow("resnet3d_18", num_classes=3)
    static = atfr.clip_cost(model).static
    for shape in (model.clip_shape, np.array(model.clip_shape), torch.Size(model.clip_shape)):
        assert atfr.clip_cost(model, shape).static == static
    with pytest.raises(InputError, match="C, T, H, W, got 3"):
        atfr.clip_cost(model, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("adapted", [False, True])
def test_clips_that_a_network_does_not_take(adapted: bool) -> None:
    """Of a network of others, whose own error is torch's."""
    model = nn.Sequential(nn.Conv3d(3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 2))
    if adapted:
        atfr.adapt_(model, after="1")
    with pytest.raises(InputError, match=r"Sequential takes \(its first convolution: 3 .*H, W = \(1, 4, 8, 8\): "):
        atfr.clip_cost(model, (1, 4, 8, 8))
    with pytest.raises(InputError, match=r"expected a clip that Sequential takes .*, got an example: "):
        atfr.clip_cost(model, example=torch.empty(1, 4, 4, 8, 8, device="meta"))
    for shape in ((3.0, 4, 8, 8), (3, 4, 8), (3, 0, 8, 8)):
        with pytest.raises(InputError, match="clip_shape must be C, T, H, W"):
            atfr.clip_cost(model, shape)
