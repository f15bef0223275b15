"""The inference runtimes in a process of its own."""

import subprocess
import sys
from pathlib import Path

from torch import export, nn, zeros

from atfr.runtime.engines import OpenVINO

LET_GO_IN_A_THREAD = """
import signal, subprocess, sys, threading
from pathlib import Path
from atfr.runtime.engines import OpenVINO

signal.signal(signal.SIGCHLD, lambda *_: None)  # as PyTorch's loaders set one
held = [OpenVINO(Path(sys.argv[1]), 1, "float32")]
thread = threading.Thread(target=held.clear)
thread.start()
thread.join()
subprocess.run([sys.executable, "-c", ""], capture_output=True, check=True)
print("alive")
"""


def test_a_network_let_go_in_a_thread_leaves_signals_alone(tmp_path: Path) -> None:
    OpenVINO.write(export.export(nn.ReLU(), (zeros(1, 2),)), tmp_path / "network")
    command = [sys.executable, "-c", LET_GO_IN_A_THREAD, str(tmp_path / "network")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr
