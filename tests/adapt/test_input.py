"""Samplers at the input of a network, and change-guided sampling behind its stages: every family, in and out again."""

import copy
import io
import pickle
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.video import r3d_18

import atfr
from atfr.adapt import adaptation
from atfr.adapt.padding import edge_maps_at
from atfr.adapt.places import resolve
from atfr.errors import AdaptError, InputError
from tests.models.narrow import narrow, narrowed, shorter
from tests.test_families import FAMILIES, network

PLACES = ["input", "stem", "res2", "res3", "res4"]
FRAMES, SIDE = 20, 16
IMAGES = "i3d_efficientnet_lite0"
OPTIONS = {
    "change": {"sampler": "change", "num_bins": 5},
    "uniform": {"sampler": "uniform", "active_bins": 5.0},
    "keep": {"kernel": "keep", "num_bins": 5},
}


def clips(frames: int = FRAMES, count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    made = torch.randn(count, 3, frames, SIDE, SIDE, generator=generator, dtype=torch.float64)
    made[1] = made[1, :, :1]
    return made


OFTEN = [("resnet3d_18", "input"), ("resnet3d_18", "res4"), ("slowfast_8x8_r18", "stem"), ("r2plus1d_50", "res3")]


@pytest.mark.parametrize(
    ("family", "after"),
    [
        pytest.param(family, place, marks=() if (family, place) in OFTEN else pytest.mark.soak)
        for family in FAMILIES
        for place in PLACES
    ],
)
def test_change_in_every_family_and_place(family: str, after: str) -> None:
    base = network(family)
    model = copy.deepcopy(base)
    atfr.adapt_(model, after, sampler="change", num_bins=5)
    batch = clips()
    with torch.no_grad(), atfr.record(model) as trace:
        together = model(batch)
    with torch.no_grad():
        alone = torch.cat([model(clip[None]) for clip in batch])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9)
    assert all(max(site.lengths) <= 5 for site in trace.sites.values())
    costs = atfr.clip_cost(model, batch.shape[1:]).of(trace)
    assert after not in ("input", "stem") or costs[1] < costs[0]  # at later places padding may reach all maps
    again = pickle.loads(pickle.dumps(model))
    torch.testing.assert_close(again(batch), together, rtol=0, atol=0)
    atfr.restore_(model)
    assert model.state_dict().keys() == base.state_dict().keys()
    assert torch.equal(model(batch), base(batch))


@pytest.mark.parametrize("name", ["change", "keep", pytest.param("uniform", marks=pytest.mark.soak)])
def test_every_sampler_trains_at_the_input_and_is_saved(name: str, tmp_path: object) -> None:
    torch.manual_seed(0)
    model = atfr.create_model("resnet3d_18", num_classes=4)
    (site,) = atfr.adapt_(model, "input", **OPTIONS[name]).sites
    assert (site.site, site.path, site.channels) == ("input", "", 3)
    batch = clips().float()
    with atfr.record(model.train()) as trace:
        model(batch).square().sum().backward()
    assert list(trace.sites) == ["input"]
    assert next(p for n, p in model.named_parameters() if n.startswith("stem")).grad is not None
    model.eval().save_pretrained(tmp_path)
    loaded = atfr.from_pretrained(tmp_path)
    assert adaptation(loaded) == adaptation(model)
    assert torch.equal(loaded(batch), model(batch))
    fast = atfr.optimize_for_inference(model)
    torch.testing.assert_close(fast(batch), model(batch), rtol=1e-4, atol=1e-5)


def test_as_many_frames_cost_as_much_whoever_chose_them() -> None:
    costs = {}
    for name in ("change", "uniform"):
        model = atfr.create_model("resnet3d_18", num_classes=4)
        atfr.adapt_(model, "input", **OPTIONS[name])
        costs[name] = atfr.clip_cost(model, (3, FRAMES, 32, 32)).adaptive[5]
    few = atfr.clip_cost(atfr.create_model("resnet3d_18", num_classes=4), (3, 5, 32, 32)).static
    assert costs == {"change": few, "uniform": few}


def test_other_peoples_networks() -> None:
    """One with a forward of its own, called by position and by name; a plain Sequential, which runs its children."""
    torch.manual_seed(0)
    batch = clips().float()
    foreign = shorter(narrowed(lambda: r3d_18(num_classes=3))).eval()
    plain = nn.Sequential(
        OrderedDict(
            conv=nn.Conv3d(3, 4, 3, padding=1), pool=nn.AdaptiveAvgPool3d(1), flat=nn.Flatten(), fc=nn.Linear(4, 2)
        )
    ).eval()
    for model in (foreign, plain):
        before, keys = model(batch), list(model.state_dict())
        atfr.adapt_(model, "input", sampler="change", num_bins=4)
        with atfr.record(model) as trace, torch.no_grad():
            logits = model(batch)
        times = (trace.sites["input"].assignment[0] >= 0).nonzero()[:, 0]
        atfr.restore_(model)
        assert list(model.state_dict()) == keys
        torch.testing.assert_close(model(batch[:1, :, times]), logits[:1], rtol=1e-4, atol=1e-5)
        assert torch.equal(model(batch), before)
    atfr.adapt_(foreign, "input", sampler="change", num_bins=4)
    assert torch.equal(foreign(x=batch), foreign(batch))


def test_a_submodule_named_input_is_reached_by_its_path() -> None:
    model = nn.Sequential(
        OrderedDict(
            input=nn.Conv3d(3, 4, (1, 3, 3)), pool=nn.AdaptiveAvgPool3d(1), flat=nn.Flatten(), fc=nn.Linear(4, 2)
        )
    )
    (site,) = atfr.adapt_(model, "input", sampler="change").sites
    assert (site.path, site.channels) == ("input", 4)


def test_what_cannot_stand_at_the_input() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv3d(3, 4, 1)

        def forward(self, pathways: list[Tensor]) -> Tensor:
            return self.conv(pathways[0]).mean((2, 3, 4))

    with pytest.raises(AdaptError, match="at the input takes clips N x C x T x H x W"):
        atfr.adapt_(Two(), "input", example=[torch.zeros(1, 3, 4, 8, 8)])
    model = atfr.create_model("x3d_xs", num_classes=4)
    atfr.adapt_(model, "input", sampler="change", num_bins=2)
    with pytest.raises(AdaptError, match="has a sampler at input already"):
        atfr.adapt_(model, "res2")
    with pytest.raises(InputError, match="4"):
        model(torch.zeros(1, 4, 8, 16, 16))


def test_a_number_of_bins_counts_where_there_are_most_maps() -> None:
    model = narrow("slowfast_8x8_r18", num_classes=4)
    atfr.adapt_(model, "res2", sampler="change", num_bins=12)
    assert adaptation(model) == {
        "after": ["res2.fast", "res2.slow"],
        "sampler": "change",
        "num_bins": [12, 3],
        "mix": 0.15,
        "dead_zone": [None, None],
        "edge_maps": [4, 2],
    }
    atfr.set_num_bins_(model, 2)
    assert adaptation(model)["num_bins"] == [2, 2]


def test_slowfast_pathways_see_the_same_moments_at_the_input() -> None:
    model = copy.deepcopy(network("slowfast_8x8_r18"))
    atfr.adapt_(model, "input", sampler="change", num_bins=9)
    seen: list[Tensor] = []
    for pathway in model.blocks[0].multipathway_blocks:
        pathway.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model(clips())
    slow, fast = seen
    for few, many in zip(slow.unpack(), fast.unpack(), strict=True):
        assert torch.equal(few, many[:, :: model.alpha])


# --- what zero padding does -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "family", ["resnet3d_18", *(pytest.param(name, marks=pytest.mark.soak) for name in (*FAMILIES[1:], IMAGES))]
)
def test_a_still_clip_keeps_one_map_where_half_of_them_are_out_of_reach_of_padding(family: str) -> None:
    """With what keeps maps by their change, and with SGS that is told which maps padding has touched."""
    base = network(family)
    places = {stage: list(resolve(base, stage).values()) for stage in ["input", *base.stage_paths]}
    found = iter(edge_maps_at(base, [path for paths in places.values() for path in paths]))
    for stage, paths in places.items():
        reach = [next(found) for _ in paths]
        frames = {"res3": 48, "res4": 64, "res5": 80}.get(stage, 24)
        still = torch.rand(1, 3, 1, 8, 8, dtype=torch.float64).expand(-1, -1, frames, -1, -1)
        for options in ({"sampler": "change"}, {"num_bins": 16}):
            model = copy.deepcopy(base)
            atfr.adapt_(model, stage, edge_maps=reach, **options)
            with torch.no_grad(), atfr.record(model) as trace:
                model(still)
            for site, touched in zip(trace.sites.values(), reach, strict=True):
                maps = int(site.samplings[0].maps[0])
                if 4 * touched <= maps:
                    assert site.lengths == [1], (stage, options, touched, maps)


def test_the_reach_of_padding_is_counted_whatever_the_weights_are() -> None:
    """Fresh residual branches are 0, and hide what they will pass on; the network itself is left as it is."""
    model = atfr.create_model("resnet3d_18", num_classes=4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    paths = list(model.stage_paths.values())
    assert edge_maps_at(model, paths) == [2, 4, 4, 4, 6]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training
    strided = nn.Sequential(nn.Conv3d(3, 4, (5, 1, 1), (2, 1, 1), (2, 0, 0)), nn.MaxPool3d((3, 1, 1), 1, (1, 0, 0)))
    assert edge_maps_at(strided, ["0", "1"]) == [1, 2]


def test_padding_as_in_the_paper_stays_unless_it_is_asked_for() -> None:
    torch.manual_seed(0)
    model = narrow("resnet3d_18", num_classes=4).eval()
    literal, held = copy.deepcopy(model), copy.deepcopy(model)
    atfr.adapt_(literal)
    assert "edge_maps" not in adaptation(literal)
    atfr.adapt_(held, edge_maps=4)
    held.res2.sgs.load_state_dict(literal.res2.sgs.state_dict())
    still = torch.rand(1, 3, 1, 32, 32).expand(-1, -1, 16, -1, -1)
    kept = []
    for one in (literal, held):
        with torch.no_grad(), atfr.record(one) as trace:
            one(still)
        kept.append(trace.active_bins.item())
    assert kept[0] > kept[1] == 1


# --- keeping one map a bin with SGS ---------------------------------------------------------------------------------


def test_keep_takes_the_heaviest_map_of_each_bin() -> None:
    torch.manual_seed(0)
    layer = atfr.SimilarityGuidedSampling(3, num_bins=4, kernel="keep")
    linear = atfr.SimilarityGuidedSampling(3, num_bins=4, kernel="linear")
    linear.load_state_dict(layer.state_dict())
    batch = torch.randn(4, 3, 12, 6, 6)
    with atfr.record(layer) as kept:
        out = layer(batch)
    with atfr.record(linear) as summed:
        linear(batch)
    (one,), (all_of,) = kept.sites.values(), summed.sites.values()
    assert one.lengths == all_of.lengths
    for clip, result in enumerate(out.unpack()):
        times = (one.assignment[clip] >= 0).nonzero()[:, 0]
        assert torch.equal(result, batch[clip][:, times[one.assignment[clip, times].argsort()]])
        for time in times:
            same = all_of.assignment[clip] == one.assignment[clip, time]
            assert all_of.weights[clip, time] == all_of.weights[clip, same].max()


def test_keep_passes_gradients_to_the_similarity_network() -> None:
    torch.manual_seed(0)
    layer = atfr.SimilarityGuidedSampling(3, num_bins=4, kernel="keep")
    layer(torch.randn(2, 3, 12, 6, 6)).plain().square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.similarity.parameters())


def test_torch_export_finds_the_frames_of_each_clip() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(3, 8, 3, (2, 2, 2), 1), nn.AdaptiveAvgPool3d(1), nn.Flatten(1), nn.Linear(8, 4))
    atfr.adapt_(model.eval(), "input", sampler="change", num_bins=5)
    program = torch.export.export(model, (torch.rand(1, 3, 12, 16, 16),))
    stored = io.BytesIO()
    torch.export.save(program, stored)
    for clip in (torch.rand(1, 3, 12, 16, 16), torch.rand(1, 3, 1, 16, 16).expand(-1, -1, 12, -1, -1)):
        torch.testing.assert_close(program.module()(clip), model(clip), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("no_video_network", "sampler"),
    [
        pytest.param(nn.Linear(3, 4), "sgs", marks=pytest.mark.soak),
        (nn.Sequential(nn.Conv2d(3, 4, 3, stride=8), nn.Flatten(), nn.Linear(4, 2)), "change"),
        (nn.LSTM(3, 4), "sgs"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else value,
)
def test_what_is_no_video_network_is_refused_and_left_alone(no_video_network: nn.Module, sampler: str) -> None:
    before = set(no_video_network.state_dict())
    with pytest.raises(AdaptError, match=r"networks of clips N x C x T x H x W; \w+ has no 3D convolution.*example=x"):
        atfr.adapt_(no_video_network, after="input", sampler=sampler)
    assert set(no_video_network.state_dict()) == before
    assert adaptation(no_video_network) is None
