"""The command line as somebody at a terminal has it: stderr, and stdout too if asked for, is a pseudo-terminal.

The streams of the test's own process are exchanged: a process for each would import all of PyTorch, 4 to 8 s.
"""

import fcntl
import os
import pty
import re
import struct
import sys
import tempfile
import termios
import threading
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pytest

from atfr.cli.main import main

END = b"\x04 end of what is shown"
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
    """Run atfr in this process, which meanwhile has a terminal of so many columns."""
    main_end, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    shown: list[bytes] = []
    reader = threading.Thread(target=_read, args=(main_end, shown))
    reader.start()
    before = [os.dup(number) for number in range(3)]
    with tempfile.TemporaryFile() as printed, pytest.MonkeyPatch.context() as patch:
        try:
            for number, what in enumerate((end, end if stdout_too else printed.fileno(), end)):
                os.dup2(what, number)
            for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR"):
                patch.delenv(name, raising=False)
            code = _on_descriptors(args, {"TERM": "xterm-256color", **(env or {})}, patch)
        finally:
            for number, what in enumerate(before):
                os.dup2(what, number)
                os.close(what)
            os.write(end, END)
            reader.join()
            os.close(end)
            os.close(main_end)
        printed.seek(0)
        return Seen(code, printed.read().decode(), b"".join(shown).removesuffix(END).decode(errors="replace"))


def _on_descriptors(args: Sequence[object], env: Mapping[str, str], patch: pytest.MonkeyPatch) -> int:
    """Run atfr on what the descriptors of stdout and stderr are now; return its code."""
    for name, value in env.items():
        patch.setenv(name, value)
    with open(1, "w", closefd=False) as out, open(2, "w", buffering=1, closefd=False) as err:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        return main(list(map(str, args)))


def in_pipes(args: Sequence[object], env: Mapping[str, str]) -> tuple[int, str, str]:
    """Run atfr in this process, whose stdout and stderr are pipes; return its code and what came out of both."""
    before, shown = [os.dup(number) for number in (1, 2)], ([], [])
    readers = []
    with pytest.MonkeyPatch.context() as patch:
        for number, parts in zip((1, 2), shown, strict=True):
            end, into = os.pipe()
            os.dup2(into, number)
            os.close(into)
            readers.append(threading.Thread(target=_drain, args=(end, parts)))
            readers[-1].start()
        try:
            code = _on_descriptors(args, env, patch)
        finally:
            for number, what in zip((1, 2), before, strict=True):
                os.dup2(what, number)
                os.close(what)
            for reader in readers:
                reader.join()
    return code, *(b"".join(parts).decode() for parts in shown)


def _drain(end: int, parts: list[bytes]) -> None:
    with open(end, "rb") as pipe:
        parts.append(pipe.read())


def _read(terminal: int, shown: list[bytes]) -> None:
    while not b"".join(shown[-2:]).endswith(END):
        shown.append(os.read(terminal, 65536))
