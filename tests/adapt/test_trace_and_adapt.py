"""record, adapt_, restore_ and set_num_bins_ on other people's modules: what is put in, told, and refused."""

import threading

import pytest
import torch
from torch import Tensor, nn

import atfr
from atfr.adapt import adaptation
from atfr.adapt.surgery import check_rows, put_behind
from atfr.errors import AdaptError, InputError, UnsupportedOperationError


class Block(nn.Module):
    """A module that is no Sequential: SGS goes behind it by a hook."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(6, 6, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        return features + self.conv(features)


class Network(nn.Module):
    """A user's own network: a temporal convolution, a residual add, a concat and a mean head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv3d(3, 6, (1, 3, 3), padding=(0, 1, 1)), nn.ReLU())
        self.block = Block()
        self.late = Block()
        self.unused = nn.Conv3d(1, 1, 1)
        self.flat = nn.Linear(12, 5)

    def forward(self, clips: Tensor) -> Tensor:
        features = self.block(self.stem(clips))
        return self.flat(torch.cat([features, self.late(features)], dim=1).mean(dim=(2, 3, 4)))


def varied_clips() -> Tensor:
    return torch.rand(3, 3, 7, 12, 12) * torch.linspace(0.1, 3, 7).view(1, 1, 7, 1, 1)


@pytest.mark.parametrize("after", ["stem", "block", "stem.1"])
def test_any_network_any_module(after: str) -> None:
    model = Network().double()
    clips = varied_clips().double()
    logits, keys = model(clips), list(model.state_dict())
    report = atfr.adapt_(model, after=after)
    assert (report.site, report.path, report.channels) == (after, after, 6)
    assert report.new_parameters == 6 * 6 + 6 + 6 * 8 + 8
    assert [key for key in model.state_dict() if "sgs" not in key] == keys
    with atfr.record(model) as trace:
        together = model(clips)
    assert list(trace.sites) == [after]
    alone = torch.cat([model(clip[None]) for clip in clips])
    torch.testing.assert_close(together, alone)
    together.sum().backward()
    atfr.restore_(model)
    assert torch.equal(model(clips), logits)
    assert list(model.state_dict()) == keys


def test_keeps_device_type_and_mode_of_the_network() -> None:
    model = Network().double().eval()
    atfr.adapt_(model, after="block")
    assert not model.block.sgs.training
    assert {p.dtype for p in model.parameters()} == {torch.float64}


def test_an_optimiser_made_afterwards_sees_the_similarity_network() -> None:
    model = Network()
    before = sum(p.numel() for p in model.parameters())
    report = atfr.adapt_(model, after="block")
    assert sum(p.numel() for p in model.parameters()) == before + report.new_parameters


@pytest.mark.parametrize(
    ("after", "message"),
    [
        ("blok", "did you mean 'block'"),
        ("unused", "not used in the forward pass"),
        ("flat", "N x C x T x H x W"),
    ],
)
def test_refuses_where_sgs_cannot_stand(after: str, message: str) -> None:
    model = Network()
    keys = list(model.state_dict())
    with pytest.raises(AdaptError, match=message):
        atfr.adapt_(model, after=after)
    assert list(model.state_dict()) == keys
    model(varied_clips())  # no hook is left behind


def test_a_network_of_other_inputs_needs_an_example() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = Network()

        def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
            return self.network(pair[0] + pair[1])

    clips = varied_clips()
    model = Pair()
    with pytest.raises(AdaptError, match="example="):
        atfr.adapt_(model, after="network.block")
    assert atfr.adapt_(model, after="network.block", example=(clips, clips)).channels == 6
    assert model((clips, clips)).shape == (3, 5)


def test_bad_settings_are_refused_before_anything_changes() -> None:
    model = Network()
    keys = list(model.state_dict())
    with pytest.raises(InputError, match="did you mean 'linear'"):
        atfr.adapt_(model, after="block", kernel="lineer")
    assert list(model.state_dict()) == keys


def test_adaptation_says_how_to_make_it_again() -> None:
    model, again = Network(), Network()
    assert adaptation(model) is None
    atfr.adapt_(model, after="stem", kernel="linear_mean", num_bins=5, order="time", embedding_dim=4)
    atfr.set_num_bins_(model, 3)
    settings = adaptation(model)
    assert settings is not None
    assert settings["num_bins"] == 3
    atfr.adapt_(again, **settings)
    again.load_state_dict(model.state_dict())
    clips = varied_clips()
    assert torch.equal(again(clips), model(clips))


def test_several_passes_are_joined_clip_after_clip() -> None:
    model = Network()
    atfr.adapt_(model, after="stem")
    clips = varied_clips()
    with atfr.record(model) as trace:
        model(clips)
        model(clips[:1])
    site = trace.sites["stem"]
    assert site.active_bins.shape == (4,)
    assert site.assignment.shape == site.weights.shape == (4, 7)
    assert torch.equal(site.assignment[3], site.assignment[0])
    assert not site.weights.requires_grad


def test_a_record_ends_with_its_context_and_may_be_nested() -> None:
    model = Network()
    atfr.adapt_(model, after="stem")
    with atfr.record(model) as outer:
        with atfr.record(model) as inner:
            model(varied_clips())
        model(varied_clips())
    model(varied_clips())
    assert (len(inner.active_bins), len(outer.active_bins)) == (3, 6)


def test_a_record_of_no_network_is_refused() -> None:
    with pytest.raises(InputError, match=r"takes a network, an nn\.Module, got NoneType"), atfr.record(None):
        pass


def test_another_thread_is_not_recorded() -> None:
    model = Network()
    atfr.adapt_(model, after="stem")
    with atfr.record(model) as trace:
        thread = threading.Thread(target=model, args=(varied_clips(),))
        thread.start()
        thread.join()
    with pytest.raises(InputError, match="nothing was recorded"):
        _ = trace.active_bins


def test_the_trace_of_a_static_network_has_no_site() -> None:
    with atfr.record(Network()) as trace:
        pass
    assert trace.sites == {}
    with pytest.raises(InputError, match="no sampler that leaves maps out"):
        _ = trace.active_bins


def test_passes_of_different_lengths_are_filled_up() -> None:
    model = Network()
    atfr.adapt_(model, after="stem")
    clips = varied_clips()
    with atfr.record(model) as trace:
        model(clips)
        model(clips[:, :, :4])
    assert trace.active_bins.shape == (6,)
    site = trace.sites["stem"]
    assert site.weights.shape == site.assignment.shape == (6, 7)
    assert (site.assignment[3:, 4:] == -1).all()
    assert not site.weights[3:, 4:].any()
    assert site.lengths == trace.kept_maps == trace.active_bins.tolist()


def counted_by_hand(bins: list[int], weights: list[float], maps: int) -> tuple[int, int, int, int]:
    """What becomes of the first so many maps of a clip: maps, active bins, dropped, down-weighted."""
    kept = [step for step in range(maps) if bins[step] >= 0]
    largest = {own: max(weights[step] for step in kept if bins[step] == own) for own in {bins[step] for step in kept}}
    weak = [step for step in kept if weights[step] < largest[bins[step]] / 2]
    return maps, len(largest), maps - len(kept), len(weak)


@pytest.mark.parametrize("options", [{}, {"kernel": "linear_mean"}, {"top_edge": "paper", "num_bins": 4}])
def test_what_becomes_of_maps_is_counted(options: dict[str, object]) -> None:
    """Also at a second site, where clips come in as many maps as the first has kept."""
    model = Network()
    atfr.adapt_(model, after=["stem", "block"], **options)
    for place in (model.stem, model.block):  # so that maps differ enough for several bins
        for convolution in place.sgs.similarity.children():
            nn.init.zeros_(convolution.bias)
    clips = varied_clips().repeat(4, 1, 1, 1, 1) * torch.rand(12, 1, 7, 1, 1)
    with atfr.record(model) as trace, torch.no_grad():
        model(clips)
        model(clips[:2, :, :5])
    maps = [7] * 12 + [5] * 2
    seen = [0, 0]
    for site in trace.sites.values():
        counts = site.counts
        for clip, came_in in enumerate(maps):
            expected = counted_by_hand(site.assignment[clip].tolist(), site.weights[clip].tolist(), came_in)
            found = (counts.maps, counts.active_bins, counts.dropped, counts.down_weighted)
            assert tuple(one[clip] for one in found) == expected
        seen = [seen[0] + sum(counts.dropped), seen[1] + sum(counts.down_weighted)]
        maps = site.lengths
        assert len(set(maps)) > 1
        assert counts.of(slice(3, 5)).maps == counts.maps[3:5]
        assert type(counts).joined([counts.of(slice(0, 3)), counts.of(slice(3, None))]) == counts
    assert (seen[0] > 0, seen[1] > 0) == ("top_edge" in options, True)  # the test has something to count


def test_a_clip_that_is_not_finite_is_counted_too() -> None:
    model = Network()
    atfr.adapt_(model, after="stem")
    clips = varied_clips()
    clips[1] = torch.nan
    with atfr.record(model) as trace, torch.no_grad():
        model(clips)
    counts = trace.sites["stem"].counts
    assert (counts.maps[1], counts.down_weighted[1]) == (7, 0)
    assert counts.active_bins[1] >= 1


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda_as_on_cpu() -> None:
    model = Network().eval()
    atfr.adapt_(model, after="block")
    clips = varied_clips()
    with torch.no_grad():
        on_cpu = model(clips)
        on_cuda = model.cuda()(clips.cuda()).cpu()
    torch.testing.assert_close(on_cuda, on_cpu, rtol=1e-3, atol=1e-4)


def test_restore_leaves_a_layer_of_the_networks_own() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv3d(3, 6, 1)
            self.sgs = atfr.SimilarityGuidedSampling(6)

        def forward(self, clips: Tensor) -> Tensor:
            return self.sgs(self.conv(clips)).mean((2, 3, 4))

    model = Own()
    with pytest.raises(AdaptError, match="no sampler to take out"):
        atfr.restore_(model)
    with atfr.record(model) as trace:
        assert model(varied_clips()).shape == (3, 6)
    assert list(trace.sites) == ["sgs"]


def test_a_module_that_runs_twice_is_an_error_that_says_so() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu = nn.Conv3d(3, 6, 1), nn.ReLU()
            self.late = nn.Conv3d(6, 6, 1)

        def forward(self, clips: Tensor) -> Tensor:
            return self.relu(self.late(self.relu(self.conv(clips)))).mean((2, 3, 4))

    model = Twice()
    with pytest.raises(AdaptError, match="runs more than once"):
        atfr.adapt_(model, after="relu")
    assert "relu.sgs.similarity.hidden.weight" not in model.state_dict()


@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated
def test_a_scripted_function_that_mixes_clips_is_found_out() -> None:
    """TorchScript's functions do not ask PackedClips: what they return is an ordinary tensor."""

    @torch.jit.script
    def swish(x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)

    class Scripted(Network):
        def forward(self, clips: Tensor) -> Tensor:
            features = self.block(self.stem(clips))
            return self.flat(torch.cat([features, swish(features)], dim=1).mean(dim=(2, 3, 4)))

    class ScriptedOnly(Network):
        def forward(self, clips: Tensor) -> Tensor:
            return swish(self.block(self.stem(clips))).mean(dim=(2, 3, 4))

    for model in (Scripted(), ScriptedOnly()):
        with pytest.raises(UnsupportedOperationError):
            atfr.adapt_(model, after="stem")
        assert len(model(varied_clips())) == 3  # as it was
        put_behind(model.stem, atfr.SimilarityGuidedSampling(6))  # without the trial
        model.register_forward_hook(check_rows)
        with pytest.raises(UnsupportedOperationError):
            model(varied_clips())


@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated
def test_tracing_is_refused() -> None:
    model = Network()
    atfr.adapt_(model, after="stem")
    with pytest.raises(UnsupportedOperationError, match="number of active bins"):
        torch.jit.trace(model, varied_clips())


class Strict(Network):
    """Takes its own number of frames only, and says no more than that."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, 6, 1, stride=(1, 8, 8))  # little to look at in the large clips of a trial

    def forward(self, clips: Tensor) -> Tensor:
        features = self.stem(clips)
        assert clips.shape[2] == 7
        return self.flat(torch.cat([features, features], dim=1).mean(dim=(2, 3, 4)))


def test_a_network_that_no_trial_clip_fits_is_adapted_with_a_warning() -> None:
    model = Strict()
    with pytest.warns(UserWarning, match=r"could not try whether Strict works .* example="):
        assert not atfr.adapt_(model, after="stem").tried
    atfr.restore_(model)
    assert atfr.adapt_(model, after="stem", example=varied_clips()).tried


def test_an_example_is_not_spoilt_by_a_network_that_overwrites_it() -> None:
    class Overwrites(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = Network()

        def forward(self, pathways: list[Tensor]) -> Tensor:
            pathways[0] = pathways[0] + pathways.pop()
            return self.network(pathways[0])

    example = [varied_clips(), varied_clips()]
    model = Overwrites()
    assert atfr.adapt_(model, after="network.stem", example=example).tried
    assert len(example) == 2
    assert atfr.clip_cost(model, example=[clips[:1] for clips in example]).sites == ("network.stem",)

    model = Overwrites()
    model.network.block = nn.Upsample(size=(4, 4, 4))
    with pytest.raises(
        AdaptError, match="cannot work behind the sampler"
    ):  # the same input tells that it works without
        atfr.adapt_(model, after="network.stem", example=example)


def test_what_fails_in_training_only_is_refused_too() -> None:
    class Drops(Network):
        def forward(self, clips: Tensor) -> Tensor:
            features = self.block(self.stem(clips))
            if self.training:
                features = features * torch.rand(features.shape[0], 1, 1, 1, 1)
            return self.flat(torch.cat([features, features], dim=1).mean(dim=(2, 3, 4)))

    model = Drops()
    with pytest.raises(AdaptError, match="cannot work in training"):
        atfr.adapt_(model, after="stem")


def test_a_list_of_modules_is_no_place() -> None:
    class Listed(Network):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleDict({"block": self.block})

        def forward(self, clips: Tensor) -> Tensor:
            return self.parts["block"](self.stem(clips)).mean((2, 3, 4))

    with pytest.raises(AdaptError, match="a list of modules"):
        atfr.adapt_(Listed(), after="parts")
    with pytest.raises(AdaptError, match="names of stages"):
        atfr.adapt_(Network(), after=2)  # type: ignore[arg-type]


def test_a_network_without_a_head_gives_packed_clips() -> None:
    model = nn.Sequential(nn.Conv3d(3, 6, 1), nn.Conv3d(6, 4, 1))
    atfr.adapt_(model, after="0")
    with atfr.record(model) as trace:
        features = model(varied_clips())
    assert list(features.lengths) == trace.active_bins.tolist()


def test_full_backward_hooks_see_packed_clips() -> None:
    model = Network()
    atfr.adapt_(model, after="stem")
    clips = varied_clips()
    model(clips).sum().backward()
    want = model.stem[0].weight.grad.clone()
    model.zero_grad()
    seen: list[int] = []
    model.late.conv.register_full_backward_hook(lambda *_: seen.append(1))
    model(clips).sum().backward()
    assert seen == [1]
    torch.testing.assert_close(model.stem[0].weight.grad, want)
