"""The page as it is served, its network, and videos to send."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlparse

import pytest

from atfr.evaluate.task import save_checkpoint
from tests.evaluate.build import network, write_level
from tests.models.narrow import short
from tests.web.browser import User, user
from tests.web.client import FORM, UPLOAD
from tests.web.served import DEMO, TASK, WATCHER, Server


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="session")
def checkpoint(folder: Path) -> Path:
    with short():
        save_checkpoint(network(), TASK, folder / "checkpoint")
    return folder / "checkpoint"


@pytest.fixture(scope="session")
def videos(folder: Path) -> dict[str, Path]:
    """Two videos, and what is none or too much."""
    made = {
        name: write_level(folder / f"{name}.mp4", level, 30, seed=level) for name, level in (("one", 3), ("two", 5))
    }
    made["long"] = write_level(folder / "long.mp4", 2, frames=110)
    for name, content in (("notes", b"no video\n"), ("large", bytes(1_100_000))):
        made[name] = folder / f"{name}.mp4"
        made[name].write_bytes(content)
    return made


@pytest.fixture(scope="session")
def server(folder: Path, checkpoint: Path) -> Iterator[Server]:
    """Start the page on a free port; Ctrl-C must end it, and nothing may be left."""
    (folder / "watch").mkdir()
    (folder / "watch" / "sitecustomize.py").write_text(WATCHER)
    temporary, asked = folder / "temporary", folder / "asked"
    temporary.mkdir()
    paths = os.pathsep.join(
        [str(folder / "watch"), str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    environment = os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": paths, "ATFR_TEST_ASKED": str(asked)}
    limits = ["--port", "0", "--max_seconds", "4", "--max_megabytes", "1"]
    command = [sys.executable, "-c", DEMO, "--checkpoint", str(checkpoint), *limits]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, text=True, **pipes) as process:
        line = process.stdout.readline()
        if not line.startswith("The page is at http://127.0.0.1:"):
            process.kill()
            pytest.fail(line + process.stderr.read())
        try:
            yield Server(process, line.split()[4], temporary, asked)
            with page_left_open(line.split()[4]):
                process.send_signal(signal.SIGINT)
                out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (130, "", "atfr: interrupted\n")
    assert not list(temporary.glob("atfr-demo-*"))


@contextmanager
def page_left_open(address: str) -> Iterator[None]:
    """A page is open in a browser, and has sent the half of a file."""
    host, port = urlparse(address).netloc.split(":")
    begun = ["GET /gradio_api/heartbeat/a HTTP/1.1\r\n", f"POST {UPLOAD} HTTP/1.1\r\nContent-Length: 900\r\n"]
    with ExitStack() as connections:
        for head in begun:
            one = connections.enter_context(socket.create_connection((host, int(port)), 60))
            one.sendall(f"{head}Host: {host}:{port}\r\nContent-Type: {FORM['Content-Type']}\r\n\r\n--".encode())
            if head.startswith("GET"):
                one.recv(1)  # it is answered from now on
        yield


@pytest.fixture(scope="session")
def desk(server: Server) -> Iterator[User]:
    with user(1280, 900) as someone:
        someone.open(server.address)
        yield someone
