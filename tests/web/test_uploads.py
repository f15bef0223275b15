"""What users send: whose it is, read in a process of its own, refused where it is too much, and removed."""

from __future__ import annotations

import multiprocessing
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from atfr.data.samples import SAMPLE_CLASSES
from atfr.errors import DataError, InputError, VideoError
from atfr.video import decode
from atfr.viz import centred_clip
from atfr.web import limits as limits_module
from atfr.web import reading, samples
from atfr.web.limits import Limits, check_video
from atfr.web.uploads import FullError, Inbox
from tests.evaluate.build import SPEC, write_level
from tests.video.test_declared import TRAPS
from tests.video.video_files import write_video


@pytest.fixture(scope="module", autouse=True)
def _reading_prepared() -> None:
    """As the page begins: videos are read by forks of a process that has imported what they need."""
    reading.prepare()


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_level(tmp_path_factory.mktemp("videos") / "a.mp4", 3, frames=50)  # two seconds


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox(tmp_path / "sent", SPEC, Limits(seconds=60, megabytes=1))


def sent(inbox: Inbox, video: Path, session: str = "a") -> str:
    token = inbox.begin(session, video.stat().st_size)
    with video.open("rb") as content:
        inbox.fill(token, video.name, content)
    return token


def test_a_file_is_read_and_removed(inbox: Inbox, video: Path) -> None:
    clip = inbox.take(sent(inbox, video))
    wanted = centred_clip(video, SPEC)
    assert torch.equal(clip.clips, wanted.clips)
    assert (clip.path, clip.numbers, clip.video_frames) == (Path("a.mp4"), wanted.numbers, 50)
    assert not list(inbox.folder.iterdir())


def test_the_process_that_reads_imports_little() -> None:
    """It is there before the first answer, and its forks are held to so much memory."""
    code = "import sys, atfr.web.reading; assert not {'torchvision', 'matplotlib', 'lightning'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_same_file_of_two_users(inbox: Inbox, video: Path) -> None:
    """Each has a file of its own, which the other neither takes nor removes."""
    ours, theirs = sent(inbox, video, "a"), sent(inbox, video, "b")
    assert [inbox.is_from(*who) for who in (("a", ours), ("b", theirs), ("a", theirs), ("b", ours))] == [1, 1, 0, 0]
    assert torch.equal(inbox.take(ours).clips, inbox.take(theirs).clips)
    with pytest.raises(InputError, match="the file is not here any more; send it again"):
        inbox.take(ours)


def test_there_is_room_for_so_many(inbox: Inbox, video: Path) -> None:
    tokens = [inbox.begin("a", 1_000_000) for _ in range(10)]
    with pytest.raises(FullError, match="Too many videos are waiting"):
        inbox.begin("b", 1)
    inbox.forget(tokens[0])
    inbox.take(sent(inbox, video))


NO_VIDEOS = [
    (b"", "is empty"),
    (b"no video at all", "cannot be opened as one"),
    (TRAPS["sizes"], "declares 50000000 samples"),
]


@pytest.mark.parametrize(("content", "told"), NO_VIDEOS)
def test_what_is_no_video_is_refused_and_removed(content: bytes, told: str, inbox: Inbox, tmp_path: Path) -> None:
    (tmp_path / "b.mp4").write_bytes(content)
    token = sent(inbox, tmp_path / "b.mp4")
    with pytest.raises(VideoError, match=f"'b.mp4' {told}") as caught:
        inbox.take(token)
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


def test_decoding_is_limited_in_time_and_memory(tmp_path: Path) -> None:
    """A process that is at a limit ends, and the server goes on."""
    video = write_video(tmp_path / "wide.mp4", np.zeros((4, 1440, 2560, 3), np.uint8))  # 11 MB a frame
    told = {
        "takes more than 0 seconds to decode; send a shorter": {"seconds": 0},
        "Cannot allocate memory|takes too much memory to decode|makes the decoder fail": {"memory": 2**21},
    }
    for message, limit in told.items():
        with pytest.raises(VideoError, match=message):
            reading.read_apart(video, SPEC, Limits(), **limit)
        assert multiprocessing.active_children() == []
    assert reading.read_apart(video, SPEC, Limits()).video_frames == 4


def never(*_: object) -> None:
    time.sleep(3600)


def test_decoding_ends_with_the_server(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_answer", never)
    monkeypatch.setattr(reading, "ENDED", threading.Event())
    with ThreadPoolExecutor(1) as pool:
        reads = pool.submit(reading.read_apart, video, SPEC, Limits())
        while not multiprocessing.active_children():
            time.sleep(0.01)
        reading.end()
        with pytest.raises(VideoError, match="makes the decoder fail"):
            reads.result(60)
    with pytest.raises(VideoError, match="was not read, as the page has ended"):
        reading.read_apart(video, SPEC, Limits())
    assert multiprocessing.active_children() == []


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
    monkeypatch.setattr(limits_module, "MAX_SIDE_PX", 40)
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
