"""Clips cut from frames whose pixels tell where and when they come from."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as tvf

from atfr.errors import InputError
from atfr.video import transforms
from atfr.video.decode import Frames
from atfr.video.spec import ClipSpec
from atfr.video.transforms import motion_energy, train_clip
from atfr.video.transforms import test_clips as cut_views
from atfr.video.transforms import test_views as lazy_views

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def make_frames(count: int = 40, height: int = 30, width: int = 50) -> Frames:
    """Red is the frame's number, green its x, blue its y."""
    data = torch.zeros(count, 3, height, width, dtype=torch.uint8)
    data[:, 0] = torch.arange(count)[:, None, None]
    data[:, 1] = torch.arange(width)
    data[:, 2] = torch.arange(height)[:, None]
    return Frames(data, torch.arange(count, dtype=torch.float64) / 25, 25.0, Path("made"))


def levels(clip: Tensor) -> Tensor:
    return (clip * 255).round().long()


def test_centred_view_without_resizing() -> None:
    spec = ClipSpec(frames=8, stride=2, size=20, resize=30, jitter=(30, 30), **PLAIN)
    views = cut_views(make_frames(), spec)
    assert views.shape == (1, 3, 8, 20, 20)
    assert views.dtype == torch.float32
    assert views.is_contiguous()
    view = levels(views[0])
    assert view[0, :, 0, 0].tolist() == list(range(12, 28, 2))  # span 15 of 40: 12 before, 13 after
    assert view[1, 0, 0].tolist() == list(range(15, 35))
    assert view[2, 0, :, 0].tolist() == list(range(5, 25))


@pytest.mark.parametrize("tall", [False, True])
def test_views_come_clip_by_clip_with_three_crops_along_the_longer_side(tall: bool) -> None:
    spec = ClipSpec(frames=4, stride=2, size=30, resize=30, jitter=(30, 30), **PLAIN)
    frames = make_frames(height=50, width=30) if tall else make_frames()
    views = levels(cut_views(frames, spec, num_clips=2, num_crops=3))
    assert views.shape == (6, 3, 4, 30, 30)
    assert views[:, 0, 0, 0, 0].tolist() == [0, 0, 0, 33, 33, 33]
    assert views[:, 2 if tall else 1, 0, 0, 0].tolist() == [0, 10, 20] * 2
    assert views[:, 1 if tall else 2, 0, 0, 0].tolist() == [0] * 6


def test_normalisation() -> None:
    spec = ClipSpec(frames=2, stride=1, size=30, resize=30, jitter=(30, 30), mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.2))
    plain = ClipSpec(frames=2, stride=1, size=30, resize=30, jitter=(30, 30), **PLAIN)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1, 1) for values in (spec.mean, spec.std))
    frames = make_frames()
    torch.testing.assert_close(cut_views(frames, spec), (cut_views(frames, plain) - mean) / std)


def test_resizing_is_antialiased_bilinear_as_in_pillow() -> None:
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (1, 3, 64, 96), dtype=np.uint8))
    frames = Frames(noise, torch.zeros(1, dtype=torch.float64), 25.0, Path("noise"))
    spec = ClipSpec(frames=1, stride=1, size=20, resize=20, jitter=(20, 20), **PLAIN)
    image = Image.fromarray(noise[0].permute(1, 2, 0).numpy()).resize((30, 20), Image.Resampling.BILINEAR)
    expected = torch.from_numpy(np.asarray(image)[:, 5:25].copy()).permute(2, 0, 1).long()
    difference = (levels(cut_views(frames, spec)[0, :, 0]) - expected).abs()
    assert difference.max() <= 1


def test_small_frames_are_scaled_up_and_short_videos_repeat() -> None:
    spec = ClipSpec(frames=8, stride=2, size=40, resize=48, jitter=(48, 56), **PLAIN)
    views = cut_views(make_frames(3, 12, 10), spec, num_clips=2)
    assert views.shape == (2, 3, 8, 40, 40)
    assert levels(views)[0, 0, :, 0, 0].tolist() == [0, 2, 1, 0, 2, 1, 0, 2]
    assert train_clip(make_frames(3, 12, 10), spec, torch.Generator()).shape == (3, 8, 40, 40)


def test_training_clips_vary_in_time_place_scale_and_mirroring_and_repeat_by_seed() -> None:
    spec = ClipSpec(frames=4, stride=2, size=20, resize=30, jitter=(30, 45), **PLAIN)
    frames = make_frames()
    starts, lefts, tops, steps, mirrored = set(), set(), set(), set(), 0
    for seed in range(120):
        clip = levels(train_clip(frames, spec, torch.Generator().manual_seed(seed)))
        assert clip.shape == (3, 4, 20, 20)
        assert clip[0, :, 0, 0].diff().tolist() == [2, 2, 2]
        row = clip[1, 0, 0]
        mirrored += bool(row[0] > row[-1])
        starts.add(int(clip[0, 0, 0, 0]))
        lefts.add(int(row.min()))
        tops.add(int(clip[2, 0, 0, 0]))
        steps.add(int((row[-1] - row[0]).abs()))
    assert min(starts) == 0
    assert max(starts) == 33
    assert len(starts) > 25
    assert len(lefts) > 15
    assert len(tops) > 8
    assert min(steps) < 14
    assert max(steps) > 18  # 19 px of the crop are 12.7 to 19 px of the video
    assert 40 <= mirrored <= 80
    again = [train_clip(frames, spec, torch.Generator().manual_seed(5)) for _ in range(2)]
    torch.testing.assert_close(again[0], again[1], rtol=0, atol=0)


def test_no_mirroring_without_flip() -> None:
    spec = ClipSpec(frames=2, stride=1, size=20, resize=30, jitter=(30, 40), flip=False, **PLAIN)
    for seed in range(20):
        row = train_clip(make_frames(), spec, torch.Generator().manual_seed(seed))[1, 0, 0]
        assert row[0] < row[-1]


def test_crops_reach_every_edge() -> None:
    spec = ClipSpec(frames=1, stride=1, size=28, resize=30, jitter=(30, 30), flip=False, **PLAIN)
    clips = [levels(train_clip(make_frames(1), spec, torch.Generator().manual_seed(seed))) for seed in range(300)]
    assert {int(clip[2, 0, 0, 0]) for clip in clips} == {0, 1, 2}
    assert {int(clip[1, 0, 0, 0]) for clip in clips} == set(range(23))


def test_the_frames_are_not_changed() -> None:
    frames = make_frames()
    before = frames.data.clone()
    spec = ClipSpec(frames=4, stride=2, size=20, resize=30, jitter=(30, 30))
    train_clip(frames, spec, torch.Generator())
    cut_views(frames, spec, 2, 3)
    assert torch.equal(frames.data, before)


@pytest.mark.parametrize("num_crops", [1, 3])
@pytest.mark.parametrize("seed", [None, 3])
def test_views_cut_one_by_one_are_those_of_a_plain_reading(num_crops: int, seed: int | None) -> None:
    """Each view resized, cropped and normalised on its own, by torchvision: the same bits."""
    noise = torch.randint(0, 256, (40, 3, 64, 90), dtype=torch.uint8)
    frames = Frames(noise, torch.arange(40, dtype=torch.float64) / 25, 25.0, Path("noise"))
    spec = ClipSpec(frames=5, stride=3, size=24, resize=32, jitter=(32, 40), mean=(0.1, 0.4, 0.7), std=(0.2, 0.3, 0.4))

    def places() -> torch.Generator | None:
        return None if seed is None else torch.Generator().manual_seed(seed)

    lazy = lazy_views(frames, spec, 4, num_crops, places())
    found = list(lazy)
    assert all(torch.equal(lazy[number], view) for number, view in enumerate(found))
    assert len(lazy_views(frames, spec, 4, num_crops)) == len(found) == 4 * num_crops
    draws = places()
    expected = []
    for start in (0, 9, 18, 27):
        for crop in range(num_crops):
            if draws is None:
                y, x = 4, (21 // 2 if num_crops == 1 else (0, 21 // 2, 21)[crop])
            else:
                y, x = int(torch.randint(9, (), generator=draws)), int(torch.randint(22, (), generator=draws))
            clip = tvf.resize(noise[start : start + 13 : 3], [32, 45], antialias=True)[..., y : y + 24, x : x + 24]
            clip = tvf.normalize(tvf.to_dtype(clip, torch.float32, scale=True), list(spec.mean), list(spec.std))
            expected.append(clip.transpose(0, 1))
    assert torch.equal(torch.stack(found), torch.stack(expected))
    assert torch.equal(cut_views(frames, spec, 4, num_crops, places()), torch.stack(expected))


@pytest.mark.parametrize("capability", ["AVX2", "DEFAULT"])
def test_images_are_scaled_as_torchvision_does(capability: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    images = torch.randint(0, 256, (3, 3, 37, 50), dtype=torch.uint8)
    for size in ([20, 27], [60, 81]):
        assert torch.equal(transforms._scaled(images, size), tvf.resize(images, size, antialias=True))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_views_cut_on_a_gpu_are_those_of_the_cpu() -> None:
    views = lazy_views(make_frames(), ClipSpec(frames=4, stride=2, size=20, resize=30, jitter=(30, 40)), 2, 3)
    torch.testing.assert_close(torch.stack(list(views.to("cuda"))).cpu(), torch.stack(list(views)))


def test_wrong_counts() -> None:
    with pytest.raises(InputError, match="num_crops must be 1"):
        cut_views(make_frames(), ClipSpec(), num_crops=2)
    with pytest.raises(InputError, match="num_clips"):
        cut_views(make_frames(), ClipSpec(), num_clips=0)


def test_motion_is_the_mean_change_of_a_pixel_from_frame_to_frame() -> None:
    generator = torch.Generator().manual_seed(0)
    data = torch.randint(0, 256, (40, 3, 30, 50), dtype=torch.uint8, generator=generator)
    frames = Frames(data, torch.arange(40, dtype=torch.float64) / 25, 25.0, Path("made"))
    normalised = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.25, 0.2)}
    spec = ClipSpec(frames=5, stride=3, size=30, resize=30, jitter=(30, 30), **normalised)
    views = cut_views(frames, spec, num_clips=2, num_crops=3)
    expected = []
    for start in (0, 27):  # clips of 13 frames at the ends of 40
        for left in (0, 10, 20):
            pixels = data[start : start + 13 : 3, :, :, left : left + 30].numpy().astype(np.float64) / 255
            expected.append(np.abs(pixels[1:] - pixels[:-1]).mean())
    np.testing.assert_allclose(motion_energy(views, spec).numpy(), expected, rtol=1e-5)
    assert motion_energy(views[:, :, :1], spec).tolist() == [0] * 6
    still = Frames(data[:1].expand(40, -1, -1, -1), frames.pts_s, 25.0, Path("made"))
    assert motion_energy(cut_views(still, spec), spec).tolist() == [0]
