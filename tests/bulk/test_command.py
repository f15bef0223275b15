"""`atfr bulk` as it is run: Ray starts itself on loopback, the driver is ended, the same line goes on."""

import json
import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from atfr.bulk.cluster import cluster
from atfr.cli.main import main
from atfr.data.walk import videos_below
from atfr.evaluate.predict import predict
from atfr.evaluate.task import load_checkpoint
from tests.cli.test_main import ATFR
from tests.evaluate.build import write_folder

TIMEOUT_S = 300


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve videos, and two files that are none."""
    folder = write_folder(tmp_path_factory.mktemp("data"), classes=2, train=5, test=1)
    for name in ("torn", "empty"):
        (folder / f"{name}.mp4").write_bytes(b"no video" * (name == "torn"))
    return folder


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    """One Ray for all commands of this process that do not try how it starts."""
    with cluster():
        yield


def line(videos: Path, checkpoint: Path, out: Path) -> list[str]:
    """One network, and a file every other video."""
    at = ["bulk", str(videos), "--checkpoint", str(checkpoint), "--out", str(out), "--json"]
    return [*at, "--batch_size", "1", "--commit_rows", "2", "--decoders", "1", "--runners", "1"]


def start(videos: Path, checkpoint: Path, out: Path, mark: str) -> subprocess.Popen[str]:
    """Begin or go on, in a session of its own, with a mark by which all its processes are known."""
    return subprocess.Popen(
        [*ATFR, *line(videos, checkpoint, out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"ATFR_TEST": mark},
    )


def processes(mark: str) -> list[int]:
    """The processes of a run that are alive, by the mark in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            alive = (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
            if alive and f"ATFR_TEST={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:  # it has ended, or is somebody else's
            continue
    return found


def listening(pids: list[int]) -> set[str]:
    """The addresses on which processes take connections."""
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            target = os.readlink(link) if link.is_symlink() else ""
            inodes.add(target.removeprefix("socket:[").removesuffix("]"))
    found = set()
    for table, kind in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            if state == "0A" and line.split()[9] in inodes:
                words = bytes.fromhex(local.partition(":")[0])
                packed = b"".join(
                    struct.pack(">I", *struct.unpack("<I", words[i : i + 4])) for i in range(0, len(words), 4)
                )
                found.add(socket.inet_ntop(kind, packed).removeprefix("::ffff:"))
    return found


def parts(out: Path) -> list[Path]:
    return list(out.rglob("predictions/part-*.parquet"))


def wait_for(condition: object, process: subprocess.Popen[str]) -> None:
    start_s = time.monotonic()
    while not condition() and process.poll() is None and time.monotonic() < start_s + TIMEOUT_S:  # type: ignore[operator]
        time.sleep(0.05)


def left_after_a_while(mark: str) -> list[int]:
    """What is left of a run's processes; Ray's agents may try for a minute to tell a driver that was killed."""
    start_s = time.monotonic()
    while (left := processes(mark)) and time.monotonic() < start_s + TIMEOUT_S:
        time.sleep(0.5)
    return left


def test_an_interrupt_after_the_last_video_says_what_is_kept(
    videos: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextmanager
    def left(*_: object) -> Iterator[None]:
        yield
        raise KeyboardInterrupt

    monkeypatch.setattr("atfr.bulk.cluster.cluster", left)
    monkeypatch.setattr("atfr.bulk.run.run", lambda *_: None)
    assert main([*line(videos, checkpoint, tmp_path / "out"), "--device", "cpu"]) == 130
    assert capsys.readouterr().err.endswith("interrupted; what was done is kept; go on with the same line\n")


def test_an_interrupted_driver_loses_nothing_and_the_same_line_goes_on(
    videos: Path,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    """How a driver is killed: tests/bulk/test_kills.py."""
    out = tmp_path / "out"
    with start(videos, checkpoint, out, str(out)) as process:
        wait_for(lambda: parts(out), process)
        assert process.poll() is None, process.communicate()[1]
        addresses = listening(processes(str(out)))
        process.terminate()
        _, err = process.communicate(timeout=TIMEOUT_S)
    assert addresses == {"127.0.0.1"}
    assert process.returncode in (130, 2), err  # 2: it was done before it heard
    assert process.returncode == 2 or err.endswith("interrupted; what was done is kept; go on with the same line\n")
    first = {path: path.read_bytes() for path in parts(out)}

    capsys.readouterr()
    request.getfixturevalue("ray")
    assert main(line(videos, checkpoint, out)) == 2  # two are no videos
    found = json.loads(capsys.readouterr().out)
    assert found["were_there"] >= 2
    assert found["were_there"] + found["predicted"] == 12
    assert found["had_failed"] + found["failed"].get("video", 0) == 2
    assert first.items() <= {path: path.read_bytes() for path in parts(out)}.items()
    assert main(["bulk", "verify", str(out), str(videos), "--json"]) == 0
    (proof,) = json.loads(capsys.readouterr().out)
    assert (proof["videos"], proof["predicted"], proof["failed"]) == (14, 12, {"video": 2})
    as_predicted_alone(videos, checkpoint, Path(found["folder"]))
    assert main(["bulk", str(videos), "--checkpoint", str(checkpoint), "--out", str(out)]) == 2  # nothing is left
    assert "12 were there already; 2 could not be" in capsys.readouterr().out
    assert not left_after_a_while(str(out))


def as_predicted_alone(videos: Path, checkpoint: Path, folder: Path) -> None:
    """The rows are those of `atfr predict`, within rounding."""
    import pyarrow.dataset

    rows = {row["id"]: row for row in pyarrow.dataset.dataset(folder / "predictions").to_table().to_pylist()}
    model, task = load_checkpoint(checkpoint)
    good = [path for path in videos_below(videos) if path.stem not in ("torn", "empty")]
    for prediction in predict(model, good, task):
        row = rows.pop(str(prediction.path))
        for (label, probability), found in zip(prediction.top(), row["top"], strict=True):
            assert found["label"] == label
            assert found["probability"] == pytest.approx(probability, abs=1e-6)
        assert dict(row["active_bins"]) == {site: list(kept) for site, kept in prediction.active_bins.items()}
        assert row["gflops"] == pytest.approx(prediction.total_gflops)
    assert not rows


def test_what_predict_has_written_is_taken_over(
    videos: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines, out = tmp_path / "predictions.jsonl", tmp_path / "out"
    assert main(["predict", str(videos), "--checkpoint", str(checkpoint), "--out", str(lines)]) == 2
    (tmp_path / "list.csv").write_text(
        "path\n" + "".join(f"{path}\n" for path in videos_below(videos) if path.stem not in ("torn", "empty"))
    )
    command = ["bulk", str(tmp_path / "list.csv"), "--checkpoint", str(checkpoint), "--out", str(out)]
    assert main([*command, "--take_over", f"[{lines}]"]) == 0  # all is there: Ray is not started
    assert "12 rows taken over" in capsys.readouterr().err
    (folder,) = out.iterdir()
    as_predicted_alone(videos, checkpoint, folder)
    assert main([*command, "--take_over", str(lines)]) == 0
    assert "0 rows taken over" in capsys.readouterr().err
    assert main([*command, "--views", "2x1", "--take_over", f"[{lines}]"]) == 2
    assert "it cannot be taken over" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--tries", "1"], "--tries"),
        (["--decoders", "0"], "--decoders must be"),
        (["--bundle", "x"], "give one network"),
        (["--time_limit", "0"], "--time_limit must be"),
        (["--views", "1x2"], "--views is"),
    ],
)
def test_bad_options_are_refused_in_one_line(
    options: list[str], error: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["bulk", str(tmp_path), "--checkpoint", str(checkpoint), "--out", str(tmp_path / "out"), *options]
    assert main(command) == 2
    assert error in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("ray")
def test_a_test_on_ray_is_that_of_one_process(checkpoint: Path, tmp_path: Path) -> None:
    """The same figures of each video; what does not decode is left out by both; tried workers share the videos."""
    data = write_folder(tmp_path / "data", classes=2, train=1, test=4)
    (data / "test" / "a" / "torn.mp4").write_bytes(b"no video")
    command = ["test", "--checkpoint", str(checkpoint), "--data", str(data), "--views", "2x1", "--max_skipped", "0.5"]
    for engine in ("here", "ray"):
        assert main([*command, "--engine", engine, "--out", str(tmp_path / engine)]) == 0
    here, ray = (json.loads((tmp_path / engine / "result.json").read_text()) for engine in ("here", "ray"))
    assert len(here["videos"]) == 8
    for one, other in zip(here["videos"], ray["videos"], strict=True):
        for name in ("probability", "label_probability"):
            assert other.pop(name) == pytest.approx(one.pop(name), abs=1e-5)
        assert other == one
    assert ray["skipped"] == here["skipped"]
    assert ray["top1"] == here["top1"]
    assert main([*command, "--engine", "ray", "--crops", "random"]) == 2
