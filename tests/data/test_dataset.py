"""The data set gives the same clips whatever loads them, and loses no video in silence."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from atfr.data import dataset as dataset_module
from atfr.data.dataset import ClipDataset
from atfr.data.records import VideoList, VideoRecord, read_folder
from atfr.data.samples import render_samples
from atfr.errors import DataError, InputError, VideoError
from atfr.video.decode import decode
from atfr.video.file import VideoFile
from atfr.video.pictures import Pictures
from atfr.video.spec import ClipSpec
from atfr.video.transforms import test_clips as cut_views
from tests.video.video_files import write_video

SPEC = ClipSpec(frames=8, stride=2, size=32, resize=36, jitter=(36, 44))


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, VideoList]:
    root = tmp_path_factory.mktemp("set") / "samples"
    return read_folder(render_samples(root, clips_per_class_train=2, clips_per_class_test=1, size=48, frames=24))


@pytest.fixture
def with_bad(splits: dict[str, VideoList], tmp_path: Path) -> VideoList:
    """Ten videos; the fourth is no video, and the seventh is cut short."""
    records = list(splits["train"].records[:10])
    (tmp_path / "bad.mp4").write_text("no video")
    records[3] = VideoRecord(tmp_path / "bad.mp4", records[3].label)
    noise = np.random.default_rng(0).integers(0, 255, (40, 48, 48, 3), dtype=np.uint8)

    path = write_video(tmp_path / "cut.mp4", noise)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    records[6] = VideoRecord(path, records[6].label)
    return VideoList(tuple(records), splits["train"].labels)


def all_clips(dataset: ClipDataset, num_workers: int) -> torch.Tensor:
    loader = DataLoader(dataset, batch_size=3, num_workers=num_workers)
    return torch.cat([clips for clips, _ in loader])


def test_training_items(splits: dict[str, VideoList]) -> None:
    dataset = ClipDataset(splits["train"], SPEC, train=True)
    assert len(dataset) == 12
    for index in (0, 11, -1):
        clip, label = dataset[index]
        assert clip.shape == (3, 8, 32, 32)
        assert label == splits["train"].records[index].label
    with pytest.raises(IndexError):
        dataset[12]


def test_test_items_are_the_views_of_the_decoded_file(splits: dict[str, VideoList]) -> None:
    dataset = ClipDataset(splits["test"], SPEC, train=False, num_clips=2, num_crops=3)
    views, label, index = dataset[4]
    assert (label, index) == (splits["test"].records[4].label, 4)
    expected = cut_views(decode(splits["test"].records[4].path, shorter_side=44), SPEC, 2, 3)
    torch.testing.assert_close(views, expected, rtol=0, atol=0)
    batch, labels, indices = next(iter(DataLoader(dataset, batch_size=3)))
    assert batch.shape == (3, 6, 3, 8, 32, 32)
    assert labels.tolist() == [record.label for record in splits["test"].records[:3]]
    assert indices.tolist() == [0, 1, 2]


def test_clips_do_not_depend_on_workers_cache_or_order(splits: dict[str, VideoList]) -> None:
    plain = all_clips(ClipDataset(splits["train"], SPEC, train=True, cache_bytes=0), 0)
    cached = ClipDataset(splits["train"], SPEC, train=True)
    backwards = torch.stack([cached[i][0] for i in reversed(range(12))]).flip(0)
    from_cache = all_clips(cached, 0)
    from_workers = all_clips(ClipDataset(splits["train"], SPEC, train=True), 2)
    files_in_workers = all_clips(ClipDataset(splits["train"], SPEC, train=True, cache_bytes=0), 2)
    for clips in (backwards, from_cache, from_workers, files_in_workers):
        assert torch.equal(clips, plain)


def test_epochs_and_seeds_differ_and_repeat(splits: dict[str, VideoList]) -> None:
    dataset = ClipDataset(splits["train"], SPEC, train=True)
    first = all_clips(dataset, 0)
    dataset.set_epoch(1)
    assert dataset.epoch == 1
    second = all_clips(dataset, 0)
    assert not any(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    dataset.set_epoch(0)
    assert torch.equal(all_clips(dataset, 0), first)
    other = all_clips(ClipDataset(splits["train"], SPEC, train=True, seed=1), 0)
    assert not torch.equal(other, first)


def test_the_epoch_reaches_running_workers(splits: dict[str, VideoList]) -> None:
    dataset = ClipDataset(splits["train"], SPEC, train=True)
    loader = DataLoader(dataset, batch_size=12, num_workers=1, persistent_workers=True)
    for epoch in (0, 1, 0):
        dataset.set_epoch(epoch)
        (clips, _) = next(iter(loader))
        reference = ClipDataset(splits["train"], SPEC, train=True)
        reference.set_epoch(epoch)
        assert torch.equal(clips, all_clips(reference, 0))


def test_each_file_is_decoded_once_while_the_cache_has_room(
    splits: dict[str, VideoList], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Path] = []
    monkeypatch.setattr(dataset_module, "decode", lambda path, **kw: decoded.append(path) or decode(path, **kw))
    dataset = ClipDataset(splits["train"], SPEC, train=True)
    for _ in range(2):
        all_clips(dataset, 0)
    assert len(decoded) == 12
    decoded.clear()
    frame_bytes = 24 * 3 * 44 * 44
    limited = ClipDataset(splits["train"], SPEC, train=True, cache_bytes=5 * frame_bytes + 1)
    for _ in range(2):
        all_clips(limited, 0)
    assert len(limited._cache) == 5
    assert len(decoded) == 12  # what does not fit in is tried once: from then on, only what a clip takes is converted


def test_without_room_frames_are_counted_once_and_only_those_taken_are_converted(
    splits: dict[str, VideoList], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Path] = []
    look = VideoFile._look
    monkeypatch.setattr(VideoFile, "_look", lambda file: looks.append(file.path) or look(file))
    pictures: list[Path] = []
    picture = Pictures.picture
    monkeypatch.setattr(Pictures, "picture", lambda self, frame: pictures.append(self.path) or picture(self, frame))
    dataset = ClipDataset(splits["train"], SPEC, train=True, cache_bytes=0)
    for _ in range(2):
        all_clips(dataset, 0)
    assert looks == [record.path for record in splits["train"].records]
    assert len(pictures) == 2 * 12 * SPEC.frames
    known = ClipDataset(splits["train"], SPEC, train=True, cache_bytes=0, num_frames=[24] * 12)
    looks.clear()
    assert torch.equal(all_clips(known, 0), all_clips(dataset, 0))
    assert looks == []


@pytest.mark.parametrize("cache_bytes", [0, 2**30])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_bad_training_videos_are_replaced_and_reported(with_bad: VideoList, num_workers: int, cache_bytes: int) -> None:
    dataset = ClipDataset(with_bad, SPEC, train=True, cache_bytes=cache_bytes)
    assert dataset.skipped == dataset.damaged == []
    labels = torch.cat([labels for _, labels in DataLoader(dataset, batch_size=3, num_workers=num_workers)])
    expected = [record.label for record in with_bad.records]
    expected[3] = expected[4]  # the label of the video that stands in
    assert labels.tolist() == expected
    ((path, reason),) = dataset.skipped
    assert path == with_bad.records[3].path
    assert "cannot be opened" in reason
    ((path, reason),) = dataset.damaged
    assert path == with_bad.records[6].path
    assert "truncated" in reason


def test_replacement_is_the_same_with_and_without_workers(with_bad: VideoList) -> None:
    one, two = ClipDataset(with_bad, SPEC, train=True), ClipDataset(with_bad, SPEC, train=True)
    assert torch.equal(all_clips(one, 0), all_clips(two, 2))
    assert torch.equal(all_clips(one, 0), all_clips(two, 2))  # the bad one is known by now


def test_bad_test_video_raises_and_names_itself(with_bad: VideoList) -> None:
    dataset = ClipDataset(with_bad, SPEC, train=False)
    dataset[2]
    with pytest.raises(VideoError, match=r"bad\.mp4"):
        dataset[3]
    assert [path.name for path, _ in dataset.skipped] == ["bad.mp4"]
    dataset[6]
    assert [path.name for path, _ in dataset.damaged] == ["cut.mp4"]


def test_nothing_but_bad_videos(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.mp4").write_text("no video")
    records = tuple(VideoRecord(tmp_path / f"{i}.mp4", i % 2) for i in range(3))
    videos = VideoList(records, ("a", "b"))
    with pytest.raises(DataError, match=r"3 videos do not decode.*2\.mp4"):
        ClipDataset(videos, SPEC, train=True, max_skipped=1)[1]
    with pytest.raises(DataError, match=r"1 of 3 videos do not decode, more than 25 %.*1\.mp4"):
        ClipDataset(videos, SPEC, train=True)[1]


@pytest.mark.parametrize("train", [True, False])
def test_too_many_bad_videos_end_the_run(with_bad: VideoList, train: bool) -> None:
    with pytest.raises(DataError, match=r"1 of 10 videos do not decode, more than 9 %.*bad\.mp4"):
        ClipDataset(with_bad, SPEC, train=train, max_skipped=0.09)[3]


def test_a_count_that_is_no_longer_true(splits: dict[str, VideoList]) -> None:
    dataset = ClipDataset(splits["test"], SPEC, train=False, cache_bytes=0, num_frames=[60] * 6)
    with pytest.raises(VideoError, match="said to have 60 frames"):
        dataset[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"cache_bytes": -1}, "cache_bytes"), ({"max_skipped": 1.1}, "max_skipped"), ({"num_frames": [3]}, "12 videos")],
)
def test_wrong_arguments(splits: dict[str, VideoList], arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ClipDataset(splits["train"], SPEC, train=True, **arguments)
