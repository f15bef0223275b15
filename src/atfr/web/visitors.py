"""Who asks: each browser has a session of its own, and pages of other sites ask for nothing."""

import re
import secrets

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "atfr"
TOKEN = re.compile(r"[\w-]{43}", re.ASCII)
HEADERS = {
    # the browser itself refuses what is not from here; Gradio writes scripts and styles into its page
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Visitors:
    """Refuses requests that pages of other sites make, and gives each browser a session, in `scope["session"]`.

    The session is a cookie that no script reads and that no other site's request carries. Who has none gets one, save
    on the way from another site: that browser may have one that it does not show.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        app = PlainTextResponse("This page answers no other site.", 403) if is_foreign(request) else self.app
        known = request.cookies.get(COOKIE, "")
        session = known if TOKEN.fullmatch(known) else secrets.token_urlsafe(32)
        give = session != known and request.headers.get("sec-fetch-site") != "cross-site"

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                if give:
                    headers.append("Set-Cookie", f"{COOKIE}={session}; Path=/; HttpOnly; SameSite=Strict")
                if message["status"] >= 400:
                    headers["Connection"] = "close"  # the rest of what is refused is not waited for
            await send(message)

        await app({**scope, "session": session}, receive, sent)


def is_foreign(request: Request) -> bool:
    """Whether a page of another site asks; a link on it may lead to this one's start."""
    host = request.headers.get("host", "")
    if any(origin not in (f"http://{host}", f"https://{host}") for origin in request.headers.getlist("origin")):
        return True
    near = request.headers.get("sec-fetch-site", "none") in ("same-origin", "none")
    return not near and (request.method, request.scope["path"]) != ("GET", "/")
