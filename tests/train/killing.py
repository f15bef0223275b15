"""Train as a user does, in a process that is killed at random moments, and go on until it is done."""

import io
import json
import random
import signal
import sys
import time
from contextlib import redirect_stdout
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from atfr.cli.main import main
from atfr.train.checkpoints import PREVIOUS, RESUME
from tests.processes import forked

ATFR = [sys.executable, "-m", "atfr.cli.main"]
NETWORK = [
    "--model",
    "resnet3d_18",
    "--clip.frames",
    "4",
    "--clip.size",
    "32",
    "--clip.resize",
    "32",
    "--clip.jitter",
    "[32,36]",
]
OPTIONS = [*NETWORK, "--batch_size", "4", "--num_workers", "0", "--warmup_epochs", "1", "--precise_bn", "2", "--resume"]
TIMEOUT_S = 300


def line(data: Path, out: Path, epochs: int) -> list[str]:
    return ["train", "--data", str(data), "--out", str(out), "--epochs", str(epochs), *OPTIONS, "--json"]


def start(data: Path, out: Path, epochs: int) -> BaseProcess:
    """Begin or go on with a training in another process; `--resume` does both."""
    return forked(main, line(data, out, epochs))


def here(data: Path, out: Path, epochs: int) -> dict[str, Any]:
    """Do so in this process, to the end, and return what is printed."""
    with redirect_stdout(io.StringIO()) as printed:
        assert main(line(data, out, epochs)) == 0
    return json.loads(printed.getvalue())


def kill(process: BaseProcess, out: Path, rng: random.Random, within_s: float) -> None:
    """Kill a training with SIGKILL at a random moment soon after it has finished an epoch."""

    def written_ns() -> int:
        path = out / "last.ckpt"
        return path.stat().st_mtime_ns if path.exists() else 0

    before, start_s = written_ns(), time.monotonic()
    while written_ns() == before and process.is_alive() and time.monotonic() < start_s + TIMEOUT_S:
        time.sleep(0.01)
    time.sleep(rng.uniform(0, within_s))
    assert process.is_alive(), "the training has ended"
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def epochs_done(out: Path) -> int:
    """Return how many epochs the state on disk has; between two moves there is no last one for a moment."""
    newest = next(path for name in (RESUME, PREVIOUS) if (path := out / name).exists())
    return torch.load(newest, weights_only=True)["epoch"] + 1


def train_through_kills(data: Path, folder: Path, kills: int, epochs: int) -> list[int]:
    """Compare a training that is killed so often with one that is not; return the epochs done at each kill.

    The last run must end with the same figures of each epoch and the same weights, bit for bit.
    """
    rng = random.Random(kills)
    whole, out = folder / "whole", folder / "killed"
    expected, done = here(data, whole, epochs), []
    for _ in range(kills):
        kill(start(data, out, epochs), out, rng, epochs / 60)  # no epoch takes less than a sixtieth of a second
        done.append(epochs_done(out))
    found = here(data, out, epochs)
    assert found["history"] == expected["history"]
    assert [row["epoch"] for row in found["history"]] == list(range(epochs))
    weights, others = load_file(whole / "model.safetensors"), load_file(out / "model.safetensors")
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor, others[name]), name
    return done
