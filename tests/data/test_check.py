"""The index, the pool of processes and the check: what was found is kept, and a crash costs one video."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from atfr.data.check import Problem, check_videos, copies, look
from atfr.data.dataset import ClipDataset
from atfr.data.index import INDEX_FILE, VERSION, VideoFacts, VideoIndex, fingerprint, index_path, is_same
from atfr.data.pool import WorkerDiedError, each_in_processes
from atfr.data.records import VideoList, VideoRecord, read_folder
from atfr.video.decode import decode
from atfr.video.file import VideoFile
from atfr.video.spec import ClipSpec
from tests.data.pool_work import fail, square
from tests.video.video_files import ramp_video, write_audio, write_video

FACTS = VideoFacts(12, 0.48, 25.0)


def file(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# The index


def test_the_index_keeps_what_it_is_told(tmp_path: Path) -> None:
    first, second = file(tmp_path / "a" / "ü 1.mp4"), file(tmp_path / "2.mp4")
    damaged = VideoFacts(3, 0.1, 30.0, "damaged", "line\nbreak")
    with VideoIndex(tmp_path) as index:
        assert index.get(first) is None
        index.add(first, FACTS)
        index.add(second, FACTS)
        index.add(second, damaged)
        assert index.get(first) == FACTS
    assert index.path == tmp_path / INDEX_FILE
    again = VideoIndex(tmp_path)
    assert (again.get(first), again.get(second), len(again)) == (FACTS, damaged, 2)
    videos = VideoList(tuple(VideoRecord(path, 0) for path in (second, tmp_path / "new.mp4", first)), ("a", "b"))
    assert again.num_frames(videos) == [0, 0, 12]  # of a damaged video, decoding must not start in the middle
    assert VideoIndex(tmp_path / "a").num_frames(videos) == [0, 0, 0]


def test_the_index_moves_with_its_folder(tmp_path: Path) -> None:
    path = file(tmp_path / "here" / "a.mp4")
    with VideoIndex(tmp_path / "here") as index:
        index.add(path, FACTS)
    (tmp_path / "here").rename(tmp_path / "there")
    assert VideoIndex(tmp_path / "there").get(tmp_path / "there" / "a.mp4") == FACTS


def test_a_changed_file_is_not_known(tmp_path: Path) -> None:
    same_size, same_time, gone = (file(tmp_path / f"{name}.mp4") for name in ("size", "time", "gone"))
    with VideoIndex(tmp_path) as index:
        for path in (same_size, same_time, gone):
            index.add(path, FACTS)
    before = same_time.stat()
    file(same_time, "longer")
    os.utime(same_time, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.utime(same_size, ns=(0, 1))
    gone.unlink()
    again = VideoIndex(tmp_path)
    assert [again.get(path) for path in (same_size, same_time, gone)] == [None, None, None]


def test_an_index_that_a_crash_cut_off_goes_on(tmp_path: Path) -> None:
    first, second = file(tmp_path / "1.mp4"), file(tmp_path / "2.mp4")
    with VideoIndex(tmp_path) as index:
        index.add(first, FACTS)
        index.add(second, FACTS)
    whole = index.path.read_bytes()
    index.path.write_bytes(b'[1]\n{"path": 3}\n\xff\n' + whole[:-20])
    with VideoIndex(tmp_path) as again:
        assert (again.get(first), again.get(second)) == (FACTS, None)
        again.add(second, FACTS)
    assert VideoIndex(tmp_path).get(second) == FACTS


@pytest.mark.parametrize(
    "wrong", [{"frames": "12"}, {"frames": 10**30}, {"fps": None}, {"problem": "x"}, {"source": 1}, {"path": []}]
)
def test_an_index_of_others_may_hold_anything(tmp_path: Path, wrong: dict[str, object]) -> None:
    video = file(tmp_path / "1.mp4")
    with VideoIndex(tmp_path) as index:
        index.add(video, FACTS)
    entry = json.loads(index.path.read_text()) | wrong
    index.path.write_text(json.dumps(entry) + "\n")
    assert VideoIndex(tmp_path).get(video) is None


@pytest.mark.timeout(120)
def test_an_index_is_written_to_a_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the data lies a pipe that nobody reads; of who has no home, as in a container, temporary files are."""
    data, video = tmp_path / "data", file(tmp_path / "data" / "1.mp4")
    os.mkfifo(data / INDEX_FILE)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "temporary"))
    with VideoIndex(data) as index:
        index.add(video, FACTS)
    assert index.path.parent == tmp_path / "temporary" / "atfr"
    assert VideoIndex(data).get(video) == FACTS


def test_a_full_disk_is_told_with_the_name_of_the_index(tmp_path: Path) -> None:
    video = file(tmp_path / "1.mp4")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
        with pytest.raises(OSError, match=f"too large: '{tmp_path}/{INDEX_FILE}'"), VideoIndex(tmp_path) as index:
            index.add(video, FACTS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_an_index_beside_data_that_nobody_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # root may write anywhere
    path = file(tmp_path / "data" / "a.mp4")
    with VideoIndex(tmp_path / "data") as index:
        index.add(path, FACTS)
    assert index.path.parent == tmp_path / "cache" / "atfr"
    assert VideoIndex(tmp_path / "data").get(path) == FACTS
    assert index_path(tmp_path) != index.path
    assert sorted(child.name for child in (tmp_path / "data").iterdir()) == ["a.mp4"]


# The pool


def test_a_worker_that_dies_costs_its_item_alone() -> None:
    results = dict(each_in_processes(square, range(6), 2))
    assert isinstance(results.pop(3), WorkerDiedError)
    assert results == {number: number * number for number in (0, 1, 2, 4, 5)}


def test_an_exception_of_the_function_ends_it() -> None:
    with pytest.raises(ValueError, match="number 7"):
        list(each_in_processes(fail, [7], 1))


def test_workers_end_with_a_killed_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.data.pool_work", str(tmp_path)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2]) as process:
        wait_for(lambda: list(tmp_path.iterdir()))
        process.kill()
    (worker,) = tmp_path.iterdir()
    wait_for(lambda: not runs(int(worker.name)))


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.is_file() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_for(condition: Callable[[], object], at_most_s: float = 60) -> None:
    start_s = time.monotonic()
    while not condition():
        assert time.monotonic() - start_s < at_most_s
        time.sleep(0.02)


# The check


def test_look(tmp_path: Path) -> None:
    facts = look(write_video(tmp_path / "a.mp4", ramp_video(frames=13), fps=10))
    assert (facts.frames, facts.problem, facts.reason) == (13, None, "")
    assert facts.duration_s == pytest.approx(1.3)
    assert facts.fps == pytest.approx(10)


def test_lengths_are_those_that_clips_are_drawn_by(tmp_path: Path) -> None:
    """With the index, a training reads the same clips as without, also of a damaged video, but fewer frames."""
    whole = write_video(tmp_path / "whole.mp4", ramp_video(frames=60), gop_size=12)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * 0.8)])
    facts = [look(path) for path in (whole, cut)]
    assert [found.frames for found in facts] == [len(VideoFile(path)) for path in (whole, cut)]
    assert facts[1].problem == "damaged"
    assert facts[1].frames < 60
    videos = VideoList((VideoRecord(whole, 0), VideoRecord(cut, 1)), ("a", "b"))
    spec = ClipSpec(frames=4, stride=2, size=32, resize=32, jitter=(32, 36))
    with VideoIndex(tmp_path) as index:
        for path, found in zip((whole, cut), facts, strict=True):
            index.add(path, found)
        lengths = index.num_frames(videos)
    told = ClipDataset(videos, spec, train=True, cache_bytes=0, num_frames=lengths)
    untold = ClipDataset(videos, spec, train=True, cache_bytes=0)
    for epoch in range(4):
        told.set_epoch(epoch)
        untold.set_epoch(epoch)
        for number in range(2):
            assert torch.equal(told[number][0], untold[number][0])


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path], list[Problem]]:
    """A folder with every kind of video, and what the check says of it."""
    root = tmp_path_factory.mktemp("data")
    good = write_video(root / "good.mp4", ramp_video(frames=40))
    short = write_video(root / "short.mp4", ramp_video(frames=5))
    cut = root / "cut.mp4"
    cut.write_bytes(good.read_bytes()[: int(good.stat().st_size * 0.7)])
    paths = [good, file(root / "broken.mp4", "no video"), short, cut, write_audio(root / "sound.wav"), good]
    done: list[tuple[int, int]] = []
    problems = check_videos(paths, root, min_frames=8, num_workers=2, progress=lambda *now: done.append(now))
    assert done == [(number, 5) for number in range(6)]  # the good one is listed twice and decoded once
    return root, paths, problems


def test_check_names_what_is_wrong(checked: tuple[Path, list[Path], list[Problem]]) -> None:
    root, _, problems = checked
    assert [(one.path.name, one.problem) for one in problems] == [
        ("broken.mp4", "broken"),
        ("short.mp4", "short"),
        ("cut.mp4", "damaged"),
        ("sound.wav", "broken"),
    ]
    assert "has 5 frames, fewer than 8" in problems[1].reason
    assert problems[2].reason == decode(root / "cut.mp4").warning
    assert all(str(one.path) in one.reason for one in problems)


@pytest.mark.timeout(120)
def test_what_is_no_file_is_named_and_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pipes are of one size, and a link leads nowhere: found below a class, said, and never opened."""
    monkeypatch.setattr(
        "atfr.data.check.each_in_processes", lambda look, paths, _: ((path, look(path)) for path in paths)
    )
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_video(tmp_path / name / "0.mp4", ramp_video(frames=5))
        os.mkfifo(tmp_path / name / "pipe.mp4")
        (tmp_path / name / "gone.mp4").symlink_to("nothing")
    paths = [record.path for videos in read_folder(tmp_path).values() for record in videos.records]
    problems = check_videos(paths, tmp_path, min_frames=1, num_workers=1)
    told = sorted((one.path.name, one.problem, "pipe or a device" in one.reason) for one in problems)
    assert told == 2 * [("gone.mp4", "broken", False)] + 2 * [("pipe.mp4", "broken", True)]
    assert copies(paths) == [[tmp_path / "a" / "0.mp4", tmp_path / "b" / "0.mp4"]]


def test_a_second_check_decodes_what_has_changed_alone(
    checked: tuple[Path, list[Path], list[Problem]], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, paths, problems = checked
    asked: list[Path] = []

    def no_processes(function: object, items: list[Path], num_workers: int) -> list[tuple[Path, VideoFacts]]:
        asked.extend(items)
        return [(item, FACTS) for item in items]

    monkeypatch.setattr("atfr.data.check.each_in_processes", no_processes)
    assert check_videos(paths, root, min_frames=8, num_workers=2) == problems
    assert asked == []
    longer = check_videos(paths, root, min_frames=41, num_workers=2)  # another question, the same answers
    assert {one.path.name for one in longer if one.problem == "short"} == {"good.mp4", "short.mp4"}
    write_video(root / "short.mp4", ramp_video(frames=9))
    check_videos(paths, root, min_frames=8, num_workers=2)
    assert asked == [root / "short.mp4"]


def test_what_was_found_before_an_interruption_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [file(tmp_path / f"{number}.mp4") for number in range(4)]

    def interrupted(function: object, items: list[Path], num_workers: int) -> Iterator[tuple[Path, VideoFacts]]:
        for item in items[:2]:
            yield item, FACTS
        raise KeyboardInterrupt

    monkeypatch.setattr("atfr.data.check.each_in_processes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        check_videos(paths, tmp_path, min_frames=1, num_workers=1)
    known = VideoIndex(tmp_path)
    assert [known.get(path) for path in paths] == [FACTS, FACTS, None, None]


def test_a_large_index_is_read_in_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set as large as Kinetics must not delay a start: no video is looked at before it is asked for."""
    entry = {
        "version": VERSION,
        "size": 1,
        "mtime_ns": 2,
        "frames": 300,
        "duration_s": 10.0,
        "fps": 30.0,
        "problem": None,
        "reason": "",
    }
    with (tmp_path / INDEX_FILE).open("w") as out:
        out.writelines(
            json.dumps({"path": f"train/class/{i:011d}_000001_000011.mp4"} | entry) + "\n" for i in range(30_000)
        )
    looked_at: list[str] = []
    monkeypatch.setattr(Path, "stat", lambda path, **_: looked_at.append(str(path)) or os.stat(path))
    assert len(VideoIndex(tmp_path)) == 30_000
    assert set(looked_at) == {str(tmp_path / INDEX_FILE)}


def test_an_index_that_is_a_link_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who makes a data set names its files, and must not write those names into a file of the user's."""
    clip = write_video(tmp_path / "v.mp4", ramp_video())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    mine = tmp_path / "mine"
    mine.write_text("mine\n")
    data = tmp_path / "data"
    data.mkdir()
    (data / INDEX_FILE).symlink_to(mine)
    with VideoIndex(data) as index:
        index.add(clip, VideoFacts(12))
        assert index.path.parent == tmp_path / "cache" / "atfr"
    (data / INDEX_FILE).unlink()
    with VideoIndex(data) as index:
        (data / INDEX_FILE).symlink_to(mine)  # only now
        with pytest.raises(OSError, match="symbolic links"):
            index.add(clip, VideoFacts(12))
    assert mine.read_text() == "mine\n"


def test_a_fingerprint_tells_a_file_from_what_it_was(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(b"one")
    found, then = fingerprint(path), path.stat()
    assert is_same(path, found)
    assert is_same(path, found, by_content=True)
    os.utime(path, ns=(0, 0))
    assert is_same(path, found)  # another time, the same content
    path.write_bytes(b"two")
    assert not is_same(path, found)
    os.utime(path, ns=(then.st_atime_ns, then.st_mtime_ns))
    assert is_same(path, found)
    assert not is_same(path, found, by_content=True)
    path.write_bytes(b"three")
    assert not is_same(path, found)
    assert not is_same(path, "")
