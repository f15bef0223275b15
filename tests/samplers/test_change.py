"""Change-guided sampling: against an oracle, its promises for any clip, and where it looks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import atfr
from atfr.errors import InputError
from atfr.ragged import PackedClips
from atfr.samplers import ChangeGuidedSampling
from atfr.samplers.change import filled
from tests.reference.change import kept_maps


def kept_of(layer: ChangeGuidedSampling, clips: Tensor) -> list[list[int]]:
    with atfr.record(layer) as trace:
        layer(clips)
    (site,) = trace.sites.values()
    return [(row >= 0).nonzero()[:, 0].tolist() for row in site.assignment]


def clips_with_events(count: int, frames: int = 24, size: int = 20, noise: float = 0.02, seed: int = 0) -> Tensor:
    """Clips in which a square moves for a while over a still ground, with sensor noise."""
    generator = torch.Generator().manual_seed(seed)
    clips = torch.rand(count, 3, 1, size, size, generator=generator).repeat(1, 1, frames, 1, 1)
    for clip in clips:
        start = int(torch.randint(2, frames - 8, (), generator=generator))
        for time in range(frames):
            x = min(max(time - start, 0), 5) * 2
            clip[:, time, 4:10, x : x + 6] = 2.0
    return clips + noise * torch.randn(clips.shape, generator=generator)


@pytest.mark.parametrize("num_bins", [None, 1, 2, 6, 40])
@pytest.mark.parametrize("mix", [0.0, 0.15, 1.0])
@pytest.mark.parametrize(("dead_zone", "edge_maps"), [(None, 0), (0.0, 0), (0.02, 2), (None, 5)])
def test_keeps_what_the_oracle_keeps(num_bins: int | None, mix: float, dead_zone: float | None, edge_maps: int) -> None:
    clips = clips_with_events(2).double()
    clips[:, :, [0, -1]] *= 0.6  # as behind zero padding
    layer = ChangeGuidedSampling(3, num_bins, mix, dead_zone, edge_maps)
    expected = [kept_maps(clip.numpy(), num_bins, mix, dead_zone, edge_maps) for clip in clips]
    assert kept_of(layer, clips) == expected


@given(
    frames=st.integers(1, 30),
    side=st.integers(1, 19),
    num_bins=st.none() | st.integers(1, 12),
    mix=st.sampled_from([0.0, 0.15, 0.7]),
    edge_maps=st.integers(0, 4),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=100, deadline=None)
def test_any_clip(frames: int, side: int, num_bins: int | None, mix: float, edge_maps: int, seed: int) -> None:
    """As many bins as are asked for are filled, maps come out as they came in, and batch mates change nothing."""
    generator = torch.Generator().manual_seed(seed)
    clips = torch.randn(3, 2, frames, side, side + 1, generator=generator, dtype=torch.float64)
    clips[1] = clips[1, :, :1]
    layer = ChangeGuidedSampling(2, num_bins, mix, None, edge_maps)
    kept, out = kept_of(layer, clips), layer(clips)
    most = frames if num_bins is None else min(frames, num_bins)
    if most <= max(1, frames // 3):  # enough steps exceed the noise floor, which half of them may not
        assert [len(one) for one in kept] == [most, 1, most]
    assert all(1 <= len(one) <= most for one in kept)
    assert kept[0] == kept_maps(clips[0].numpy(), num_bins, mix, None, edge_maps)
    for clip, times, result in zip(clips, kept, out.unpack(), strict=True):
        assert torch.equal(result, clip[:, times])
        assert kept_of(layer, clip[None]) == [times]


def test_clips_of_different_lengths_are_sampled_as_if_alone() -> None:
    layer = ChangeGuidedSampling(3, 5)
    clips = [clips_with_events(1, seed=frames)[0, :, :frames] for frames in (9, 1, 24, 16)]
    packed = layer(PackedClips.pack([clip.clone() for clip in clips]))
    alone = [layer(clip[None]).unpack()[0] for clip in clips]
    assert all(torch.equal(a, b) for a, b in zip(packed.unpack(), alone, strict=True))


def test_a_brief_event_gets_the_maps_and_noise_does_not() -> None:
    clips = clips_with_events(20, noise=0.05)
    for clip, times in zip(clips, kept_of(ChangeGuidedSampling(3, 6), clips), strict=True):
        steps = clip.diff(dim=1).abs().mean((0, 2, 3))
        moving = {t for t in range(24) if steps[max(t - 1, 0)] > 0.12 or steps[min(t, 22)] > 0.12}
        assert 4 <= len(moving) <= 8
        assert len(moving & set(times)) >= 3
    assert {len(times) for times in kept_of(ChangeGuidedSampling(3, 6), clips)} == {6}


def test_one_large_step_takes_one_bin() -> None:
    """A cut and a flash are one change each, however large."""
    clips = clips_with_events(1, noise=0.0)
    before = kept_of(ChangeGuidedSampling(3, 8, mix=0.0), clips)[0]
    clips[:, :, 21:] += 50.0
    after = kept_of(ChangeGuidedSampling(3, 8, mix=0.0), clips)[0]
    assert sum(time >= 21 for time in after) == 1
    assert len(set(before) & set(after)) >= 4


def test_a_given_noise_floor_leaves_one_map_of_a_clip_that_is_noise() -> None:
    noise = torch.rand(2, 3, 1, 16, 16) + 0.02 * torch.randn(2, 3, 12, 16, 16)
    assert [len(times) for times in kept_of(ChangeGuidedSampling(3, 4), noise)] == [4, 4]
    assert [len(times) for times in kept_of(ChangeGuidedSampling(3, 4, dead_zone=0.1), noise)] == [1, 1]


def test_gradients_reach_the_maps_that_are_kept_and_no_others() -> None:
    clips = clips_with_events(2).requires_grad_()
    layer = ChangeGuidedSampling(3, 5)
    times = kept_of(layer, clips)
    layer(clips).plain().sum().backward()
    assert clips.grad is not None
    for gradient, kept in zip(clips.grad, times, strict=True):
        assert gradient.amax((0, 2, 3)).nonzero()[:, 0].tolist() == kept
        assert (gradient[:, kept] == 1).all()


def test_a_clip_that_is_not_finite_spoils_itself_only() -> None:
    clips = clips_with_events(3)
    clips[1, 0, 3, 0, 0] = torch.nan
    out = ChangeGuidedSampling(3, 4)(clips)
    assert out.lengths[1] == 1
    assert out.unpack()[1].isnan().all()
    assert all(out.unpack()[i].isfinite().all() for i in (0, 2))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_the_format_of_the_maps_does_not_matter(memory_format: torch.memory_format) -> None:
    clips = clips_with_events(3)
    assert kept_of(ChangeGuidedSampling(3, 5), clips.contiguous(memory_format=memory_format)) == kept_of(
        ChangeGuidedSampling(3, 5), clips
    )


def test_bfloat16_maps_are_compared_in_float32() -> None:
    clips = clips_with_events(4).bfloat16()
    assert kept_of(ChangeGuidedSampling(3, 5), clips) == kept_of(ChangeGuidedSampling(3, 5), clips.float())
    assert ChangeGuidedSampling(3, 5)(clips).dtype == torch.bfloat16


@given(st.lists(st.floats(1e-3, 1) | st.just(0.0), min_size=1, max_size=20), st.integers(1, 20))
@settings(deadline=None)
def test_steps_fill_the_bins(steps: list[float], bins: int) -> None:
    given_N = torch.tensor([steps], dtype=torch.float64)
    got = filled(given_N, torch.tensor([[float(bins)]], dtype=torch.float64))[0]
    assert (got <= 1).all()
    assert ((got > 0) == (given_N[0] > 0)).all()
    moving = int((given_N[0] > 0).sum())
    np.testing.assert_allclose(got.sum(), min(bins, moving), rtol=1e-9)
    uncut = (got < 1) & (got > 0)
    ratio = got[uncut] / given_N[0][uncut]
    assert len(ratio) == 0 or torch.allclose(ratio, ratio[:1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_bins": 0}, "num_bins must be an integer of at least 1"),
        ({"mix": 1.5}, "mix must be a number from 0 to 1"),
        ({"dead_zone": -0.1}, "dead_zone must be a number of at least 0"),
        ({"dead_zone": float("nan")}, "dead_zone"),
        ({"edge_maps": -1}, "edge_maps must be an integer of at least 0"),
    ],
)
def test_wrong_options(options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ChangeGuidedSampling(3, **options)


@pytest.mark.parametrize(
    "options", [{"sampler": "change", "num_bins": 6}, {"edge_maps": "found"}], ids=["change", "sgs"]
)
@pytest.mark.parametrize("length", [2, 5, 9, 12])
def test_padded_ends_of_a_shorter_clip_do_not_depend_on_its_batch_mates(options: dict, length: int) -> None:
    """Behind a convolution that pads in time, whose outermost maps are held within the range of the others."""
    model = nn.Sequential(nn.Conv3d(3, 4, 3, padding=1), nn.Conv3d(4, 4, 3, padding=1)).double().eval()
    example = torch.zeros(1, 3, 8, 8, 8, dtype=torch.float64)
    atfr.adapt_(model, "0", example=example, **options)
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        long, short = (torch.randn(3, n, 8, 8, generator=generator, dtype=torch.float64) for n in (16, length))
        with torch.no_grad():
            together = model(atfr.PackedClips.pack([long, short])).unpack()
            alone = [model(clip[None]).unpack()[0] for clip in (long, short)]
        for one, other in zip(together, alone, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
