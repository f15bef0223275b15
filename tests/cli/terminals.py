"""The command line as somebody at a terminal has it: stderr, and stdout too if asked for, is a pseudo-terminal."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tests.cli.test_main import ATFR

ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
COLOURS = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9\d|10\d)(?:;\d+)*m")


class Seen(NamedTuple):
    """What a command wrote; `stdout` is empty where it went to the terminal."""

    code: int
    stdout: str
    terminal: str

    @property
    def pictures(self) -> list[str]:
        """What a line of the terminal looked like at any time, without colours."""
        return [ESCAPES.sub("", part).rstrip() for part in re.split(r"[\r\n]+", self.terminal)]


def in_terminal(
    args: Sequence[object], columns: int = 80, stdout_too: bool = False, env: Mapping[str, str] | None = None
) -> Seen:
    """Run atfr with a terminal of so many columns."""
    main, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    inherited = {
        name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR")
    }
    process = subprocess.Popen(
        [*ATFR, *map(str, args)],
        stdin=end,
        stdout=end if stdout_too else subprocess.PIPE,
        stderr=end,
        env=inherited | {"TERM": "xterm-256color"} | dict(env or {}),
    )
    os.close(end)
    shown: list[bytes] = []
    reader = threading.Thread(target=_read, args=(main, shown))
    reader.start()
    printed, _ = process.communicate(timeout=300)
    reader.join()
    os.close(main)
    return Seen(process.returncode, (printed or b"").decode(), b"".join(shown).decode(errors="replace"))


def _read(terminal: int, shown: list[bytes]) -> None:
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # the last who had it open has gone
            return
        if not data:
            return
        shown.append(data)
