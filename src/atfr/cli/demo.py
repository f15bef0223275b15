"""`atfr demo`: a page in the browser that takes videos."""

import importlib.util
from pathlib import Path

from atfr.cli import common
from atfr.errors import InputError


def demo(
    *,
    checkpoint: Path,
    examples: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    max_seconds: float = 60,
    max_megabytes: float = 100,
    device: str = "auto",
) -> None:
    """Serve a page that shows what a network makes of the videos that are dropped on it, until Ctrl-C.

    The page works offline, and asks nothing of other machines. What is dropped on it lies in a private folder until it
    is read, and is removed then.

    Args:
        examples: A folder of videos to try; by default they are generated.
        host: The address to listen at. Only this machine reaches the default one; 0.0.0.0 is open to the network, and
            who reaches the page can use it.
        port: The port to listen at; 0 takes a free one.
        max_seconds: The longest video that is taken.
        max_megabytes: The largest file that is taken.
    """
    if importlib.util.find_spec("gradio") is None:
        raise InputError("the page needs Gradio, which is not installed: pip install 'atfr[demo]'")
    from atfr.web.limits import Limits

    limits = Limits(max_seconds, max_megabytes)
    model, task = common.load(checkpoint, device)
    from atfr.web.serve import LOOPBACK, serve

    if host not in LOOPBACK:
        common.warn(f"the page listens at {host}: everyone who reaches this machine there can use it")
    told = "The page is at {} (Ctrl-C ends it)".format
    serve(model, task, examples, host, port, limits, lambda address: print(told(address), flush=True))
