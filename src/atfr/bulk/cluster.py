"""Ray: joined where a cluster is named, else started on this machine, for this process alone."""

import logging
import os
import secrets
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from atfr.data.pool import cpu_cores
from atfr.data.walk import LOG
from atfr.errors import InputError
from atfr.words import counted

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nobody is told
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # says otherwise that a default will change
}
LOCAL = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # no cluster beyond this machine, on any system: ports are of 127.0.0.1
    "RAY_worker_niceness": "0",  # workers are as nice as the command, not 15 more
    "RAY_AUTH_MODE": "token",  # whoever else is on this machine reaches these ports, and has no token
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}
LEAST_CPUS = 2
"""A decoder and a runner, which take turns where there is one core."""


@contextmanager
def cluster(address: str | None = None, num_cpus: int = LEAST_CPUS) -> Iterator[None]:
    """Have Ray inside; a cluster that was started here ends with it, and also when this process is killed.

    Args:
        address: of a cluster, or "auto" for the one of this machine; by default that of the environment (as in
            `ray job submit`), and where there is none, Ray is started here: its ports are on 127.0.0.1.
        num_cpus: of a cluster that is started, at least; all that this process may use are there in any case.

    Raises:
        InputError: Ray is not installed, or there is no such cluster.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    os.environ.update(QUIET if address else QUIET | LOCAL)
    try:
        import ray
    except ImportError as error:
        raise InputError(f"atfr bulk needs Ray: pip install 'atfr[bulk]' ({error})") from error
    if ray.is_initialized():
        yield
        return
    own: dict[str, Any] = {}
    if not address:
        own = {"num_cpus": max(num_cpus, cpu_cores()), "include_dashboard": False}
    at_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, at_sigterm)  # Ray's would end this process before it has committed
    except (ConnectionError, ValueError) as error:
        raise InputError(f"there is no Ray cluster at '{address}' ({error}); leave out --address") from error
    nodes, cores, gpus = resources()
    LOG.info("Ray: %s, %g cores, %g GPUs", counted(nodes, "node"), cores, gpus)
    try:
        yield
    finally:
        ray.shutdown()


def resources() -> tuple[int, float, float]:
    """Return the nodes, CPU cores and GPUs of the cluster, as they are now."""
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return len(alive), *(sum(node.get(name, 0.0) for node in alive) for name in ("CPU", "GPU"))
