"""SGS at several places of one network: packed clips go through the next layer as each would alone."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import torch
from torch import Tensor, nn

import atfr
from atfr.adapt import adaptation
from atfr.errors import AdaptError, InputError
from tests.samplers.build import noise

KERNELS = ["linear", "linear_mean", "kronecker"]
SITES = ["stem", "res3", "res5"]


class Tiny(nn.Module):
    """Three convolutions in time, one with a stride, whose multiply-adds one can count by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.early = nn.Conv3d(3, 4, (1, 3, 3), padding=(0, 1, 1), bias=False)
        self.middle = nn.Sequential(nn.Conv3d(4, 8, (3, 1, 1), (2, 1, 1), (1, 0, 0), bias=False), nn.BatchNorm3d(8))
        self.late = nn.Conv3d(8, 6, (3, 1, 1), padding=(1, 0, 0), bias=False)
        self.head = nn.Linear(6, 5)

    def forward(self, clips: Tensor) -> Tensor:
        return self.head(self.late(self.middle(self.early(clips)).relu()).mean((2, 3, 4)))


def tell_apart(model: nn.Module) -> nn.Module:
    """Similarity networks whose numbers differ from map to map."""
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, atfr.SimilarityGuidedSampling):
            for parameter in module.parameters():
                parameter.data.normal_(generator=generator)
                if parameter.dim() == 1:
                    parameter.data.zero_()
    return model


def clips(frames: int = 9, side: int = 6) -> Tensor:
    """A still clip, one that changes all the time, one that stops, one that brightens."""
    x = noise(4, 3, frames, side, side, seed=2)
    x[0] = x[0, :, :1]
    x[2, :, 3:] = x[2, :, 3:4]
    x[3] = x[3, :, :1] * torch.linspace(0, 2, frames).view(1, -1, 1, 1)
    return x


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    "options",
    [
        {"order": "time"},
        {"num_bins": 4},
        {"temporal_block": [4, None, 2]},
        {"similarity": "spherical", "embedding_dim": 3, "num_bins": (2, 3, 3), "temporal_block": 3},
        {"similarity": "angular", "embedding_dim": 3, "order": "time"},
    ],
)
def test_clips_and_their_gradients_are_those_of_each_alone(kernel, options):
    model = Tiny().double().eval()
    report = atfr.adapt_(model, after=["early", "middle", "late"], kernel=kernel, **options)
    assert [(site.site, site.channels) for site in report.sites] == [("early", 4), ("middle", 8), ("late", 6)]
    assert report.new_parameters == sum(site.new_parameters for site in report.sites)
    tell_apart(model)
    x, direction = clips().double().requires_grad_(), noise(4, 5, dtype=torch.float64)
    with atfr.record(model) as together:
        logits = model(x)
    with atfr.record(model) as apart:
        alone = torch.cat([model(clip[None]) for clip in x])
    torch.testing.assert_close(logits, alone)
    for site, trace in together.sites.items():
        assert trace.lengths == apart.sites[site].lengths
        assert trace.lengths == trace.active_bins.tolist()
        behind = apart.sites[site].assignment
        assert torch.equal(trace.assignment, behind)
    early, middle, late = (together.sites[site].lengths for site in ("early", "middle", "late"))
    assert together.kept_maps == [sum(kept) for kept in zip(early, middle, late, strict=True)]
    assert len(set(early)) > 1
    for i in range(4):  # what comes in is what the layer before it kept, halved by the stride
        assert middle[i] <= -(-early[i] // 2)
        assert late[i] <= middle[i]
    parameters = [x, *model.parameters()]
    got, want = (torch.autograd.grad((out * direction).sum(), parameters) for out in (logits, alone))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)
    assert all(parameter.isfinite().all() for parameter in got)
    if options.get("similarity") != "angular":
        assert got[1 + list(dict(model.named_parameters())).index("early.sgs.similarity.output.weight")].any()


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A small network of ours, with batch norm that hides no branch."""
    torch.manual_seed(0)
    model = atfr.create_model("resnet3d_18", num_classes=5).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.8, 1.2)
            module.running_var.uniform_(0.8, 1.2)
    return model


@torch.no_grad()
def test_at_three_stages_and_out_again(network):
    model = copy.deepcopy(network)
    keys, x = list(model.state_dict()), clips(6, 32)
    plain = model(x)
    report = atfr.adapt_(model, after=SITES, num_bins=8, kernel="linear_mean")
    assert [site.site for site in report.sites] == SITES
    assert report.tried
    with pytest.raises(InputError, match=r"read report\.sites"):
        _ = report.channels
    assert [key for key in model.state_dict() if "sgs" not in key] == keys
    tell_apart(model)
    with atfr.record(model) as trace:
        logits = model(x)
    assert list(trace.sites) == SITES
    assert len(set(trace.kept_maps)) > 1
    with pytest.raises(InputError, match="3"):
        _ = trace.active_bins
    for rows in ([0], [3], [2, 1]):
        torch.testing.assert_close(model(x[rows]), logits[rows], rtol=1e-4, atol=1e-5)
    with pytest.raises(AdaptError, match="already"):
        atfr.adapt_(model, after="res2")
    atfr.restore_(model)
    assert torch.equal(model(x), plain)
    assert list(model.state_dict()) == keys
    assert adaptation(model) is None
    assert not any(module._forward_hooks for module in model.modules())


@torch.no_grad()
def test_saved_copied_and_pickled(network, tmp_path):
    model, x = copy.deepcopy(network), clips(6, 32)
    options = {"similarity": "angular", "embedding_dim": 3, "num_bins": (2, 4), "order": "time"}
    atfr.adapt_(model, after=SITES, temporal_block=[4, 3, None], **options)
    tell_apart(model)
    want = model(x)
    settings = json.loads(json.dumps(adaptation(model)))
    assert settings["after"] == SITES
    assert settings["temporal_block"] == [4, 3, None]
    again = copy.deepcopy(network)
    atfr.adapt_(again, **settings)
    again.load_state_dict(model.state_dict())
    model.save_pretrained(tmp_path)
    copies = [again, atfr.from_pretrained(tmp_path).eval(), copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    for other in copies:
        assert torch.equal(other(x), want)
        assert adaptation(other) == adaptation(model)
    (layer,) = [module for path, module in again.named_modules() if path.startswith("stem") and path.endswith("sgs")]
    assert layer.num_bins == (2, 4)
    with atfr.record(copies[2]) as trace:
        copies[2](x)
        model(x)  # another network: its layers are not the copy's
    assert len(trace.kept_maps) == 4


def test_bins_are_set_everywhere_at_once():
    model = Tiny()
    options = {"similarity": "angular", "embedding_dim": 3}
    atfr.adapt_(model, after=["early", "late"], num_bins=(2, 4), **options)
    atfr.set_num_bins_(model, (3, 5))
    assert model.early.sgs.num_bins == model.late.sgs.num_bins == (3, 5)
    with pytest.raises(InputError, match="coordinates"):
        atfr.set_num_bins_(model, (3, 5, 7))
    assert model.early.sgs.num_bins == model.late.sgs.num_bins == (3, 5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"after": ["early", "late"], "temporal_block": [4]}, InputError, "one for each of early, late"),
        ({"after": ["early", "late"], "temporal_block": [4, 0]}, InputError, "temporal_block"),
        ({"after": ["early"], "sampler": "uniform", "active_bins": [2, 3]}, InputError, "one for each of early"),
        ({"after": ["early", "late"], "sampler": "uniform", "active_bins": [2, 0.5]}, InputError, "at least 1"),
        ({"after": ["early", "early"]}, AdaptError, "twice"),
        ({"after": ["early", "lte"]}, AdaptError, "did you mean 'late'"),
        ({"after": ["early", "head"]}, AdaptError, "N x C x T x H x W"),
        ({"after": []}, AdaptError, "names of stages"),
    ],
)
def test_what_cannot_be_is_refused_and_the_network_left_alone(arguments, error, message):
    model, x = Tiny().eval(), clips()
    keys, logits = list(model.state_dict()), model(x)
    with pytest.raises(error, match=message):
        atfr.adapt_(model, **arguments)
    assert list(model.state_dict()) == keys
    assert torch.equal(model(x), logits)
    assert adaptation(model) is None


def sgs(frames: int, channels: int, places: int, dim: int) -> int:
    """Multiply-adds of one layer: the similarity network on every map, and the weighted sum."""
    return frames * (channels * channels + channels * dim) + channels * frames * places


def test_cost_by_hand():
    frames, side, dim = 9, 6, 3
    places = side * side
    model = Tiny().eval()
    static = atfr.clip_cost(model, (3, frames, side, side)).static
    atfr.adapt_(model, after=["middle", "early"], embedding_dim=dim)  # named in an order of their own
    tell_apart(model)
    cost = atfr.clip_cost(model, (3, frames, side, side))
    assert cost.static == static
    assert cost.sites == ("early", "middle")
    early, head = frames * places * 3 * 4 * 9, 6 * 5
    assert static == early + 5 * places * (4 * 8 * 3 + 8 * 6 * 3) + head
    for first in range(1, frames + 1):
        halved = -(-first // 2)
        for second in range(1, halved + 1):
            by_hand = early + sgs(frames, 4, places, dim) + halved * places * 4 * 8 * 3
            by_hand += sgs(halved, 8, places, dim) + second * places * 8 * 6 * 3 + head
            assert cost.adaptive[first, second] == by_hand
    with atfr.record(model) as trace, torch.no_grad():
        model(clips())
    kept = list(zip(trace.sites["early"].lengths, trace.sites["middle"].lengths, strict=True))
    assert len(set(kept)) > 1
    assert cost.of(trace) == [cost.adaptive[pair] for pair in kept]
    for impossible in ((3,), 3, (1, 2, 3), (4, 3), (10, 1)):  # two numbers, the second at most half of the first
        with pytest.raises(KeyError):
            _ = cost.adaptive[impossible]


def test_the_cost_of_a_trace_of_another_network_or_clip_is_an_error():
    model = Tiny().eval()
    atfr.adapt_(model, after=["early", "middle"])
    tell_apart(model)
    with atfr.record(model) as trace, torch.no_grad():
        model(clips())
    assert max(trace.sites["early"].lengths) > 2
    with pytest.raises(InputError, match="same clip shape"):
        atfr.clip_cost(model, (3, 2, 6, 6)).of(trace)
    other = Tiny()
    atfr.adapt_(other, after=["early", "late"])
    with pytest.raises(InputError, match="sites"):
        atfr.clip_cost(other, (3, 9, 6, 6)).of(trace)


def test_cost_in_temporal_blocks_counts_what_blocks_may_keep():
    model = Tiny()
    atfr.adapt_(model, after="early", temporal_block=4, num_bins=2)
    cost = atfr.clip_cost(model, (3, 9, 6, 6))
    assert sorted(cost.adaptive) == [3, 4, 5]  # blocks of 4, 4 and 1 map


@pytest.mark.parametrize("sampler", ["uniform", "average", "random"])
@torch.no_grad()
def test_controls_at_several_places(sampler):
    model = Tiny().eval()
    x = clips()
    plain = model(x)
    atfr.adapt_(model, after=["early", "late"], sampler=sampler, active_bins=[6.5, 2])
    assert adaptation(model) == {"after": ["early", "late"], "sampler": sampler, "active_bins": [6.5, 2]}
    with atfr.record(model) as trace:
        logits = model(x)
    assert set(trace.sites["early"].lengths) <= {6, 7}
    assert trace.sites["late"].lengths == [2] * 4
    for i in range(4):
        torch.testing.assert_close(model(x[[i]]), logits[[i]])
    assert atfr.clip_cost(model, (3, 9, 6, 6)).of(trace)
    atfr.restore_(model)
    assert torch.equal(model(x), plain)


def test_one_value_is_for_every_place_and_a_list_for_each():
    model = Tiny()
    atfr.adapt_(model, after=("early", "late"), temporal_block=4)
    assert (model.early.sgs.temporal_block, model.late.sgs.temporal_block) == (4, 4)
    atfr.restore_(model)
    atfr.adapt_(model, after=("late", "early"), temporal_block=(4, None))
    assert (model.early.sgs.temporal_block, model.late.sgs.temporal_block) == (None, 4)
    again = Tiny()
    atfr.adapt_(again, **adaptation(model))
    assert (again.early.sgs.temporal_block, again.late.sgs.temporal_block) == (None, 4)


def test_stages_keep_their_names_where_their_modules_have_others():
    model = atfr.create_model("x3d_xs", num_classes=4).eval()
    atfr.adapt_(model, after=["res3", "stem"])
    assert adaptation(model)["after"] == ["stem", "res3"]
    with torch.no_grad(), atfr.record(model) as trace:
        model(noise(1, 3, 4, 32, 32))
    assert list(trace.sites) == ["stem", "res3"]
    assert atfr.clip_cost(model, (3, 4, 32, 32)).of(trace)


def test_a_text_for_a_number_is_named_as_it_was_given() -> None:
    for options, given in (
        ({"edge_maps": "foo"}, "edge_maps .*'foo'"),
        ({"num_bins": "change"}, "num_bins .*'change'"),
    ):
        with pytest.raises(InputError, match=given):
            atfr.adapt_(atfr.create_model("resnet3d_18", num_classes=3), "input", sampler="change", **options)
