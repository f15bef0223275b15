"""Videos that do not decode, from the command line: used or named in skipped.csv, and too many of them end the run."""

import csv
import ctypes
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from atfr.cli.main import main
from atfr.evaluate.task import Task, save_checkpoint
from tests.cli.quick import QUICK
from tests.cli.test_main import error_of
from tests.evaluate.build import NAMES, SPEC, network, write_folder
from tests.processes import forked

pytestmark = pytest.mark.usefixtures("flat_stages")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two classes; one of 9 training videos and one of 5 test videos do not decode, another one is cut."""
    folder = write_folder(tmp_path / "data", classes=2, train=4, test=2)
    (folder / "train" / "a" / "bad, one.mp4").write_text("no video")
    (folder / "test" / "b" / "bad.mp4").write_text("no video")
    return folder


def skipped(out: Path) -> list[dict[str, str]]:
    with (out / "skipped.csv").open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def test_train_and_test_name_what_they_skip(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    train = ["train", "--data", str(data), "--out", str(out), *QUICK, "--epochs", "1", "--num_workers", "1"]
    assert main([*train, "--json"]) == 0
    printed, err = capsys.readouterr()
    assert json.loads(printed)["skipped"] == 2
    assert err.count("left out:") == 2
    rows = skipped(out)
    assert {Path(row["path"]).name for row in rows} == {"bad, one.mp4", "bad.mp4"}
    assert all(row["path"] in row["reason"] and "cannot be opened" in row["reason"] for row in rows)

    test = ["test", "--checkpoint", str(out), "--data", str(data), "--views", "1x1", "--num_workers", "1"]
    assert main([*test, "--out", str(tmp_path / "result"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_videos"] == 4
    assert [Path(row["path"]).name for row in skipped(tmp_path / "result")] == ["bad.mp4"]
    assert main([*test, "--max_skipped", "0.1"]) == 2
    assert "1 of 5 videos do not decode, more than 10 % (max_skipped)" in error_of(capsys)
    (data / "test" / "b" / "bad.mp4").unlink()
    assert main([*test, "--out", str(tmp_path / "result")]) == 0
    assert not (tmp_path / "result" / "skipped.csv").exists()  # that of the test before


def test_too_many_bad_videos_end_a_training(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    train = ["train", "--data", str(data), "--out", str(out), *QUICK, "--num_workers", "1", "--max_skipped", "0.1"]
    assert main(train) == 2
    assert "error: 1 of 9 videos do not decode, more than 10 %" in capsys.readouterr().err.splitlines()[-1]
    assert not out.exists()


def test_predict_takes_folders_with_names_in_any_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = write_folder(tmp_path / "data", classes=2, train=2, test=1), tmp_path / "run"
    save_checkpoint(network(classes=2), Task(NAMES[:2], SPEC), out)
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    first, second = sorted((data / "train" / "a").glob("*.mp4"))
    shutil.copy(first, folder / "x.mp4")
    shutil.copy(first, folder / "deep" / "Y.MP4")
    (folder / "notes.txt").write_text("no video")
    expected = [str(folder / "deep" / "Y.MP4"), str(folder / "x.mp4")]
    try:
        shutil.copy(first, os.fsencode(folder) + b"/\xff.mp4")
        expected.append(os.fsdecode(os.fsencode(folder) + b"/\xff.mp4"))
    except OSError:
        pass  # this file system takes UTF-8 names only
    capsys.readouterr()
    assert main(["predict", str(folder), str(second), "--checkpoint", str(out), "--json"]) == 0
    assert [one["path"] for one in json.loads(capsys.readouterr().out)] == [*expected, str(second)]
    assert main(["predict", *expected, "--checkpoint", str(out)]) == 0
    capsys.readouterr().out.encode()  # printable

    (tmp_path / "empty").mkdir()
    assert main(["predict", str(tmp_path / "empty"), "--checkpoint", str(out)]) == 2
    assert "there is no video in" in error_of(capsys)


def both(full: Path, lines: list[list[str]], said: Path) -> None:
    """Run two commands where disks are mounted for this process alone; exit with 3 where that does not go."""
    if ctypes.CDLL(None).unshare(0x20000):  # CLONE_NEWNS
        sys.exit(3)
    mounts = f"""mount --make-rprivate / && mount -t tmpfs -o size=1m tmpfs /dev/shm &&
        mount -t tmpfs -o size=8k tmpfs {full} || exit 3
        head -c 1M /dev/zero > {full}/fill 2> {os.devnull} || true"""
    if subprocess.run(["sh", "-c", mounts], stderr=subprocess.DEVNULL, check=False).returncode:
        sys.exit(3)
    with said.open("w") as sys.stderr:
        os.dup2(sys.stderr.fileno(), 2)
        for line in lines:
            print(main(line), "ended it", file=sys.stderr, flush=True)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a disk is mounted that is full; only for the process of `ends`."""
    return tmp_path_factory.mktemp("full")


@pytest.fixture(scope="module")
def ends(full: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What two trainings of one process say, with little shared memory and on a full disk; both are refused."""
    if os.geteuid() or sys.platform != "linux":
        pytest.skip("only root may mount, and only Linux mounts for one process")
    folder = tmp_path_factory.mktemp("small")
    train = ["train", "--data", str(write_folder(folder / "data", train=2, test=1)), *QUICK, "--epochs", "1"]
    large = ["--clip.frames", "8", "--clip.size", "112", "--clip.resize", "112", "--clip.jitter", "[112,112]"]
    lines = [
        [*train, *large, "--num_workers", "1", "--out", str(folder / "run")],
        [*train, "--out", str(full / "run")],
    ]
    process = forked(both, full, lines, folder / "said")
    process.join()
    if process.exitcode == 3:
        pytest.skip("no mounting here")
    err = (folder / "said").read_text()
    assert "Traceback" not in err
    *said, _ = err.split("2 ended it\n")
    assert len(said) == 2, err
    return said


def test_small_shared_memory_is_named(ends: list[str]) -> None:
    """As in a container, where it has 64 MB unless one asks for more."""
    last = ends[0].splitlines()[-1]
    assert last.startswith("atfr: error: shared memory is full: ")
    assert "/dev/shm (1 MB); make it larger" in last


def test_a_full_disk_ends_a_training_in_one_line(ends: list[str], full: Path) -> None:
    """As early as TensorBoard's log, which is written by a thread."""
    error = f"atfr: error: [Errno 28] No space left on device: '{full}/run"
    assert any(line.startswith(error) for line in ends[1].splitlines()), "a thread's warning may come after it"
    assert "in thread" not in ends[1]
