"""What users send: refused before it is decoded where it is too long or too large, and removed whatever comes of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import av
import pytest
import torch

from atfr.data.samples import SAMPLE_CLASSES
from atfr.errors import DataError, InputError, VideoError
from atfr.video import decode
from atfr.viz import centred_clip
from atfr.web import samples, uploads
from atfr.web.uploads import Inbox, Limits, check_video
from tests.evaluate.build import SPEC, write_level


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_level(tmp_path_factory.mktemp("videos") / "a.mp4", 3, frames=50)  # two seconds


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox(tmp_path / "sent", SPEC, Limits(seconds=60, megabytes=1))


def sent(inbox: Inbox, video: Path, place: str = "0123abcd") -> Path:
    path = inbox.folder / place / video.name
    path.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(video, path))


def test_a_file_is_read_and_removed(inbox: Inbox, video: Path) -> None:
    path = sent(inbox, video)
    clip = inbox.take(path)
    wanted = centred_clip(video, SPEC)
    assert torch.equal(clip.clips, wanted.clips)
    assert (clip.path, clip.numbers, clip.video_frames) == (Path("a.mp4"), wanted.numbers, 50)
    assert not list(inbox.folder.iterdir())


def test_the_same_file_of_two_users(inbox: Inbox, video: Path) -> None:
    """Both have one place: the first one's turn removes it before the second's."""
    path = sent(inbox, video)
    assert torch.equal(inbox.take(path).clips, inbox.take(path).clips)
    for number in range(uploads.REMEMBERED):
        inbox.take(sent(inbox, video, str(number)))
    with pytest.raises(InputError, match=r"'a\.mp4' is not there any more; send it again"):
        inbox.take(path)


def test_only_what_was_sent_is_read(inbox: Inbox, video: Path) -> None:
    inbox.folder.mkdir()
    link = inbox.folder / "link.mp4"
    link.symlink_to(video)
    for path in (video, link, inbox.folder / ".." / "x" / "a.mp4", "/etc/passwd"):
        with pytest.raises(InputError, match="was not sent to this page"):
            inbox.take(path)
    assert video.is_file()


@pytest.mark.parametrize(("content", "told"), [(b"", "is empty"), (b"no video at all", "cannot be opened as one")])
def test_what_is_no_video_is_refused_and_removed(content: bytes, told: str, inbox: Inbox, tmp_path: Path) -> None:
    (tmp_path / "b.mp4").write_bytes(content)
    path = sent(inbox, tmp_path / "b.mp4")
    with pytest.raises(VideoError, match=f"'b.mp4' {told}") as caught:
        inbox.take(path)
    assert str(inbox.folder) not in str(caught.value)
    assert not list(inbox.folder.iterdir())


def test_a_damaged_file_is_told_by_its_name(inbox: Inbox, video: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.avi"
    with av.open(str(video)) as source, av.open(str(cut), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    clip = inbox.take(sent(inbox, cut))
    assert clip.warning is not None
    assert clip.warning.startswith("'cut.avi'")
    assert str(inbox.folder) not in clip.warning


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        (Limits(seconds=1.5), "is 2 seconds long; at most 1.5 seconds are taken"),
        (Limits(seconds=0.1), "is more than 12 frames long"),
        (Limits(megabytes=0.001), r"MB; at most 0.001 MB are taken"),
    ],
)
def test_too_long_and_too_large(limits: Limits, told: str, video: Path) -> None:
    with pytest.raises(InputError, match=told):
        check_video(video, limits)


def test_too_wide(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MAX_SIDE_PX", 40)
    with pytest.raises(InputError, match="has frames of 48 x 40 pixels; at most 40 a side"):
        check_video(video, Limits())


def test_what_is_within_the_limits(video: Path) -> None:
    check_video(video, Limits(seconds=2, megabytes=video.stat().st_size / 1e6))
    with pytest.raises(InputError, match="limits must be positive"):
        Limits(seconds=0)


def test_samples(tmp_path: Path, video: Path) -> None:
    found = samples.generated(tmp_path / "samples")
    assert sorted(sample.name for sample in found) == sorted(SAMPLE_CLASSES)
    assert all(decode.decode(sample.path).data.shape[0] == 36 for sample in found)
    assert {sample.poster.size for sample in found} == {(samples.POSTER_PX, samples.POSTER_PX)}
    assert samples.are_of(SAMPLE_CLASSES)
    assert not samples.are_of(("a", "b"))
    shutil.copytree(video.parent, tmp_path / "own" / "class")
    (tmp_path / "own" / "notes.txt").write_text("no video")
    assert [sample.name for sample in samples.of_folder(tmp_path / "own")] == ["class/a"]
    for folder, told in ((tmp_path / "none", "is none"), (tmp_path / "empty", "no video in")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(DataError, match=told):
            samples.of_folder(folder)
