"""Let the page out: to this machine unless asked, with no request to any other, and leave nothing behind."""

import asyncio
import gc
import ipaddress
import logging
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from atfr.errors import InputError
from atfr.evaluate.task import Task
from atfr.models import VideoModel
from atfr.web import reading, samples
from atfr.web.limits import Limits
from atfr.web.network import SharedNetwork
from atfr.web.uploads import Inbox

LOOPBACK = ("127.0.0.1", "localhost", "::1")
CLOSING_S = 2
ASKED_S = 10
CONNECTIONS = 256
"""So many are answered at once; a page that is open has two. As many more are told that there are too many."""
AT_ONCE = 64
"""So many are let in before the next look at how many there are."""
QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}


def serve(
    model: VideoModel,
    task: Task,
    examples: Path | None,
    host: str,
    port: int,
    limits: Limits,
    say: Callable[[str], None],
) -> None:
    """Serve the page until the process is interrupted.

    Args:
        examples: a folder of videos to try; by default they are generated.
        limits: what is beyond them is refused.

    Raises:
        InputError: the address or the port cannot be had.
        DataError: there is no video in the folder of examples.
    """
    with listening(host, port) as (listener, address), private() as folder:
        reading.prepare()
        tries = samples.of_folder(examples) if examples else samples.generated(folder / "samples")
        from atfr.web import behind, gate, page  # seconds of Gradio, which reads the environment when it is imported

        network = SharedNetwork(model, task)
        inbox = Inbox(folder / "sent", task.spec, limits)
        blocks = page.build(network, inbox, tries, generated=examples is None)
        gradio = behind.application(blocks, limits.bytes, host)
        way_in = gate.Gate(gradio, blocks._queue, inbox, page.pictures(blocks), len(tries), network.most_bins)
        app = way_in.app([*LOOPBACK, "[::1]", host] if is_loopback(host) else None)  # another's name may lead here
        gc.freeze()  # all that is here stays: no answer waits until the collector has looked through it
        say(address)
        logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # clients write nothing on the terminal
        limited: dict[str, Any] = {"limit_concurrency": CONNECTIONS, "timeout_graceful_shutdown": CLOSING_S}
        config = uvicorn.Config(app, http=Prompt, ws="none", log_level="error", backlog=AT_ONCE, **limited)
        Ending(config).run(sockets=[listener])


def is_loopback(host: str) -> bool:
    """Whether an address or a name is this machine's, for this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in LOOPBACK


class Ending(uvicorn.Server):
    """A server that ends when it is told to: no page that is open, and no video that is decoded, keeps it."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End what goes on, and then the server."""
        reading.end()
        for connection in list(self.server_state.connections):
            connection.transport.close()
        await super().shutdown(sockets)


class Prompt(H11Protocol):
    """A connection, which ends where it brings no request for a while: not even an incomplete one keeps it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to watch it, or end it where there are so many that files could not be opened any more."""
        super().connection_made(transport)
        if len(self.connections) > 2 * CONNECTIONS:
            transport.close()
        self.loop.call_later(ASKED_S, self._watch, None)

    def _watch(self, last: RequestResponseCycle | None) -> None:
        """End it, unless there was a request since `last`, or that one is still answered."""
        if self.cycle is last and (last is None or last.response_complete):
            self.transport.close()
        elif not self.transport.is_closing():
            self.loop.call_later(ASKED_S, self._watch, self.cycle)


@contextmanager
def listening(host: str, port: int) -> Iterator[tuple[socket.socket, str]]:
    """Take the port before anything else is done; give the socket and the page's address."""
    try:
        family, *_, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, OverflowError) as error:
        raise InputError(f"there is no address {host!r} with a port {port} to listen at: {error}") from error
    try:
        listener = socket.create_server(where, family=family)  # who comes before the server is up waits for it
    except OSError as error:
        raise InputError(
            f"the page cannot be served at {host} port {port} ({os.strerror(error.errno or 0)}); another page may be "
            "there: name another --port, or 0 for a free one"
        ) from error
    with listener:
        name = f"[{host}]" if ":" in host else host
        yield listener, f"http://{name}:{listener.getsockname()[1]}"


@contextmanager
def private() -> Iterator[Path]:
    """Give a folder that is this user's alone, for what users send and what the page shows; it goes with the server."""
    with tempfile.TemporaryDirectory(prefix="atfr-demo-", ignore_cleanup_errors=True) as folder:  # mode 0700
        settings = QUIET | {"GRADIO_TEMP_DIR": f"{folder}/page"}
        before = {name: os.environ.get(name) for name in settings}
        os.environ |= settings
        try:
            yield Path(folder)
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
