"""`atfr data check` and `atfr data resize` through main(), on tiny data sets in their real layout."""

import csv
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from atfr.cli.main import main
from atfr.data.index import VideoIndex
from atfr.data.sets import UCF101
from tests.cli.quick import check_width
from tests.cli.test_main import ATFR, error_of
from tests.data.layouts import kinetics, ucf101
from tests.data.test_resize import files, one_by_one
from tests.evaluate.build import write_folder, write_level


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work is the same; that other processes do it is tested where it is written."""
    monkeypatch.setattr("atfr.data.check.each_in_processes", one_by_one)
    monkeypatch.setattr("atfr.data.resize.each_in_processes", one_by_one)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """UCF101 with one video missing, one broken, and one of 4 frames; the others have 8."""
    root = ucf101(tmp_path / "ucf101")
    videos = sorted((root / "UCF-101").rglob("*.avi"))
    for seed, (path, frames) in enumerate(zip(videos, (8, 4, 8, 8, 8, 8), strict=True)):
        write_level(path, 1, frames=frames, seed=seed)
    videos[0].write_bytes(b"no video")
    videos[-1].unlink()
    return root


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_check(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "problems.csv"
    command = ["data", "check", "ucf101", str(data), "--min_frames", "8", "--out", str(out)]
    assert main([*command, "--json"]) == 2  # one is broken
    report = json.loads(capsys.readouterr().out)
    assert {key: report[key] for key in ("listed", "found", "missing", "broken", "damaged", "short")} == {
        "listed": 6, "found": 5, "missing": 1, "broken": 1, "damaged": 0, "short": 1,
    }  # fmt: skip
    assert (report["classes"], report["classes_in_full"]) == (3, 101)
    assert report["index"] == str(data / ".atfr-index.jsonl")
    found = rows(out)
    assert [(row["name"].split("/")[1], row["problem"], row["split"]) for row in found] == [
        ("v_ApplyEyeMakeup_g08_c01.avi", "short", "1:train 2:test 3:train"),
        ("v_YoYo_g08_c01.avi", "missing", "1:train 2:test 3:train"),
        ("v_ApplyEyeMakeup_g01_c01.avi", "broken", "1:test 2:train 3:test"),
    ]
    assert [row["label"] for row in found] == ["ApplyEyeMakeup", "YoYo", "ApplyEyeMakeup"]
    assert [Path(row["path"]).is_file() for row in found] == [True, False, True]
    before = out.read_bytes()
    assert main(command) == 2
    printed, err = capsys.readouterr()
    check_width(printed)
    broken, short = err.splitlines()
    assert broken.startswith(f"atfr: warning: broken: {found[2]['path']}: ")
    assert short.startswith(f"atfr: warning: short: {found[0]['path']}: it has 4 frames, fewer than 8")
    assert broken.count(found[2]["path"]) == 1
    assert ["classes", "3", "of", "101"] in [line.split() for line in printed.splitlines()]
    assert out.read_bytes() == before


def test_a_list_of_ones_own_may_name_videos_that_are_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_level(tmp_path / "0.mp4", 1)
    write_level(tmp_path / "1.mp4", 2)
    listed = "path,label,split\n0.mp4,a,train\n1.mp4,b,train\ngone.mp4,a,test\nlost.mp4,b,test\n"
    Path("list.csv").write_text(listed)
    assert main(["data", "check", "own", "list.csv", "--min_frames", "2"]) == 0
    assert [(row["name"], row["problem"]) for row in rows(Path("list_problems.csv"))] == [
        ("gone.mp4", "missing"), ("lost.mp4", "missing"),
    ]  # fmt: skip
    assert ["missing", "2"] in [line.split() for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("taken", ["list.csv", "0.mp4"])
def test_problems_are_not_written_over_what_is_no_list_of_them(
    taken: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_level(tmp_path / "0.mp4", 1)
    (tmp_path / "list.csv").write_text("path,label,split\n0.mp4,a,train\n")
    before = (tmp_path / taken).read_bytes()
    assert main(["data", "check", "own", str(tmp_path / "list.csv"), "--out", str(tmp_path / taken)]) == 2
    assert "is there and is no list of problems" in error_of(capsys)
    assert (tmp_path / taken).read_bytes() == before


def test_odd_arguments_are_named_as_they_are_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "foo", str(tmp_path)]) == 2
    assert "atfr: error: NAME: Expected one of 'kinetics400'" in error_of(capsys)
    assert main(["data", "check", "own", str(tmp_path), "--min_frames", "-1"]) == 2
    assert "--min_frames must be an integer of at least 0, got -1" in error_of(capsys)


def test_copies_of_what_is_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Byte for byte, under whatever name; two copies in training are nobody's loss, nor is a link of one side."""
    root = write_folder(tmp_path / "data", train=3, test=2)
    trained, tested = root / "train" / "a" / "1.mp4", root / "test" / "b" / "1.mp4"
    shutil.copyfile(trained, tested)
    shutil.copyfile(trained, root / "train" / "a" / "2.mp4")
    assert (
        main(["data", "check", "own", str(root), "--out", str(tmp_path / "p.csv"), "--min_frames", "2", "--json"]) == 0
    )
    assert json.loads(capsys.readouterr().out)["leaked"] == 1
    (row,) = rows(tmp_path / "p.csv")
    assert (row["problem"], row["path"]) == ("leaked", str(tested))
    assert "same file as" in row["reason"]


def test_check_writes_where_one_is(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", "check", "kinetics600", str(kinetics(tmp_path / "k600"))]) == 2
    first = rows(tmp_path / "k600_problems.csv")
    assert {row["problem"] for row in first} == {"missing", "broken", "leaked"}  # empty files are all alike
    other = write_folder(tmp_path / "v1.5", classes=2, train=1, test=1)
    monkeypatch.chdir(other)
    assert main(["data", "check", "own", "."]) == 0
    assert {row["problem"] for row in rows(other / "v1.5_problems.csv")} == {"short"}
    videos = sorted(path.relative_to(other) for path in other.rglob("*.mp4"))
    lines = [f"{path},{path.parent.name},{path.parts[0]}" for path in videos]
    (other / "mine.csv").write_text("\n".join(["path,label,split", *lines]) + "\n")
    assert main(["data", "check", "own", "mine.csv"]) == 0
    assert len(rows(other / "mine_problems.csv")) == len(lines)


def test_missing_videos_are_no_error(data: Path, tmp_path: Path) -> None:
    write_level(data / "UCF-101" / "ApplyEyeMakeup" / "v_ApplyEyeMakeup_g01_c01.avi", 1, frames=8)
    out = tmp_path / "problems.csv"
    assert main(["data", "check", "ucf101", str(data), "--min_frames", "1", "--out", str(out)]) == 0
    assert [row["problem"] for row in rows(out)] == ["missing"]


def test_of_many_problems_five_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_folder(tmp_path / "own", classes=2, train=3, test=1)
    last = sorted((root / "train").rglob("*.mp4"))[-1]
    last.write_bytes(b"no video")
    out = tmp_path / "problems.csv"
    assert main(["data", "check", "own", str(root), "--out", str(out)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"atfr: warning: broken: {last}: ")  # the worst first
    assert [line.split(": ")[2] for line in lines[1:5]] == ["short"] * 4
    assert lines[5:] == [f"atfr: warning: 3 more are in {out}"]


def test_check_of_a_folder_and_of_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_folder(tmp_path / "own", classes=2, train=2, test=1)
    out = str(tmp_path / "problems.csv")
    assert main(["data", "check", "own", str(root), "--out", out, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["listed"], report["short"], report["classes_in_full"]) == (6, 6, None)
    assert {row["split"] for row in rows(Path(out))} == {"train", "test"}
    table = root / "list.csv"
    lines = [
        f"{path.relative_to(root)},{path.parent.name},{i % 2}" for i, path in enumerate(sorted(root.rglob("*.mp4")))
    ]
    table.write_text("\n".join(["path,label,fold", *lines]) + "\n")
    assert (
        main(["data", "check", "own", str(table), "--test_fold", "1", "--out", out, "--min_frames", "1", "--json"]) == 0
    )
    report = json.loads(capsys.readouterr().out)
    assert (report["listed"], report["short"]) == (6, 0)
    assert report["index"] == str(root / ".atfr-index.jsonl")


def test_names_in_any_bytes(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "own", classes=2, train=1, test=1)
    (root / "train" / "a" / "0.mp4").rename(root / "train" / "a" / os.fsdecode(b"\xff,\n.mp4"))
    out = tmp_path / "problems.csv"
    for _ in range(2):  # found, and taken from the index
        assert main(["data", "check", "own", str(root), "--out", str(out)]) == 0
        assert r"train/a/\xff," in {row["name"].splitlines()[0] for row in rows(out)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["check", "ucf102", "."], "ucf102"),
        (["check", "ucf101", "no/folder"], "'no/folder' does not exist"),
        (["check", "ssv2", "{data}"], "expected labels.json, train.json and validation.json"),
        (["check", "ucf101"], "root"),
        (["resize", "{data}", "{data}/small"], "must not lie in each other"),
        (["resize", "{data}"], "target"),
        (["chek"], "did you mean data check"),
    ],
)
def test_wrong_commands(data: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    before = files(data)
    assert main(["data", *(option.format(data=data) for option in options)]) == 2
    assert message in error_of(capsys)
    assert files(data) == before


def test_resize_then_the_data_set_is_there_again(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = tmp_path / "small"
    command = ["data", "resize", str(data), str(small), "--side", "24"]
    assert main(command) == 2  # one is broken
    printed, err = capsys.readouterr()
    check_width(printed)
    assert err.count("atfr: warning: left out: ") == 1
    resized, whole = UCF101.read(small, 1), UCF101.read(data, 1)
    assert [video.name for video in resized.videos] == [video.name for video in whole.videos]
    assert len(resized.missing) == len(whole.missing) + 1
    assert main([*command, "--json"]) == 2
    report = json.loads(capsys.readouterr().out)
    assert (report["written"], report["kept"], len(report["failed"])) == (0, 4, 1)


def test_ctrl_c_keeps_what_was_found(data: Path, tmp_path: Path) -> None:
    """A real process: after Ctrl-C it says one line, and the next check takes up what this one found."""
    for number in range(400):
        shutil.copy(data / "UCF-101" / "YoYo" / "v_YoYo_g01_c01.avi", data / "UCF-101" / f"v_{number}.avi")
    lines = "".join(f"YoYo/v_{number}.avi 3\n" for number in range(400))
    with (data / "ucfTrainTestlist" / "trainlist01.txt").open("a") as file:
        file.write(lines)
    index = data / ".atfr-index.jsonl"
    command = [*ATFR, "data", "check", "ucf101", str(data), "--out", str(tmp_path / "out.csv"), "--num_workers", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        while process.poll() is None and not (index.is_file() and index.read_text().count("\n") > 20):
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of its processes
        assert (process.wait(60), process.stderr.read()) == (130, "atfr: interrupted\n")
    assert not (tmp_path / "out.csv").exists()
    done = len(VideoIndex(data))
    assert 20 <= done < 400
    assert main(command[len(ATFR) :]) == 2  # done; one is broken
    assert index.read_text().count('"path"') == 405  # every video that is there once
