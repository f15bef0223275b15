"""Several processes of one `torch.distributed` group on this machine, over gloo."""

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch.distributed
import torch.multiprocessing

FORKED = ".*multi-threaded, use of fork"
"""What Python 3.12 says of it."""


def forked(function: Callable[..., None], *args: Any) -> BaseProcess:
    """Start function(*args) in a process of its own, which imports nothing where it can be forked."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", FORKED, DeprecationWarning)
        process: BaseProcess = get_context(_method()).Process(target=function, args=args)  # type: ignore[attr-defined]
        process.start()
    return process


def told(args: Sequence[str], folder: Path) -> BaseProcess:
    """Start `atfr` with these arguments, forked, in a session of its own; it prints to folder/stdout and /stderr."""
    return forked(_tell, list(args), folder)


def _tell(args: list[str], folder: Path) -> None:
    from atfr.cli.main import main

    os.setsid()
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = (folder / name).open("w")
        os.dup2(file.fileno(), number)
        setattr(sys, name, file)
    sys.exit(main(args))


def run_processes(function: Callable[..., None], folder: Path, *args: Any, count: int = 2) -> None:
    """Call function(rank, folder, *args) in each of `count` new processes, joined in a group; all must succeed.

    They are forked, and import nothing, where that goes.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", FORKED, DeprecationWarning)
        args, method = (count, folder, function, args), _method()
        torch.multiprocessing.start_processes(_join, args, nprocs=count, start_method=method)


def _method() -> str:
    """Return how processes start: forked, unless CUDA runs, which a fork cannot go on with."""
    return "spawn" if torch.cuda.is_initialized() else "fork"


def _join(rank: int, count: int, folder: Path, function: Callable[..., None], args: tuple[Any, ...]) -> None:
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "RANK": str(rank), "WORLD_SIZE": str(count)}
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count)
    try:
        function(rank, folder, *args)
    finally:
        torch.distributed.destroy_process_group()
