"""Let the page out: to this machine unless asked, with no request to any other, and leave nothing behind."""

import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atfr.errors import InputError
from atfr.evaluate.task import Task
from atfr.models import VideoModel
from atfr.web import samples
from atfr.web.network import SharedNetwork
from atfr.web.uploads import Inbox, Limits

LOOPBACK = ("127.0.0.1", "localhost", "::1")
CLOSING_S = 2
HEADERS = {
    # the browser itself refuses what is not from here; Gradio writes scripts and styles into its page
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
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
        model: a network whose classes are the task's, on its device.
        task: the labels, and the clips the network reads.
        examples: a folder of videos to try; by default they are generated.
        host: the address to listen at.
        port: its port; 0 takes a free one.
        limits: what is beyond them is refused.
        say: called with the address of the page.

    Raises:
        InputError: the address or the port cannot be had.
        DataError: there is no video in the folder of examples.
    """
    with listening(host, port) as (listener, address), private() as folder:
        from atfr.web import page  # Gradio reads the environment when it is imported

        tries = samples.of_folder(examples) if examples else samples.generated(folder / "samples")
        network = SharedNetwork(model, task)
        inbox = Inbox(folder / "sent", task.spec, limits)
        blocks = page.build(network, inbox, tries, generated=examples is None)
        app = page.mount(guarded(host), blocks, largest_bytes=int(limits.megabytes * 1e6), host=host)
        say(address)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=CLOSING_S)
        uvicorn.Server(config).run(sockets=[listener])


def guarded(host: str) -> FastAPI:
    """Return an application that adds headers, and at a loopback address keeps pages of other machines out."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(WithHeaders)
    if host in LOOPBACK:  # a name of another machine may lead here
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK, "[::1]"])
    return app


@contextmanager
def listening(host: str, port: int) -> Iterator[tuple[socket.socket, str]]:
    """Take the port before anything else is done; give the socket and the page's address."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, OverflowError) as error:
        raise InputError(f"there is no address {host!r} with a port {port} to listen at: {error}") from error
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(where)
            listener.listen()  # who comes before the server is up waits for it
        except OSError as error:
            raise InputError(
                f"the page cannot be served at {host} port {port} ({error.strerror}); another page may be there: name "
                "another --port, or 0 for a free one"
            ) from error
        name = f"[{host}]" if ":" in host else host
        yield listener, f"http://{name}:{listener.getsockname()[1]}"


@contextmanager
def private() -> Iterator[Path]:
    """Give a folder that is this user's alone, in which Gradio keeps what users send; it goes with the server."""
    with tempfile.TemporaryDirectory(prefix="atfr-demo-", ignore_cleanup_errors=True) as folder:  # mode 0700
        settings = QUIET | {"GRADIO_TEMP_DIR": f"{folder}/sent"}
        before = {name: os.environ.get(name) for name in settings}
        os.environ |= settings
        (Path(folder) / "sent").mkdir()
        try:
            yield Path(folder)
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})


class WithHeaders:
    """Adds headers to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self.app(scope, receive, sent)
