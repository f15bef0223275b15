"""Neighbours of one length are a plain batch in memory: in inference an operation across time is a call for them."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import atfr
from atfr.optimize.conv import FusedConv3d
from atfr.ragged import PackedClips, windows
from atfr.ragged.operations import clip_by_clip
from tests.ragged.test_at_once import Calls

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
CHANNELS, LENGTH, LENGTHS = 4, 5, (3, 3, 5, 4, 4, 4)
OPERATIONS = {
    "conv": nn.Conv3d(CHANNELS, 6, 3, padding=1),
    "strided conv": nn.Conv3d(CHANNELS, 6, 3, (2, 1, 1), (1, 0, 0)),
    "conv, padding in a word": nn.Conv3d(CHANNELS, 6, (2, 1, 1), padding="same"),
    "depthwise conv of oneDNN": FusedConv3d(nn.Conv3d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS)),
    "max pool": nn.MaxPool3d((3, 2, 2), (2, 2, 2), (1, 0, 0)),
    "max pool, ceil": nn.MaxPool3d((2, 1, 1), (2, 1, 1), ceil_mode=True),
    "average pool": nn.AvgPool3d(3, 1, 1, count_include_pad=False),
    "pad by repeating": lambda maps: F.pad(maps, (0, 0, 0, 0, 2, 1), mode="replicate"),
    "interpolate": lambda maps: F.interpolate(maps, scale_factor=(2, 1, 1)),
}


def packed(count: int, innermost: bool, length: int = LENGTH) -> tuple[PackedClips, Tensor]:
    torch.manual_seed(count)
    clips = torch.randn(count, CHANNELS, length, 6, 6)
    found = PackedClips.pack(list(clips))
    return found.contiguous(memory_format=torch.channels_last_3d) if innermost else found, clips


@pytest.mark.parametrize("innermost", [True, False])
@pytest.mark.parametrize("name", OPERATIONS)
def test_it_is_what_a_plain_batch_gives_in_one_call(name: str, innermost: bool) -> None:
    run = OPERATIONS[name]
    maps, clips = packed(3, innermost)
    counts = []
    with torch.inference_mode():
        for count in (2, 7):
            more = packed(count, innermost)[0]
            run(more)  # kernels are prepared
            with Calls() as calls:
                run(more)
            counts.append(calls.count)
        found, expected = run(maps), run(clips)
    assert counts[0] == counts[1]
    assert isinstance(found, PackedClips)
    assert found.lengths == (expected.shape[2],) * 3
    torch.testing.assert_close(torch.stack(found.unpack()), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_format_is_that_of_a_plain_batch(name: str) -> None:
    maps, clips = packed(3, True)
    with torch.inference_mode():
        found = OPERATIONS[name](maps).plain()
        plain = OPERATIONS[name](clips.contiguous(memory_format=torch.channels_last_3d))
    innermost = plain.is_contiguous(memory_format=torch.channels_last_3d)
    assert found.is_contiguous(memory_format=torch.channels_last_3d) == innermost
    assert found.stride(0) == found.numel() or not innermost  # some kernels ask for strides of sizes of 1 too


@pytest.mark.parametrize("innermost", [True, False])
@pytest.mark.parametrize("name", OPERATIONS)
def test_neighbours_of_one_length_give_what_each_gives_alone(name: str, innermost: bool) -> None:
    run, clips = OPERATIONS[name], [packed(length, innermost, length)[1][0] for length in LENGTHS]
    maps = PackedClips.pack([clip * (number + 1) for number, clip in enumerate(clips)])
    maps = maps.contiguous(memory_format=torch.channels_last_3d) if innermost else maps
    with torch.inference_mode():
        found, alone = run(maps).unpack(), [run(clip[None])[0] for clip in maps.unpack()]
    for one, other in zip(found, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_neighbours_of_one_length_are_a_call_in_inference() -> None:
    calls = []

    def run(maps: Tensor) -> Tensor:
        calls.append((len(maps), maps.shape[2]))
        return maps[:, :, 1:]

    maps = PackedClips.pack([torch.randn(CHANNELS, length, 6, 6) for length in LENGTHS])
    with torch.no_grad():
        assert clip_by_clip(run, maps).lengths == (2, 2, 4, 3, 3, 3)
    assert calls == [(2, 3), (1, 5), (3, 4)]
    calls.clear()
    clip_by_clip(run, maps)
    assert calls == [(1, length) for length in LENGTHS]


def test_nan_stays_in_its_clip() -> None:
    maps, _ = packed(3, True)
    maps.plain()[:, :, LENGTH : 2 * LENGTH] = torch.nan
    with torch.inference_mode():
        first, second, third = OPERATIONS["conv"](maps).unpack()
    assert first.isfinite().all()
    assert second.isnan().all()
    assert third.isfinite().all()


def test_in_training_and_with_other_lengths_clips_are_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    monkeypatch.setattr(windows, "clip_by_clip", lambda func, clips: sizes.append(windows.are_a_batch(clips)))
    uneven = PackedClips.pack([torch.randn(CHANNELS, length, 6, 6) for length in (2, 4)])
    windows.interpolate(F.interpolate, packed(2, True)[0], scale_factor=2)
    with torch.no_grad():
        windows.interpolate(F.interpolate, packed(2, True)[0], scale_factor=2)
        windows.interpolate(F.interpolate, uneven, scale_factor=2)
        windows.interpolate(F.interpolate, packed(1, True)[0], scale_factor=2)
    assert sizes == [False, True, False, False]


def test_a_clip_that_is_too_short_is_named() -> None:
    with torch.inference_mode(), pytest.raises(atfr.errors.UnsupportedOperationError, match="the shortest has 2"):
        nn.Conv3d(CHANNELS, 6, 3)(packed(3, True, length=2)[0])
