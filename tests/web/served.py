"""A running `atfr demo`, and the task of the network that it shows."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from atfr.data.samples import SAMPLE_CLASSES
from atfr.evaluate.task import Task
from tests.evaluate.build import SPEC

ODD = "${7*7} {{x}} <i>odd</i>"  # a class's name is no template and no markup
TASK = Task((*SAMPLE_CLASSES[:-1], ODD), SPEC)
WATCHER = """
import os, sys
def note(event, args):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        where = args[0] if event.startswith("socket.get") else args[1]
        if event == "socket.connect" and not isinstance(where, tuple):
            return  # a socket of this machine, by which the server starts the processes that decode
        with open(os.environ["ATFR_TEST_ASKED"], "a") as file:
            print(event, where, file=file)
sys.addaudithook(note)
"""

DEMO = """
import sys
from atfr.cli.main import main
from atfr.viz.explain import ROUNDS
from atfr.web import gate, serve
from tests.models.narrow import short
ROUNDS |= {"rounds": 1, "at_least": 1}
gate.WAITING = 4
gate.IDLE_S = serve.ASKED_S = 5
serve.CLOSING_S = 1
with short():
    sys.exit(main(["demo", *sys.argv[1:]]))
"""
"""`atfr demo` of a network of few blocks, which takes the times of each answer once: what they say is tested elsewhere;
few calls may wait, and none is waited for so long."""


@dataclass(frozen=True)
class Server:
    """A running `atfr demo`, where it keeps its files, and where it notes what it asks of the network."""

    process: subprocess.Popen[str]
    address: str
    temporary: Path
    asked: Path

    def files(self) -> list[Path]:
        """What users have sent and is there still."""
        return [file for file in self.temporary.rglob("sent/**/*") if file.is_file()]
