"""Two processes, each started by a torchrun agent of its own as on two machines, train as one process does."""

import json
import socket
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.evaluate.build import write_folder
from tests.train.killing import ATFR, NETWORK, TIMEOUT_S

TORCHRUN = [*ATFR[:1], "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--no-python"]
TRAINER = ["--trainer.accelerator", "cpu", "--trainer.devices", "1"]
PROCESSES = ["--trainer.num_nodes", "2", "--trainer.strategy", "ddp"]


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])


def test_two_processes_have_the_loss_curve_of_one(tmp_path: Path) -> None:
    """Batch norm is fixed, as its statistics would be those of each process; 9 and 3 videos do not divide by 2."""
    data = write_folder(tmp_path / "data", classes=3, train=3, test=1)
    options = [*NETWORK, "--data", str(data), "--epochs", "3", "--tuning.norm", "fixed", "--num_workers", "0"]
    options += ["--learning_rate", "0.02", "--reference_batch", "4", *TRAINER, "--json"]
    meet = ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    shared = [*ATFR, "train", *options, "--batch_size", "2", "--out", str(tmp_path / "two"), *PROCESSES]
    commands = [[*TORCHRUN, "--node-rank", str(rank), *meet, *shared] for rank in range(2)]
    commands.append([*ATFR, "train", *options, "--batch_size", "4", "--out", str(tmp_path / "one")])
    running = [subprocess.Popen(one, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for one in commands]
    ended = [process.communicate(timeout=TIMEOUT_S) for process in running]
    for process, (_, err) in zip(running, ended, strict=True):
        assert process.returncode == 0, err
        assert "atfr: warning" not in err
    assert ended[1][0] == ""  # one process writes
    two, one = (json.loads(ended[number][0])["history"] for number in (0, 2))
    assert len(one) == len(two) == 3
    assert one[0]["train/loss"] > 1.01 * one[2]["train/loss"]
    for left, right in zip(two, one, strict=True):
        assert left == pytest.approx(right, rel=1e-4)
    weights = load_file(tmp_path / "two" / "model.safetensors")
    for name, tensor in load_file(tmp_path / "one" / "model.safetensors").items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-5)
