"""What stands in for decoding and for a network: files of a few words, which say what is to happen to their worker."""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from atfr.errors import VideoError


def read(path: os.PathLike[str]) -> tuple[np.ndarray, int]:
    """Decode: "kill" and "hang" do that to the decoder, "broken" is no video."""
    text = Path(path).read_text()
    if "kill" in text.split():
        os.kill(os.getpid(), signal.SIGKILL)
    if "hang" in text.split():
        time.sleep(3600)
    if "broken" in text.split():
        raise VideoError(f"'{path}' is no video")
    if "slowly" in text.split():
        time.sleep(0.05)
    data = np.frombuffer(text.encode(), np.uint8)
    return data, data.nbytes


def network(payloads: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    """Run: "crash" ends the runner, "raise" is an error in it; each row says in how large a batch it was."""
    texts = [bytes(data).decode() for data in payloads]
    if any("crash" in text.split() for text in texts):
        os.kill(os.getpid(), signal.SIGKILL)
    if any("raise" in text.split() for text in texts):
        raise RuntimeError("no such operation")
    return [
        {
            "label": text,
            "probability": 1.0,
            "top": [{"label": text, "probability": 1.0}],
            "views": 1,
            "active_bins": {"input": [len(texts)]},
            "gflops": 1.0,
            "static_gflops": 2.0,
            "warning": None,
        }
        for text in texts
    ]


def make_network() -> Any:
    return network


def archive(folder: Path, count: int, **special: str) -> Path:
    """Write so many files, v000.mp4, v001.mp4, ...; some of them with special words, as v003="kill"."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        name = f"v{number:03d}"
        (folder / f"{name}.mp4").write_text(f"{name} {special.get(name, '')}")
    return folder
