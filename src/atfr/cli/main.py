"""The entry point `atfr`: finds the command, imports its module alone, runs it, and turns errors into one line.

Everything heavy is imported late: `atfr --help` answers without torch.
"""

import difflib
import importlib
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

from atfr.cli.plain import FAILED, one_line, say
from atfr.errors import AtfrError

INTERRUPTED = 130
LONGEST = 1500
"""Characters of an error."""
NO_MEMORY = re.compile(r"out of memory|can't allocate memory|Storage size calculation overflowed")
"""Of PyTorch's errors, which have no class of their own on the CPU."""


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return one_line(super().format(record))


class Command(NamedTuple):
    """Where a command's function is, and what it does in one line."""

    module: str
    function: str
    help: str


HELP = {
    "quickstart": "train and compare a static and an adaptive network",
    "compare": "say what a sampler is worth on some videos, and what to take",
    "train": "train a network on a folder of classes or a CSV file",
    "calibrate": "set a sampler's noise floor and bins by some videos",
    "test": "test a trained network: accuracy, GFLOPs and time per clip",
    "predict": "name the action in videos",
    "bulk": "predict an archive into Parquet, on this machine or a Ray cluster",
    "bulk verify": "prove that a bulk prediction has each video exactly once",
    "explain": "show on a page what is merged in a video, and the saving",
    "report": "show on a page what tests found, of runs side by side",
    "demo": "serve a page that takes videos and shows what is merged",
    "export": "write a trained network for an inference runtime",
    "cost": "count a network's multiply-adds by active bins",
    "reproduce": "make a table or figure of the paper, ours beside it",
    "bench": "time a network with SGS beside the same without, on this machine",
    "data check": "find what is missing, broken or too short in a data set",
    "data resize": "write a data set again with smaller frames",
    "doctor": "try what works here: decoders, devices, runtimes",
    "weights": "get the published weights of a network",
    "convert": "make a checkpoint folder of a file of weights",
}
COMMANDS = {name: Command(f"atfr.cli.{name.split()[0]}", name.split()[-1], told) for name, told in HELP.items()}
"""A command's function has its name: `data check` is `check` in `atfr.cli.data`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 after an error, 130 after Ctrl-C or SIGTERM."""
    args = sys.argv[1:] if argv is None else list(argv)
    open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a file name may hold what the terminal cannot show
    try:
        with heard():
            code = run(args)
        sys.stdout.flush()
    except (AtfrError, OSError) as error:
        if isinstance(error, BrokenPipeError):  # the reader of our output has gone: `atfr ... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        return fail(str(error))
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not NO_MEMORY.search(str(error)):
            raise
        return fail(f"the memory is too small for this; give fewer or smaller clips at a time ({error})")
    except KeyboardInterrupt as stop:
        say(f"interrupted{f'; {stop}' if stop.args else ''}")
        return INTERRUPTED
    return code


def open_standard_streams() -> None:
    """Open those that are closed (`atfr ... >&-`): the next file would get their number, and what libraries print."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            if null != number:
                os.dup2(null, number)
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115


@contextmanager
def heard() -> Iterator[None]:
    """Print what the library logs, each on one line, and take SIGTERM (`timeout`, a scheduler) for Ctrl-C."""

    def of_thread(ended: threading.ExceptHookArgs) -> None:
        """Say in one line what ended a thread (TensorBoard's writer has one) where the machine is the cause."""
        if isinstance(ended.exc_value, OSError):
            say(f"warning: {ended.exc_value}")
        else:
            threading.__excepthook__(ended)

    logger, handler = logging.getLogger("atfr"), logging.StreamHandler()
    hook, threading.excepthook = threading.excepthook, of_thread
    handler.setFormatter(_OneLine("atfr: %(message)s"))
    level, before = logger.level, signal.getsignal(signal.SIGTERM)
    ours = before is signal.SIG_DFL and threading.current_thread() is threading.main_thread()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    if ours:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        threading.excepthook = hook
        if ours:
            signal.signal(signal.SIGTERM, before)


def run(args: list[str]) -> int:
    """Do what the arguments say and return the exit code."""
    if "_ARGCOMPLETE" in os.environ:
        from atfr.cli.completion import complete

        complete()
    if not args or args[0] in ("-h", "--help"):
        print(overview())
        return 0
    if args[0] in ("-V", "--version"):
        from atfr.cli.version import versions

        print("\n".join(f"{name:<12}{version}" for name, version in versions().items()))
        return 0
    words = 2 if " ".join(args[:2]) in COMMANDS else 1
    name = " ".join(args[:words])
    if name not in COMMANDS:
        near = [command for command in COMMANDS if command.startswith(f"{name} ")]
        near = near or difflib.get_close_matches(name, COMMANDS, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(COMMANDS)}"
        return fail(f"unknown {'option' if name.startswith('-') else 'command'} {name!r}; {hint}")
    try:
        os.getcwd()
    except FileNotFoundError:  # PyTorch's libraries end the process there
        return fail("the folder that this was started in is gone; change to one that is there (cd)")
    command = COMMANDS[name]
    module = importlib.import_module(command.module)
    function = getattr(module, command.function)
    from atfr.cli import common
    from atfr.cli.parser import UsageError, parse

    try:
        values = parse(f"atfr {name}", function, args[words:], getattr(module, "defaults_for", None))
    except UsageError as error:
        return fail(f"{error} (see `atfr {name} --help`)")
    except SystemExit as done:  # --help or --print_config
        return int(done.code or 0)
    with common.only_json() if values.get("json") else nullcontext():
        return function(**values) or 0


def overview() -> str:
    """Return the text of `atfr --help`."""
    commands = "\n".join(f"  {name:<12}{command.help}" for name, command in COMMANDS.items())
    return f"""usage: atfr COMMAND ...

3D CNNs with adaptive temporal feature resolutions (Similarity Guided Sampling).

commands:
{commands}

  -h, --help     this text; `atfr COMMAND --help` for one command
  -V, --version  versions, also of torch, the decoder and the runtimes"""


def fail(message: str) -> int:
    """Print an error as one line on stderr and return the exit code of errors."""
    text = one_line(message)
    if len(text) > LONGEST:  # somebody gave a name or a list without end
        text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
    say(f"error: {text}")
    return FAILED


if __name__ == "__main__":
    sys.exit(main())
