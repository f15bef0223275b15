"""Which frames a clip takes: hand-worked cases, and properties for any length."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from atfr.errors import InputError
from atfr.video.sampling import clip_indices, random_start, uniform_starts

count = st.integers(1, 200)


def test_worked_cases() -> None:
    assert clip_indices(20, 4, 2, 3).tolist() == [3, 5, 7, 9]
    assert clip_indices(5, 4, 2, 0).tolist() == [0, 2, 4, 1]  # repeats from its start
    assert clip_indices(1, 3, 2, 0).tolist() == [0, 0, 0]
    assert uniform_starts(17, 4, 2, 1) == [5]  # span 7: 5 frames before, 5 after
    assert uniform_starts(17, 4, 2, 3) == [0, 5, 10]
    assert uniform_starts(17, 4, 2, 4) == [0, 3, 7, 10]
    assert uniform_starts(5, 4, 2, 3) == [0, 0, 0]


def test_clips_that_span_the_video() -> None:
    assert clip_indices(12, 4, "video", 1).tolist() == [1, 4, 7, 10]
    assert clip_indices(10, 4, "video", 0).tolist() == [0, 2, 5, 7]
    assert clip_indices(3, 6, "video", 0).tolist() == [0, 0, 1, 1, 2, 2]  # a short video: frames come several times
    assert uniform_starts(12, 4, "video", 1) == [1]
    assert uniform_starts(12, 4, "video", 3) == [0, 1, 2]
    with pytest.raises(InputError, match="0 to 2"):
        clip_indices(12, 4, "video", 3)


@given(num_frames=count, frames=st.integers(1, 64), num_clips=st.integers(1, 12))
def test_each_part_of_the_video_gives_one_frame(num_frames: int, frames: int, num_clips: int) -> None:
    for start in uniform_starts(num_frames, frames, "video", num_clips):
        for part, index in enumerate(clip_indices(num_frames, frames, "video", start).tolist()):
            if num_frames >= frames:
                assert part * num_frames // frames <= index < (part + 1) * num_frames // frames
            else:
                assert index == part * num_frames // frames


@given(num_frames=count, frames=st.integers(1, 64), stride=st.integers(1, 8), num_clips=st.integers(1, 12))
def test_uniform_clips_lie_in_the_video_and_mirror_each_other(
    num_frames: int, frames: int, stride: int, num_clips: int
) -> None:
    starts = uniform_starts(num_frames, frames, stride, num_clips)
    span = (frames - 1) * stride + 1
    assert len(starts) == num_clips
    assert starts == sorted(starts)
    for start in starts:
        indices = clip_indices(num_frames, frames, stride, start)
        assert indices.shape == (frames,)
        assert indices.min() >= 0
        assert indices.max() < num_frames
        if num_frames >= span:
            assert indices.tolist() == list(range(start, start + span, stride))
    if num_frames >= span:
        for start, mirrored in zip(starts, reversed(starts), strict=True):
            assert abs(start - (num_frames - span - mirrored)) <= 1  # rounding
        if num_clips > 1:
            assert starts[0] == 0
            assert starts[-1] == num_frames - span


def test_random_start_reaches_every_place_and_no_other() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = [random_start(12, 4, 2, generator) for _ in range(600)]
    assert sorted(set(drawn)) == [0, 1, 2, 3, 4, 5]
    assert min(drawn.count(start) for start in range(6)) > 60
    assert {random_start(6, 4, 2, generator) for _ in range(20)} == {0}


@pytest.mark.parametrize(
    "call",
    [
        lambda: clip_indices(0, 4, 2, 0),
        lambda: clip_indices(10, 0, 2, 0),
        lambda: clip_indices(10, 4, 0, 0),
        lambda: clip_indices(10, 4, 2, 10),
        lambda: clip_indices(10, 4, 2, -1),
        lambda: uniform_starts(10, 4, 2, 0),
    ],
)
def test_wrong_arguments(call: object) -> None:
    with pytest.raises(InputError, match="must be"):
        call()
