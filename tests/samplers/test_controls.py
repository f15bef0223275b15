"""Controls: how many maps a clip keeps, which ones, and that nothing but the clip itself decides it."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from torch import Tensor, nn

import atfr
from atfr.errors import InputError
from atfr.ragged import PackedClips
from atfr.samplers import Average, Control, Random, Uniform
from tests.samplers.build import noise, run

CONTROLS = [Uniform, Average, Random]
NAMES = ["uniform", "average", "random"]


def groups(site: object, clip: int, frames: int) -> list[list[int]]:
    """The maps of each group that a clip's trace tells, in the order of the output."""
    assignment = site.assignment[clip, :frames].tolist()
    return [[t for t in range(frames) if assignment[t] == group] for group in sorted(set(assignment) - {-1})]


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("active_bins", [1, 1.5, 2.25, 5.4, 7.9])
def test_the_mean_number_of_maps_is_the_one_given(control, active_bins):
    clips = noise(600, 2, 8, 1, 1)
    _, site = run(control(2, active_bins), clips)
    assert set(site.lengths) == {math.floor(active_bins), math.ceil(active_bins)}
    deviation = math.sqrt((active_bins % 1) * (1 - active_bins % 1) / 600)
    assert abs(site.active_bins.double().mean().item() - active_bins) <= 4 * deviation


def test_clips_of_one_network_are_told_apart():
    """Their maps are positive, and have nearly the same mean in every clip."""
    clips = noise(1, 64, 1, 1, 1, seed=1).abs() + 0.05 * noise(600, 64, 8, 1, 1).abs()
    _, site = run(Random(64, 5.4), clips)
    assert abs(site.active_bins.double().mean().item() - 5.4) < 4 * math.sqrt(0.24 / 600)
    assert len({tuple(row) for row in site.assignment.tolist()}) > 200


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("frames", [1, 2, 7, 8, 13])
@pytest.mark.parametrize("active_bins", [1, 2, 3, 5, 8, 100])
def test_a_whole_number_is_exact_and_a_short_clip_keeps_all(control, frames, active_bins):
    clips = noise(5, 2, frames, 2, 2)
    maps, site = run(control(2, active_bins), clips)
    kept = min(active_bins, frames)
    assert site.lengths == [kept] * 5
    if kept == frames:
        for got, clip in zip(maps, clips, strict=True):
            assert sorted(map(tuple, got.flatten(2).permute(1, 0, 2).flatten(1).tolist())) == sorted(
                map(tuple, clip.flatten(2).permute(1, 0, 2).flatten(1).tolist())
            )
            assert control is Random or torch.equal(got, clip)


@pytest.mark.parametrize("frames", [1, 4, 9, 16, 31])
@pytest.mark.parametrize("active_bins", [1, 3, 4, 6.5, 16])
def test_uniform_keeps_every_kth_map_unchanged(frames, active_bins):
    clips = noise(6, 2, frames, 2, 2)
    maps, site = run(Uniform(2, active_bins), clips)
    for i, got in enumerate(maps):
        kept = (site.assignment[i] >= 0).nonzero().flatten()
        assert torch.equal(got, clips[i][:, kept])  # to the bit, in the order of time
        assert torch.equal(site.weights[i], (site.assignment[i] >= 0).float())
        steps = set(kept.diff().tolist())
        k = frames / len(kept)
        assert steps <= {math.floor(k), math.ceil(k)}
        assert kept[0] <= (k + 1) / 2  # the middle of its group: what is left over is shared between both ends
        assert frames - 1 - kept[-1] <= (k + 1) / 2


def test_uniform_by_hand():
    _, site = run(Uniform(2, 4), noise(1, 2, 8, 1, 1))
    assert site.assignment.tolist() == [[-1, 0, -1, 1, -1, 2, -1, 3]]


@pytest.mark.parametrize("control", [Average, Random])
@pytest.mark.parametrize("frames", [1, 5, 8, 16, 31])
@pytest.mark.parametrize("active_bins", [1, 3, 4, 6.5, 16])
def test_means_of_groups_of_equal_size(control, frames, active_bins):
    clips = noise(6, 2, frames, 2, 2, dtype=torch.float64)
    maps, site = run(control(2, active_bins), clips)
    for i, got in enumerate(maps):
        found = groups(site, i, frames)
        assert len(found) == got.shape[1] == site.lengths[i]
        assert sorted(t for group in found for t in group) == list(range(frames))  # none is left out
        sizes = [len(group) for group in found]
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) >= 1
        for a, group in enumerate(found):
            torch.testing.assert_close(got[:, a], clips[i][:, group].mean(1))
            torch.testing.assert_close(site.weights[i, group].sum(), torch.tensor(1.0))
        if control is Average:
            assert [t for group in found for t in group] == list(range(frames))  # neighbours, in the order of time


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("active_bins", [3, 4.6])
def test_a_clip_is_the_same_alone_in_a_batch_and_again(control, active_bins):
    layer = control(3, active_bins)
    clips = noise(20, 3, 9, 2, 2)
    together, _ = run(layer, clips)
    for _ in range(2):
        for i in range(20):
            assert torch.equal(run(layer, clips[[i]])[0][0], together[i])
    torch.manual_seed(77)
    backwards, _ = run(layer.eval(), clips.flip(0))
    for got, want in zip(backwards, reversed(together), strict=True):
        assert torch.equal(got, want)
    assert torch.equal(torch.cat(run(layer.train(), clips)[0], dim=1), torch.cat(together, dim=1))


@pytest.mark.parametrize("active_bins", [3.5, 8.5])
@pytest.mark.parametrize("control", CONTROLS)
def test_clips_of_different_lengths_are_each_alone(control, active_bins):
    layer = control(2, active_bins)
    clips = [noise(2, n, 2, 2, seed=n) for n in (5, 1, 12, 3, 4, 7)]
    maps, site = run(layer, PackedClips.pack(clips))
    for i, clip in enumerate(clips):
        alone, own = run(layer, clip[None])
        assert torch.equal(maps[i], alone[0])
        assert own.lengths[0] == site.lengths[i]
        assert (site.assignment[i, clip.shape[1] :] == -1).all()
        assert torch.equal(site.assignment[i, : clip.shape[1]], own.assignment[0])


def test_random_groups_differ_and_every_pair_is_as_likely_as_any_other():
    _, site = run(Random(3, 2), noise(1000, 3, 8, 1, 1))
    assert len({tuple(row) for row in site.assignment.tolist()}) == 70  # all the choices of 4 of 8
    for s, t in combinations(range(8), 2):
        share = (site.assignment[:, s] == site.assignment[:, t]).double().mean().item()
        assert abs(share - 3 / 7) < 5 * math.sqrt(3 / 7 * 4 / 7 / 1000)


def test_random_groups_come_out_in_random_order():
    _, site = run(Random(3, 2), noise(1000, 3, 8, 1, 1))
    for t in range(8):
        assert abs((site.assignment[:, t] == 0).double().mean().item() - 0.5) < 5 * 0.5 / math.sqrt(1000)


def test_the_number_of_maps_tells_nothing_of_the_groups():
    """The draw of A and that of the groups are not the same number."""
    _, site = run(Random(3, 1.5), noise(2000, 3, 2, 1, 1))
    two = site.active_bins == 2
    first = (site.assignment[two, 0] == 0).double().mean().item()
    assert abs(first - 0.5) < 5 * 0.5 / math.sqrt(two.sum().item())


@pytest.mark.parametrize("control", CONTROLS)
def test_gradients_are_the_weights(control):
    clips = noise(2, 2, 6, 2, 2).requires_grad_()
    maps, site = run(control(2, 2.5), clips)
    sum(m.sum() for m in maps).backward()
    want = site.weights[:, None, :, None, None].expand_as(clips)
    torch.testing.assert_close(clips.grad, want)


@pytest.mark.parametrize("control", CONTROLS)
def test_still_zero_and_broken_clips_keep_as_many(control):
    clips = noise(3, 2, 6, 2, 2)
    want, _ = run(control(2, 3), clips)
    clips[0] = 0
    clips[1, :, 2] = math.nan
    maps, site = run(control(2, 3), clips)
    assert site.lengths == [3, 3, 3]
    assert not maps[0].any()
    assert torch.equal(maps[2], want[2])


@pytest.mark.parametrize("bad", [0, 0.9, -3, math.nan, math.inf, "4", True, None])
@pytest.mark.parametrize("control", CONTROLS)
def test_a_number_of_maps_below_one_is_refused(control, bad):
    with pytest.raises(InputError, match="at least 1"):
        control(2, bad)


class Tiny(nn.Module):
    """Two convolutions and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.early = nn.Conv3d(3, 4, (1, 3, 3), padding=(0, 1, 1))
        self.late = nn.Conv3d(4, 5, (3, 1, 1), padding=(1, 0, 0))

    def forward(self, clips: Tensor) -> Tensor:
        return self.late(self.early(clips)).mean((2, 3, 4))


@pytest.mark.parametrize("sampler", NAMES)
def test_in_a_network_in_the_place_of_sgs(sampler):
    model = Tiny()
    clips = noise(40, 3, 8, 6, 6)
    plain = model(clips)
    report = atfr.adapt_(model, after="early", sampler=sampler, active_bins=5.4)
    assert report.new_parameters == 0
    assert isinstance(model.early.sgs, Control)
    with atfr.record(model) as trace:
        logits = model(clips)
    assert set(trace.kept_maps) == {5, 6}
    torch.testing.assert_close(model(clips[7:8]), logits[7:8])
    cost = atfr.clip_cost(model, (3, 8, 6, 6))
    assert sorted(cost.adaptive) == [5, 6]
    assert cost.of(trace) == [cost.adaptive[kept] for kept in trace.kept_maps]
    assert cost.adaptive[5] - (5 * 36 * 4 * 5 * 3) == cost.adaptive[6] - (6 * 36 * 4 * 5 * 3)
    again = Tiny()
    again.load_state_dict(model.state_dict())
    atfr.adapt_(again, **atfr.adapt.adaptation(model))
    assert torch.equal(again(clips), logits)
    atfr.restore_(model)
    assert torch.equal(model(clips), plain)


@pytest.mark.parametrize("sampler", NAMES)
@pytest.mark.parametrize(
    "option",
    [
        {"num_bins": 4},
        {"kernel": "linear_mean"},
        {"embedding_dim": 4},
        {"top_edge": "paper"},
        {"order": "time"},
        {"similarity": "angular"},
        {"temporal_block": 4},
    ],
)
def test_options_of_sgs_are_refused(sampler, option):
    model = Tiny()
    with pytest.raises(InputError, match=f"sampler='{sampler}' has no {next(iter(option))}="):
        atfr.adapt_(model, after="early", sampler=sampler, active_bins=4, **option)
    assert not hasattr(model.early, "sgs")


def test_active_bins_is_for_controls_and_they_need_it():
    for sampler in NAMES:
        with pytest.raises(InputError, match="needs active_bins"):
            atfr.adapt_(Tiny(), after="early", sampler=sampler)
        for bad in (0.5, math.nan):
            with pytest.raises(InputError, match="at least 1"):
                atfr.adapt_(Tiny(), after="early", sampler=sampler, active_bins=bad)
    for sampler in ("sgs", "attention"):
        with pytest.raises(InputError, match="active_bins is for"):
            atfr.adapt_(Tiny(), after="early", sampler=sampler, active_bins=4)
    with pytest.raises(InputError, match="did you mean 'uniform'"):
        atfr.adapt_(Tiny(), after="early", sampler="unifrom", active_bins=4)


def test_the_remedy_that_the_message_names_works():
    """The mean number of maps of a trace, as it is written there."""
    model, control = Tiny(), Tiny()
    atfr.adapt_(model, after="early")
    with atfr.record(model) as trace:
        model(noise(3, 3, 8, 6, 6))
    mean = trace.active_bins.float().mean().item()
    atfr.adapt_(control, after="early", sampler="average", active_bins=mean)
    assert control.early.sgs.active_bins == mean
