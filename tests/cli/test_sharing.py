"""`atfr test` in several processes: they share the videos, and one writes."""

import json
import os
import socket
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from atfr.cli.main import main
from tests.cli.test_main import ATFR
from tests.processes import forked


def shared(checkpoint: Path, data: Path, out: Path) -> list[str]:
    return ["test", "--checkpoint", str(checkpoint), "--data", str(data), "--views", "1x1", "--out", str(out), "--json"]


def check_shared(printed: str, out: Path) -> None:
    result = json.loads(printed)  # printed once
    assert result["timing"]["processes"] == 2
    assert result["num_videos"] == 4 == len({video["path"] for video in result["videos"]})
    assert json.loads((out / "result.json").read_text()) == result


def in_group(command: list[str], group: dict[str, str], printed: Path) -> None:
    """Run a command as one of several processes."""
    os.environ |= group
    with printed.open("w") as file, redirect_stdout(file):
        code = main(command)
    sys.exit(code)


def test_two_processes_share_the_videos_and_one_writes(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """This one and another, as torchrun would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "test"}
    command = shared(checkpoint, data, tmp_path / "out")
    printed = tmp_path / "other.txt"
    other = forked(in_group, command, group | {"RANK": "1", "LOCAL_RANK": "1"}, printed)
    for name, value in {**group, "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    try:
        assert main(command) == 0
        other.join(60)
    finally:
        other.kill()
    assert (other.exitcode, printed.read_text()) == (0, "")
    check_shared(capsys.readouterr().out, tmp_path / "out")


@pytest.mark.soak
def test_processes_of_torchrun_share_the_videos_and_one_writes(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    command += [*ATFR, *shared(checkpoint, data, tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    check_shared(done.stdout, tmp_path / "out")
