"""A client of the page that no browser holds back: it writes whatever it likes, and keeps the cookie it is given."""

import http.client
import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

BOUNDARY = "b0undary"
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
JOIN, UPLOAD = "/gradio_api/queue/join", "/gradio_api/upload"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    text: str


class Client:
    """One session."""

    def __init__(self, address: str) -> None:
        self.host = urlparse(address).netloc
        self.cookie = ""

    def ask(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
        """Send a request with this very path."""
        connection = http.client.HTTPConnection(self.host, timeout=120)
        connection._validate_path = lambda _path: None
        cookie = {"Cookie": self.cookie} if self.cookie else {}
        try:
            connection.request(method, path, body, cookie | (headers or {}))
            answer = connection.getresponse()
            if given := answer.getheader("Set-Cookie"):
                self.cookie = given.split(";")[0]
            return Answer(answer.status, answer.headers, answer.read().decode(errors="replace"))
        finally:
            connection.close()

    def raw(self, request: bytes) -> bytes:
        """Send bytes, and return what comes until the other side ends."""
        host, port = self.host.split(":")
        with socket.create_connection((host, int(port)), timeout=120) as connection:
            connection.sendall(request)
            got = b""
            while part := connection.recv(65536):
                got += part
            return got

    def upload(self, content: bytes, name: str = "a.mp4") -> str:
        """Send a file as the page does, and return what stands for it."""
        answer = self.ask("POST", UPLOAD, form(content, name), FORM)
        assert answer.status == 200, answer
        return json.loads(answer.text)[0]

    def join(self, fn_index: Any, data: Any, page: Any = "page", **more: Any) -> Answer:
        """Call a function."""
        call = {"fn_index": fn_index, "data": data, "session_hash": page, **more}
        return self.ask("POST", JOIN, json.dumps(call).encode(), {"Content-Type": "application/json"})

    def answers(self, page: str = "page") -> str:
        """Return what came of the calls of a page."""
        return self.ask("GET", f"/gradio_api/queue/data?session_hash={page}").text

    def call(self, number: int, data: Any, page: str = "page", **more: Any) -> str:
        """Call a function, and return what came of it."""
        answer = self.join(number, data, page, **more)
        return self.answers(page) if answer.status == 200 else answer.text

    def send(self, video: Path) -> str:
        """Send a video, and return the page's answer to it."""
        return self.call(0, [file(self.upload(video.read_bytes(), video.name))])


def file(path: Any) -> dict[str, Any]:
    """What the page's own script sends in the place of a file."""
    return {"path": path, "orig_name": "a.mp4", "meta": {"_type": "gradio.FileData"}}


def form(content: bytes, name: str = "a.mp4", field: str = "files") -> bytes:
    """A form with one file."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'
    return head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()
