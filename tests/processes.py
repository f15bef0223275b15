"""Several processes of one `torch.distributed` group on this machine, over gloo."""

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed
import torch.multiprocessing


def run_processes(function: Callable[..., None], folder: Path, *args: Any, count: int = 2) -> None:
    """Call function(rank, folder, *args) in each of `count` new processes, joined in a group; all must succeed.

    They are forked, and import nothing; where CUDA or threads of autograd run, which a fork cannot go on with, they
    begin anew.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)  # Python 3.12
        method = "fork" if not torch.cuda.is_initialized() and _forks_go_on() else "spawn"
        torch.multiprocessing.start_processes(_join, (count, folder, function, args), nprocs=count, start_method=method)


def _forks_go_on() -> bool:
    """Whether a fork of this process can run backward passes."""
    process = os.fork()
    if not process:
        try:
            torch.ones(1, requires_grad=True).sum().backward()
        finally:
            os._exit(sys.exc_info()[0] is not None)
    return os.waitpid(process, 0)[1] == 0


def _join(rank: int, count: int, folder: Path, function: Callable[..., None], args: tuple[Any, ...]) -> None:
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "RANK": str(rank), "WORLD_SIZE": str(count)}
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count)
    try:
        function(rank, folder, *args)
    finally:
        torch.distributed.destroy_process_group()
