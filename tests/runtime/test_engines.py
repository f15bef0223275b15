"""The inference runtimes in a process of its own."""

import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

from torch import export, nn, zeros

from atfr.runtime.engines import OpenVINO
from tests.alone import alone


def let_go_in_a_thread(network: Path) -> None:
    signal.signal(signal.SIGCHLD, lambda *_: None)  # as PyTorch's loaders set one
    held = [OpenVINO(network, 1, "float32")]
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join()
    subprocess.run([sys.executable, "-S", "-c", ""], capture_output=True, check=True)


def test_a_network_let_go_in_a_thread_leaves_signals_alone(tmp_path: Path) -> None:
    OpenVINO.write(export.export(nn.ReLU(), (zeros(1, 2),)), tmp_path / "network")
    alone(partial(let_go_in_a_thread, tmp_path / "network"))  # which raises where that process ends
