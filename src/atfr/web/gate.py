"""What the page answers: a short list of routes, each for the session that it belongs to. Gradio stands behind it.

Nothing that a client writes comes to Gradio as it was: of a request only the method, the path and few headers, and of a
call only what `calls` has read. Files come in here, and Gradio never hears of one.
"""

import asyncio
import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Collection
from typing import Any

from fastapi import FastAPI, HTTPException
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atfr.web import calls
from atfr.web.uploads import FullError, Inbox
from atfr.web.visitors import Visitors

API = "/gradio_api"
STATIC = re.compile(r"/(manifest\.json|favicon\.ico|theme\.css|(assets|static)(/\w[\w.-]*)+)", re.ASCII)
PASSED = {b"host", b"accept", b"accept-encoding", b"if-none-match", b"if-modified-since"}
KEPT = ("type", "asgi", "http_version", "scheme", "server", "client", "method", "extensions", "state")

FORM_BYTES = 10_000
CALL_BYTES = 10_000
IDLE_S = 10
"""A request whose next part does not come for so many seconds is given up."""
WHOLE_S = 600
"""So is one that is not complete after so many."""
FORGOTTEN_S = 600
"""Files that were sent, but never came to their turn, are removed after so many seconds."""
CALLS_AT_ONCE = 4
"""So many calls of a page may wait, for their turn or for someone who reads the answer."""
WAITING = 16
"""So many calls of all pages wait at most; who comes then is told that the page is busy."""
PAGES = 128
"""Answers that nobody reads are kept for so many pages at most."""
FAILED: dict[type[Exception], tuple[int, str]] = {
    ClientDisconnect: (400, "The upload was broken off."),
    UnicodeError: (400, "The name of the file is no text."),
    OSError: (503, "There is no place for the file on this machine at the moment; try again later."),
}
"""What an upload fails by, and what its sender is told."""


class Gate:
    """The routes of the page.

    Args:
        pictures: paths of files that everyone may see.
        samples: how many there are to choose from.
        most_bins: the right end of the slider.
    """

    def __init__(
        self, gradio: FastAPI, queue: Any, inbox: Inbox, pictures: Collection[str], samples: int, most_bins: int
    ) -> None:
        self.gradio, self.queue, self.inbox = gradio, queue, inbox
        self.shown = {f"{API}/file={path}" for path in pictures}
        self.samples, self.most_bins = samples, most_bins
        self._pages: OrderedDict[str, None] = OrderedDict()

    def app(self, hosts: list[str] | None) -> FastAPI:
        """Return the application to be served; it answers to these names alone, or to all."""
        named = [Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)] if hosts else []
        routes: list[BaseRoute] = [
            Route("/", self.start),
            Route(f"{API}/heartbeat/{{session_hash}}", self.heartbeat),
            Route(f"{API}/queue/data", self.answers),
            Route(f"{API}/queue/join", self.call, methods=["POST"]),
            Route(f"{API}/upload", self.upload, methods=["POST"]),
            Route("/{path:path}", self.static),
        ]
        running = self.gradio.router.lifespan_context
        return FastAPI(
            routes=routes,
            middleware=[*named, Middleware(Visitors)],
            lifespan=lambda _: running(self.gradio),  # type: ignore[arg-type]  # Gradio starts and ends with it
            openapi_url=None,
            redirect_slashes=False,
        )

    async def start(self, request: Request) -> ASGIApp:
        """Answer the page itself."""
        return self._passed("/")

    async def static(self, request: Request) -> ASGIApp:
        """Answer what the page is built of, and the pictures of samples."""
        path = request.scope["path"]
        if path not in self.shown and not STATIC.fullmatch(path):
            raise HTTPException(404)
        return self._passed(path)

    async def heartbeat(self, request: Request) -> ASGIApp:
        """Answer as long as the page is open."""
        return self._passed(f"{API}/heartbeat/{bound(request, request.path_params['session_hash'])}")

    async def answers(self, request: Request) -> ASGIApp:
        """Answer what came of a page's calls."""
        session_hash = bound(request, request.query_params.get("session_hash", ""))
        if session_hash not in self.queue.pending_messages_per_session:
            raise HTTPException(404, "No call of this page is open; reload it.")
        return self._passed(f"{API}/queue/data", f"session_hash={session_hash}")

    async def call(self, request: Request) -> ASGIApp:
        """Pass on a call of one of the page's functions, written anew."""
        call = calls.read(await read_all(request, CALL_BYTES))
        match call:
            case calls.Sent() if not self.inbox.is_from(request.scope["session"], call.data[0].path):
                raise HTTPException(403, "This file was not sent from here, or is not here any more; send it again.")
            case calls.Chosen() if not 0 <= call.event_data.index < self.samples:
                raise HTTPException(422, f"There are {self.samples} samples, and no such one; reload the page.")
            case calls.Moved() if not 1 <= call.data[1] <= self.most_bins:
                raise HTTPException(422, f"There are 1 to {self.most_bins} bins; reload the page.")
        session_hash = bound(request, call.session_hash)
        self._make_room(session_hash)
        return self._passed(f"{API}/queue/join", body=json.dumps(calls.written(call, session_hash)).encode())

    async def upload(self, request: Request) -> Response:
        """Take a file, and answer its token, as Gradio's page expects the path of a file it has sent."""
        if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            raise HTTPException(400, "An upload is a form with one file.")  # other forms are slow to read
        length = request.headers.get("content-length", "")
        if not re.fullmatch(r"\d{1,15}", length, re.ASCII) or "transfer-encoding" in request.headers:
            raise HTTPException(411, "The length of an upload must be declared.")
        largest = self.inbox.limits.bytes + FORM_BYTES
        if int(length) > largest:
            raise HTTPException(413, f"The file is too large: at most {self.inbox.limits} are taken.")
        try:
            token = self.inbox.begin(request.scope["session"], int(length))
        except FullError as error:
            await read_all(request, largest, keep=False)  # a browser reads no answer before it has sent all
            raise HTTPException(503, str(error)) from error
        try:
            async with Request(request.scope, hurried(request.receive, largest)).form(
                max_files=1, max_fields=0
            ) as form:
                file = form.get("files")
                if not isinstance(file, UploadFile):
                    raise HTTPException(400, "An upload is a form with one file.")
                await run_in_threadpool(self.inbox.fill, token, file.filename or "", file.file)
        except BaseException as error:
            self.inbox.forget(token)
            for kind, (status, told) in FAILED.items():
                if isinstance(error, kind):
                    raise HTTPException(status, told) from error
            raise
        asyncio.get_running_loop().call_later(FORGOTTEN_S, self.inbox.forget, token)
        return JSONResponse([token])

    def _make_room(self, session_hash: str) -> None:
        """Refuse a page that has many calls open, and let go of answers that other pages did not read."""
        if len(self.queue.pending_event_ids_session.get(session_hash, ())) >= CALLS_AT_ONCE:
            raise HTTPException(429, "Too many calls of this page are open; wait for the answers, or reload it.")
        self._pages[session_hash] = None
        self._pages.move_to_end(session_hash)
        if len(self._pages) > PAGES:
            oldest, _ = self._pages.popitem(last=False)
            self.queue.pending_messages_per_session.pop(oldest, None)
            self.queue.pending_event_ids_session.pop(oldest, None)

    def _passed(self, path: str, query: str = "", body: bytes = b"") -> ASGIApp:
        """Return an application that lets Gradio answer for a path."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            headers = [(name, value) for name, value in scope["headers"] if name in PASSED]
            if body:
                headers += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            changes = {"path": path, "raw_path": path.encode(), "root_path": "", "query_string": query.encode()}
            kept = {name: scope[name] for name in KEPT if name in scope}
            await self.gradio(
                {**kept, **changes, "headers": headers}, replayed(body, receive) if body else receive, send
            )

        return app


def bound(request: Request, session_hash: str) -> str:
    """Return the name that Gradio knows a page by: of another browser's session the same page is another."""
    return hashlib.sha256(f"{request.scope['session']} {session_hash}".encode()).hexdigest()


def hurried(receive: Receive, most: int) -> Receive:
    """Return what receives a request, as long as it comes in time and has no more than so many bytes."""
    now = asyncio.get_running_loop().time
    end, got = now() + WHOLE_S, 0

    async def received() -> Message:
        nonlocal got
        try:
            async with asyncio.timeout_at(min(end, now() + IDLE_S)):
                message = await receive()
        except TimeoutError as error:
            raise HTTPException(408, "The request took too long; try again.") from error
        got += len(message.get("body", b""))
        if got > most:
            raise HTTPException(413, "The request is too large.")
        return message

    return received


async def read_all(request: Request, most: int, keep: bool = True) -> bytes:
    """Return the body of a request, or only wait for its end."""
    parts = Request(request.scope, hurried(request.receive, most)).stream()
    try:
        return b"".join([part async for part in parts if keep])
    except ClientDisconnect as error:
        raise HTTPException(400, "The request was broken off.") from error


def replayed(body: bytes, receive: Receive) -> Receive:
    """Return what receives a body, and then what comes of the client: that it has gone."""
    first = True

    async def received() -> Message:
        nonlocal first
        if first:
            first = False
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return received
