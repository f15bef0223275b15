"""A training that is stopped, by a signal or because it is done, says in one line what to do, and goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from atfr.cli.main import main
from atfr.files import locked
from atfr.train.module import ClassificationModule
from tests.cli.quick import QUICK
from tests.evaluate.build import write_folder
from tests.processes import told

pytestmark = pytest.mark.usefixtures("flat_stages")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data"), classes=2, train=4, test=1)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("first", [pytest.param("all at once", marks=pytest.mark.soak), "workers first"])
def test_sigterm_ends_a_training_as_ctrl_c_does(data: Path, tmp_path: Path, first: str) -> None:
    """`timeout` and schedulers send it to all processes, in any order."""
    out = tmp_path / "out"
    command = ["train", "--data", str(data), "--out", str(out), *QUICK, "--epochs", "5000", "--num_workers", "1"]
    process = told(command, tmp_path)
    try:
        start_s = time.monotonic()
        while not (out / "last.ckpt").exists() and process.is_alive() and time.monotonic() < start_s + 180:
            time.sleep(0.02)
        if first == "workers first":
            if not Path(f"/proc/{process.pid}/task/{process.pid}/children").exists():
                pytest.skip("which processes are workers is read in /proc")
            for child in children(process.pid):
                os.kill(child, signal.SIGTERM)
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGTERM)
        process.join(60)
    finally:
        if process.is_alive():
            os.killpg(process.pid, signal.SIGKILL)
    printed, err = ((tmp_path / name).read_text() for name in ("stdout", "stderr"))
    assert (process.exitcode, printed) == (130, ""), err
    *notes, last = err.splitlines()
    assert last == "atfr: interrupted; go on with --resume"
    assert all(line.startswith("atfr: training") for line in notes), err
    assert {path.name for path in out.iterdir()} <= {"last.ckpt", "previous.ckpt", "logs"}


def test_sigterm_before_the_first_epoch_leaves_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder, a log in it and whatever else is there by the first step."""
    out = tmp_path / "out"

    def terminated(*_: object) -> None:
        assert list(out.iterdir())
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(ClassificationModule, "training_step", terminated)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert main(["train", "--data", str(data), "--out", str(out), *QUICK]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "atfr: interrupted"
    assert not out.exists()


def test_a_signal_just_when_the_folder_is_made_leaves_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It came between two lines there, once in some hundred runs."""
    out = tmp_path / "out"
    unlink = Path.unlink

    def interrupted(path: Path) -> None:
        monkeypatch.setattr(Path, "unlink", unlink)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Path, "unlink", interrupted)
    assert main(["train", "--data", str(data), "--out", str(out), *QUICK]) == 130
    assert not out.exists()


@pytest.mark.timeout(120)
def test_a_folder_takes_one_training_at_a_time(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with locked(tmp_path):
        assert main(["train", "--data", str(data), "--out", str(tmp_path), *QUICK, "--resume"]) == 2
    assert f"another training writes to --out '{tmp_path}': wait for it" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


HOLDS = """import os, sys, time
from pathlib import Path
from atfr.files import locked
with locked(Path(sys.argv[1])):
    if os.fork() == 0:
        print("held", flush=True)  # by the worker: it has begun
        time.sleep(60)  # and does not hear of the end
        os._exit(0)
    time.sleep(60)
"""


@pytest.mark.timeout(120)
def test_a_lock_ends_with_its_process_whatever_workers_do(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDS, tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            with pytest.raises(BlockingIOError), locked(tmp_path):
                pass
            process.kill()
            process.wait()
            with locked(tmp_path):
                pass
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_the_number_of_epochs_may_grow_but_not_shrink(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    train = ["train", "--data", str(data), "--out", str(tmp_path), *QUICK, "--json", "--resume", "--epochs"]
    assert main([*train, "2"]) == 0
    capsys.readouterr()
    assert main([*train, "1"]) == 2
    assert "has 2 epochs behind it, and epochs=1 (--epochs 1) is fewer" in capsys.readouterr().err.splitlines()[-1]
    for epochs, says in (("2", "all 2 epochs are done already"), ("3", "going on after 2 of 3 epochs")):
        assert main([*train, epochs]) == 0
        printed, err = capsys.readouterr()
        assert err.splitlines()[-1] == f"atfr: {says}"
        assert [row["epoch"] for row in json.loads(printed)["history"]] == list(range(int(epochs)))
    assert signal.getsignal(signal.SIGTERM) is before
