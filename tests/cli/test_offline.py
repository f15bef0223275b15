"""No command asks the network for anything on its own; `weights` does what it is told to."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch

from atfr.cli.main import COMMANDS
from atfr.evaluate.task import Task, save_checkpoint
from atfr.runtime.description import Runtime
from tests.evaluate.build import NAMES, SPEC, network, write_folder
from tests.models.narrow import flat

# the page's own test watches it, that of bulk the ports of its processes, which Ray's own are; quickstart and compare
# train, test and report; weights is there to ask
ELSEWHERE = {"bulk", "bulk verify", "compare", "demo", "quickstart", "weights"}
LISTEN = """
import gc, json, sys
gc.disable()  # most of what is made here are modules, which stay
asked = []
def hear(event, args):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "urllib.Request"):
        asked.append([event, str(args[0])])
    elif event in ("socket.connect", "socket.sendto") and isinstance(args[1], tuple) and args[1][0] != "127.0.0.1":
        asked.append([event, str(args[1])])
sys.addaudithook(hear)
from atfr.cli.main import main
from atfr.data import check, resize
from atfr.measure import machine
from atfr.viz.explain import ROUNDS
from tests.data.test_resize import one_by_one
from tests.models.narrow import flat
check.each_in_processes = resize.each_in_processes = one_by_one  # here, where it is heard
machine.PRODUCT, machine.COPIED = {"cpu": 128}, {"cpu": 2**16}
ROUNDS |= {"rounds": 1, "at_least": 1}
codes = {}
with flat():  # doctor exports networks, which takes its time for each layer
    for line in json.loads(sys.argv[1]):
        codes[" ".join(line)] = main(line)
        sys.stdout.flush()
print(json.dumps({"asked": asked, "codes": codes}), file=sys.stderr)
"""


ROOT = Path(__file__).parents[2]


def lines(folder: Path) -> list[list[str]]:
    """A small job for every command."""
    run, data = str(folder / "run"), str(folder / "data")
    video = str(next((folder / "data" / "test").rglob("*.mp4")))
    clip = ["--clip.frames", "4", "--clip.stride", "1", "--clip.size", "32"]
    bundle = str(folder / "bundle")
    one = ["--num_workers", "1"]
    trained = ["--epochs", "1", "--batch_size", "4", "--num_workers", "0", "--out", str(folder / "trained")]
    return [
        ["train", "--data", data, "--model", "resnet3d_18", *clip, *trained],
        ["calibrate", run, video],
        ["test", "--checkpoint", run, "--data", data, "--num_workers", "0", "--out", str(folder / "test")],
        ["predict", video, "--checkpoint", run],
        ["explain", video, "--checkpoint", run, "-o", str(folder / "explained.html")],
        ["report", str(folder / "test"), "-o", str(folder / "report.html")],
        ["export", run, bundle, "--runtime", "torch"],
        ["predict", video, "--bundle", bundle],
        ["cost", run],
        ["reproduce", "A.4", "--scale", "paper", "--dry_run", "--configs", str(ROOT / "configs")],
        ["bench", "--checkpoint", run, "--rounds", "1", "--batches", "1"],
        ["data", "check", "own", data, "--out", str(folder / "problems.csv"), *one],
        ["data", "resize", data, str(folder / "small"), "--side", "32", *one],
        ["doctor"],  # writes and runs a bundle for every runtime
        ["convert", str(folder / "static.pth"), str(folder / "converted"), "--model", "resnet3d_18"],
        ["--version"],
    ]


@pytest.mark.timeout(900)
def test_no_name_is_looked_up(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("onnxruntime")
    write_folder(tmp_path / "data")
    with flat():
        save_checkpoint(network(classes=2), Task(NAMES[:2], SPEC), tmp_path / "run")
        torch.save(network(classes=2, adapted=False).state_dict(), tmp_path / "static.pth")
    environment = {name: value for name, value in os.environ.items() if name != "CI"}  # where telemetry holds back
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment |= {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": paths}
    (tmp_path / "home").mkdir()
    jobs = lines(tmp_path)
    done = {name for name in COMMANDS if any(job[: len(name.split())] == name.split() for job in jobs)}
    assert done == set(COMMANDS) - ELSEWHERE
    command = [sys.executable, "-c", LISTEN, json.dumps(jobs)]
    end = subprocess.run(
        command, check=False, env=environment, capture_output=True, text=True, timeout=850, cwd=tmp_path
    )
    report = json.loads(end.stderr.splitlines()[-1])
    assert report["asked"] == []
    assert {line: code for line, code in report["codes"].items() if code} == {}, end.stderr
    assert set(re.findall(r"bundle: (\w+) +works", end.stdout)) == set(get_args(Runtime))
