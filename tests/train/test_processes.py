"""Two processes train as one does: joined as torchrun joins them, and in the long run by its agents, one for each."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from atfr.cli.main import main
from tests.evaluate.build import write_folder
from tests.processes import forked
from tests.train.killing import ATFR, NETWORK, TIMEOUT_S

TORCHRUN = [*ATFR[:1], "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--no-python"]
TRAINER = ["--trainer.accelerator", "cpu", "--trainer.devices", "1"]
PROCESSES = ["--trainer.num_nodes", "2", "--trainer.strategy", "ddp"]


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])


def forked_processes(lines: list[list[str]], folder: Path) -> list[tuple[str, str]]:
    """Run each in a process with what torchrun tells it; return what they print, on stdout and stderr."""
    port = str(free_port())
    running = [forked(in_group, line, rank, port, folder) for rank, line in enumerate(lines)]
    for process in running:
        process.join(TIMEOUT_S)
        process.kill()
    ended = [tuple((folder / f"{rank}.{name}").read_text() for name in ("out", "err")) for rank in range(len(lines))]
    for process, (_, err) in zip(running, ended, strict=True):
        assert process.exitcode == 0, err
    return ended


def in_group(line: list[str], rank: int, port: str, folder: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "test"}
    os.environ |= {"RANK": str(rank), "GROUP_RANK": str(rank), "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    out, err = (folder / f"{rank}.{name}" for name in ("out", "err"))
    with out.open("w") as printed, err.open("w") as said, redirect_stdout(printed), redirect_stderr(said):
        code = main(line)
    sys.exit(code)


def torchrun_processes(lines: list[list[str]], folder: Path) -> list[tuple[str, str]]:
    """Run each by a torchrun agent of its own, as on two machines."""
    meet = ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    commands = [[*TORCHRUN, "--node-rank", str(rank), *meet, *ATFR, *line] for rank, line in enumerate(lines)]
    running = [subprocess.Popen(one, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for one in commands]
    ended = [process.communicate(timeout=TIMEOUT_S) for process in running]
    for process, (_, err) in zip(running, ended, strict=True):
        assert process.returncode == 0, err
    return ended


@pytest.mark.parametrize(
    ("run", "layers"),
    [
        pytest.param(forked_processes, "few_layers", id="forked"),
        pytest.param(torchrun_processes, None, id="torchrun", marks=pytest.mark.soak),
    ],
)
def test_two_processes_have_the_loss_curve_of_one(
    run: Callable[[list[list[str]], Path], list[tuple[str, str]]],
    layers: str | None,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Batch norm is fixed, as its statistics would be those of each process; 9 and 3 videos do not divide by 2."""
    if layers is not None:
        request.getfixturevalue(layers)
    data = write_folder(tmp_path / "data", classes=3, train=3, test=1)
    options = [*NETWORK, "--data", str(data), "--epochs", "3", "--tuning.norm", "fixed", "--num_workers", "0"]
    options += ["--learning_rate", "0.05", "--reference_batch", "4", *TRAINER, "--json"]
    shared = ["train", *options, "--batch_size", "2", "--out", str(tmp_path / "two"), *PROCESSES]
    ended = run([shared, shared], tmp_path)
    assert not any("atfr: warning" in err for _, err in ended)
    assert ended[1][0] == ""  # one process writes
    assert main(["train", *options, "--batch_size", "4", "--out", str(tmp_path / "one")]) == 0
    printed, err = capsys.readouterr()
    assert "atfr: warning" not in err
    two, one = (json.loads(out)["history"] for out in (ended[0][0], printed))
    assert len(one) == len(two) == 3
    assert one[0]["train/loss"] > 1.01 * one[2]["train/loss"]
    for left, right in zip(two, one, strict=True):
        assert left == pytest.approx(right, rel=1e-4)
    weights = load_file(tmp_path / "two" / "model.safetensors")
    for name, tensor in load_file(tmp_path / "one" / "model.safetensors").items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-5)
