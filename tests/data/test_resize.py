"""resize_videos: the same videos smaller, each whole or not at all, whatever happens; the source is left alone."""

import functools
import logging
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atfr.data.index import VideoIndex
from atfr.data.resize import KEY_FRAMES, Resized, _Job, _settled, resize_video, resize_videos
from atfr.errors import DataError, InputError
from atfr.files import csv_text
from atfr.video.container import open_video
from atfr.video.decode import decode
from tests.processes import forked
from tests.video.video_files import ramp_video, set_display_matrix, write_video


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def one_by_one(function: Callable[[Any], Any], items: list[Any], num_workers: int) -> Iterator[tuple[Any, Any]]:
    """What `each_in_processes` does, in this one."""
    return ((item, function(item)) for item in items)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atfr.data.resize.each_in_processes", one_by_one)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    for folder in ("a", "b [1]"):
        (root / folder).mkdir(parents=True)
    write_video(root / "a" / "large.avi", ramp_video(frames=20, height=96, width=130), fps=12)
    write_video(root / "b [1]" / "small.mp4", ramp_video(frames=6, height=32, width=40))
    (root / "b [1]" / "bad.mp4").write_bytes(b"no video")
    (root / "lists.txt").write_text("1 a\n")
    (root / ".hidden").write_text("mine")
    return root


def test_resize(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, target, done = files(source), tmp_path / "target", []
    result = resize_videos(source, target, side=48, num_workers=1, progress=lambda *now: done.append(now))
    assert (result.written, result.copied, result.kept) == (1, 1, 0)
    ((failed, reason),) = result.failed
    assert failed == source / "b [1]" / "bad.mp4"
    assert str(failed) in reason
    assert done == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert files(source) == before
    written = files(target)
    assert set(written) == {"a/large.mp4", "b [1]/small.mp4", "lists.txt", ".atfr-index.jsonl", ".atfr-resize.json"}
    assert written["b [1]/small.mp4"] == before["b [1]/small.mp4"]
    assert written["lists.txt"] == before["lists.txt"]
    with VideoIndex(target) as index:
        facts = [index.get(target / "a" / "large.mp4"), index.get(target / "b [1]" / "small.mp4")]
    assert [known and known.frames for known in facts] == [20, 6]

    monkeypatch.setattr("atfr.data.resize.each_in_processes", one_by_one)
    again = resize_videos(source, target, side=48, num_workers=1)
    assert again == Resized(0, 0, 2, result.failed)
    assert files(target) == written


def test_the_pictures_and_times_are_those_of_the_source(source: Path, tmp_path: Path) -> None:
    """Against `decode` of the source at the same side: a level or two of H.264's loss, and not a frame elsewhere."""
    path = source / "a" / "large.avi"
    assert resize_video(_Job(path, tmp_path / "large.avi", 48, False)).outcome == "written"
    ours, theirs = decode(tmp_path / "large.mp4"), decode(path, shorter_side=48)
    assert ours.data.shape == (20, 3, 48, 64)  # 65 px are odd: the last column goes
    difference = np.abs(ours.data.numpy().astype(int) - theirs.data[..., :64].numpy().astype(int))
    assert difference.mean() < 2
    np.testing.assert_allclose(ours.pts_s, theirs.pts_s - theirs.pts_s[0], atol=1e-4)
    with open_video(tmp_path / "large.mp4", 1) as (container, stream):
        packets = sorted((packet for packet in container.demux(stream) if packet.size), key=lambda packet: packet.pts)
    keys = [number for number, packet in enumerate(packets) if packet.is_keyframe]
    assert keys[0] == 0
    assert 1 < max(np.diff([*keys, 20])) <= KEY_FRAMES


@pytest.mark.parametrize("matrix", [(0, 1, -1, 0), (0, -1, 1, 0), (-1, 0, 0, -1), (-1, 0, 0, 1)])
def test_rotated_videos_stand_upright(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    path = write_video(tmp_path / "in.mp4", ramp_video(frames=4, height=64, width=96))
    set_display_matrix(path, *matrix)
    assert resize_video(_Job(path, tmp_path / "out.mp4", 32, False)).outcome == "written"
    ours, theirs = decode(tmp_path / "out.mp4"), decode(path, shorter_side=32)
    assert ours.data.shape == theirs.data.shape
    assert np.abs(ours.data.numpy().astype(int) - theirs.data.numpy().astype(int)).mean() < 3


def test_uneven_times_are_kept(tmp_path: Path) -> None:
    ticks = [0, 1, 5, 6, 20, 21]
    path = write_video(tmp_path / "in.mp4", ramp_video(frames=6, height=64, width=64), pts=ticks, fps=25)
    resize_video(_Job(path, tmp_path / "out.mp4", 32, False))
    np.testing.assert_allclose(decode(tmp_path / "out.mp4").pts_s, np.array(ticks) / 25, atol=1e-4)


def test_a_source_is_removed_when_asked_and_only_when_safe(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atfr.data.resize.each_in_processes", one_by_one)
    target = tmp_path / "target"
    resize_videos(source, target, side=48, num_workers=1)
    result = resize_videos(source, target, side=48, num_workers=1, remove_source=True)  # after a crash before removal
    assert (result.kept, len(result.failed)) == (2, 1)
    assert set(files(source)) == {"b [1]/bad.mp4", "lists.txt", ".hidden"}


def test_an_encoder_that_loses_a_frame_is_noticed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "atfr.data.resize._with_times",
        lambda numbered, path, *_: write_video(path.with_suffix(".mp4"), ramp_video(frames=19)).rename(path),
    )
    done = resize_video(_Job(source / "a" / "large.avi", tmp_path / "out" / "large.avi", 48, True))
    assert done.outcome == "failed"
    assert "was written with 20 frames, but 19 decode again" in done.reason
    assert list((tmp_path / "out").iterdir()) == []
    assert (source / "a" / "large.avi").is_file()


def test_a_full_disk_leaves_nothing_half_written(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, side: int, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("atfr.data.resize._encode", full)
    with pytest.raises(OSError, match="No space left"):
        resize_video(_Job(source / "a" / "large.avi", tmp_path / "out" / "large.avi", 48, True))
    assert list((tmp_path / "out").iterdir()) == []
    assert (source / "a" / "large.avi").is_file()


def test_a_source_that_was_replaced_is_done_again_and_never_removed_for_its_old_copy(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atfr.data.resize.each_in_processes", one_by_one)
    target, video = tmp_path / "target", source / "a" / "large.avi"
    resize_videos(source, target, side=48, num_workers=1)
    before = video.stat()
    new = write_video(tmp_path / "new.avi", ramp_video(frames=9, height=96, width=130), fps=12)
    content = new.read_bytes().ljust(before.st_size, b"\0")[: max(before.st_size, new.stat().st_size)]
    video.write_bytes(content)
    os.utime(video, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (video.stat().st_size, video.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)  # by content only
    result = resize_videos(source, target, side=48, num_workers=1, remove_source=True)
    assert (result.written, result.kept) == (1, 1)
    assert len(decode(target / "a" / "large.mp4")) == 9
    small = source / "b [1]" / "small.mp4"
    write_video(small, ramp_video(frames=5, height=64, width=80))  # is too large now, and gets another name
    result = resize_videos(source, target, side=48, num_workers=1)
    assert result.written == 1
    assert len(decode(target / "b [1]" / "small.mp4")) == 5


@pytest.mark.usefixtures("in_this_process")
def test_a_list_of_the_videos_names_their_copies(source: Path, tmp_path: Path) -> None:
    """Relative to the list, relative to the folder of the data, and absolute."""
    rows = [
        ["path", "label"],
        ["a/large.avi", "x"],
        [str(source / "a" / "large.avi"), "y, z"],
        ["b [1]/small.mp4", "w"],
    ]
    text = csv_text(rows[0], rows[1:])
    (source / "mine.csv").write_text(text)
    (source / "a" / "lists.csv").write_text("path,label\nlarge.avi,x\na/large.avi,x\n")
    (source / "other.csv").write_text("1;2\n")
    target = tmp_path / "target"
    for _ in range(2):
        resize_videos(source, target, side=48, num_workers=1)
        copied = ["a/large.mp4,x", f'{target}/a/large.mp4,"y, z"', "b [1]/small.mp4,w"]
        assert (target / "mine.csv").read_text().splitlines()[1:] == copied
        assert (target / "a" / "lists.csv").read_text() == "path,label\nlarge.mp4,x\na/large.mp4,x\n"
        assert (target / "other.csv").read_text() == "1;2\n"
    assert (source / "mine.csv").read_text() == text


@pytest.mark.usefixtures("in_this_process")
def test_a_list_names_copies_whose_sources_are_gone(source: Path, tmp_path: Path) -> None:
    """As a call leaves them that was interrupted after it removed some."""
    target = tmp_path / "target"
    resize_videos(source, target, side=48, num_workers=1, remove_source=True)
    write_video(source / "a" / "later.avi", ramp_video(frames=9, height=96, width=130))
    (source / "mine.csv").write_text("path,label\na/large.avi,x\na/later.avi,y\n../outside.avi,z\n")
    resize_videos(source, target, side=48, num_workers=1)
    assert (target / "mine.csv").read_text() == "path,label\na/large.mp4,x\na/later.mp4,y\n../outside.avi,z\n"


@pytest.mark.usefixtures("in_this_process")
def test_one_process_at_a_time_works_on_a_target(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    resize_videos(source, target, side=48, num_workers=1)
    with _settled(target, 48), pytest.raises(DataError, match="another process"):
        resize_videos(source, target, side=48, num_workers=1)


@pytest.mark.usefixtures("in_this_process")
def test_kill_9_at_any_moment_loses_nothing(tmp_path: Path) -> None:
    """Killed while it removes its sources: every video is whole on one side at least; a second run ends the work."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    first = write_video(source / "00.mp4", ramp_video(frames=30, height=240, width=320))
    for number in range(1, 40):
        shutil.copy(first, source / f"{number:02d}.mp4")
    names = {path.stem for path in source.iterdir()}
    run = functools.partial(resize_videos, source, target, side=64, num_workers=1, remove_source=True)
    process = forked(run)
    while process.is_alive() and len(list(target.glob("*.mp4"))) < 3:
        time.sleep(0.005)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL  # and not done yet
    left, written = {path.stem for path in source.iterdir()}, {path.stem for path in target.glob("*.mp4")}
    assert left | written == names
    assert left
    for path in target.glob("*.mp4"):
        assert (len(decode(path)), decode(path).warning) == (30, None)
    run()
    assert {path.stem for path in target.glob("*.mp4")} == names
    assert list(source.iterdir()) == list(target.glob(".*.part")) == []


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("source", "must not lie in each other"),
        ("source/smaller", "must not lie in each other"),
        ("", "must not lie in each other"),
        ("full", "is not empty"),
        ("file", "'{}/file' is a file"),
        ("other", "holds videos of other settings"),
    ],
)
def test_wrong_targets(source: Path, tmp_path: Path, target: str, message: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".atfr-resize.json").write_text('{"side": 256}\n')
    before = files(tmp_path)
    with pytest.raises(DataError, match=message.format(tmp_path)):
        resize_videos(source, tmp_path / target, side=48, num_workers=1)
    assert files(tmp_path) == before


def test_links_are_followed_and_no_video_is_done_twice(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atfr.data.resize.each_in_processes", one_by_one)
    (source / "a").rename(tmp_path / "big disk")
    (source / "a").symlink_to(tmp_path / "big disk")
    (source / "a link.avi").symlink_to(tmp_path / "big disk" / "large.avi")
    (source / "round").symlink_to(source)
    resize_videos(source, tmp_path / "target", side=48, num_workers=1)
    assert sorted(path.name for path in (tmp_path / "target").rglob("*.mp4")) == ["large.mp4", "small.mp4"]


@pytest.mark.timeout(120)
def test_what_may_never_end_is_named_or_passed_over(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Pipes, devices and links to nothing: as videos, and among the other files, which are copied."""
    monkeypatch.setattr("atfr.data.resize.each_in_processes", one_by_one)
    for name in ("pipe.mp4", "pipe.txt"):
        os.mkfifo(source / "a" / name)
    for name, place in (("zero.mp4", "/dev/zero"), ("gone.mp4", "no"), ("full.txt", "/dev/full"), ("gone.txt", "not")):
        (source / "a" / name).symlink_to(place)
    with caplog.at_level(logging.INFO, logger="atfr"):
        result = resize_videos(source, tmp_path / "target", side=48, num_workers=1)
    failed = {path.name: reason for path, reason in result.failed}
    assert set(failed) == {"bad.mp4", "pipe.mp4", "zero.mp4", "gone.mp4"}
    assert "is a pipe or a device" in failed["pipe.mp4"]
    assert "is a pipe or a device" in failed["zero.mp4"]
    assert "there is no video file" in failed["gone.mp4"]
    (record,) = caplog.records
    assert "3 pipes, devices and links that lead nowhere are passed over" in record.getMessage()
    assert {path.name for path in (tmp_path / "target" / "a").iterdir()} == {"large.mp4"}


def test_wrong_sources(source: Path, tmp_path: Path) -> None:
    def error(source: Path, side: int = 48) -> str:
        with pytest.raises((DataError, InputError)) as caught:
            resize_videos(source, tmp_path / "target", side=side, num_workers=1)
        assert not (tmp_path / "target").exists()
        return str(caught.value)

    assert "does not exist" in error(tmp_path / "no")
    assert "is a file" in error(source / "lists.txt")
    assert "side must be at least 2" in error(source, side=1)
    (tmp_path / "empty").mkdir()
    assert "no video below" in error(tmp_path / "empty")
    (source / "a" / "large.webm").touch()
    assert "would both become large.mp4" in error(source)
