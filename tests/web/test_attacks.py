"""The page as an attacker meets it: over HTTP, by a client that writes what it likes. Nothing secret gets out."""

from __future__ import annotations

import json
import re
import resource
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.web.client import BOUNDARY, FORM, JOIN, UPLOAD, Client, file, form
from tests.web.served import Server

SECRET = "what only the server may read"
JSON = {"Content-Type": "application/json"}
MADE_UP = "A" * 43


@pytest.fixture(scope="module")
def secret(folder: Path) -> Path:
    """A file of the server's, outside of every folder of the page."""
    path = folder / "secret.mp4"
    path.write_text(SECRET)
    (folder / "link.mp4").symlink_to(path)
    return path


@pytest.fixture
def client(server: Server) -> Client:
    return Client(server.address)


@pytest.fixture
def poster(client: Client) -> str:
    """The path of a sample's picture on the server."""
    found = re.search(r"/gradio_api/file=([^\"]+\.webp)", client.ask("GET", "/").text)
    assert found is not None
    return found.group(1)


def check_kept(server: Server, secret: Path) -> None:
    """The file is where it was, and nowhere else."""
    assert secret.read_text() == SECRET
    copies = [path for path in server.temporary.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert copies == []


def test_what_is_served_works_for_a_plain_client(client: Client, videos: dict[str, Path], server: Server) -> None:
    """Or the attacks would prove nothing."""
    assert client.ask("GET", "/").status == 200
    assert "one.mp4" in client.send(videos["one"])
    assert "With 2 of 4 bins" in client.call(2, [None, 2])
    assert "sample: " in client.call(1, [], event_data={"index": 0})
    assert server.files() == []


def forged(path: str) -> list[Any]:
    """A path in the forms that Gradio would take for a file."""
    return [
        file(path),
        {**file(path), "url": f"/gradio_api/file={path}"},
        {"value": file(path), "__type__": "update"},
        {"anything": [file(path)]},
        [file(path)],
        path,
    ]


def test_no_call_reads_or_removes_a_file_of_the_server(
    client: Client, server: Server, secret: Path, poster: str, videos: dict[str, Path]
) -> None:
    """Whatever a client names, in every input of every function."""
    own = client.upload(videos["one"].read_bytes(), "one.mp4")
    (private,) = server.temporary.glob("atfr-demo-*")
    (held,) = server.files()
    paths = [str(secret), str(secret.with_name("link.mp4")), f"{own}/../{secret}", f"{own}/../../../{secret.name}"]
    paths += [f"{private}/sent/../../../{secret.name}", f"{private}/sent/{secret}", f"file://{secret}", str(private)]
    paths += [str(held), held.name, poster, "/proc/self/environ", "/dev/stdin", "", ".", "\0", f"{own}\0", f" {own}"]
    paths += [f"{server.address}/manifest.json", "http://other.example/a.mp4", MADE_UP, own[:-1], own.swapcase()]
    for path in paths:
        for value in forged(path):
            for number, data in [(0, [value]), (1, [value]), (2, [None, value]), (2, [value, 2]), (3, [value])]:
                answer = client.join(number, data, event_data={"index": value, "value": value})
                assert answer.status in (403, 422), (number, data, answer)
    assert server.files() == [held]
    check_kept(server, secret)
    assert client.ask("GET", f"/gradio_api/file={poster}").status == 200
    assert "one.mp4" in client.call(0, [file(own)])
    assert "not here any more" in client.call(0, [file(own)])  # once


def test_nothing_but_the_values_of_a_call_is_taken(client: Client, server: Server, secret: Path) -> None:
    """What is beside them, where Gradio reads it, is left out: there is no file in it, and no one else's session."""
    beside = {"event_id": "x", "batched": True, "simple_format": True, "oauth_token": "x", "request": file(str(secret))}
    picked = {"index": 0, "value": file(str(secret)), "token": str(secret), "_data": file(str(secret))}
    assert "sample: " in client.call(1, [], event_data=picked, **beside)
    assert client.join(1, [], "page", event_data=None).status == 422
    assert client.ask("GET", "/gradio_api/deep_link?session_hash=page").status == 404
    check_kept(server, secret)


WRONG = [b"", b"{", b"[]", b"null", b"[" * 9000, b'{"fn_index": 1e999}', b"\xff\xfe", b'{"data": []}', bytes(9000)]
WRONG += [json.dumps({"fn_index": number, "data": [], "session_hash": "a", "event_data": {"index": 0}}).encode()
          for number in (-1, 3, 10**30, 1.5, None, "1", [1], {"a": 1})]  # fmt: skip
WRONG += [json.dumps({"fn_index": 1, "data": [], "session_hash": "a", "event_data": {"index": index}}).encode()
          for index in (-1, 6, 10**30, 0.5, True, None, "0", [0, 0])]  # fmt: skip
WRONG += [json.dumps({"fn_index": 2, "data": [None, bins], "session_hash": "a"}).encode()
          for bins in (0, 9, -1, 10**30, 1.5, True, None, "2", [2], {})]  # fmt: skip
WRONG += [b'{"fn_index": 2, "data": [null, NaN], "session_hash": "a"}']
WRONG += [json.dumps({"fn_index": 2, "data": data, "session_hash": "a"}).encode()
          for data in ([], [None], [None, 2, 2], {"0": None, "1": 2}, None, [{"clip": 1}, 2])]  # fmt: skip
WRONG += [json.dumps({"fn_index": 2, "data": [None, 2], "session_hash": page}).encode()
          for page in (None, 1, "a" * 65, [], {})]  # fmt: skip


@pytest.mark.parametrize("body", WRONG)
def test_calls_of_a_wrong_form(body: bytes, client: Client) -> None:
    answer = client.ask("POST", JOIN, body, JSON)
    assert answer.status == 422, answer
    assert "reload" in json.loads(answer.text)["detail"]


def test_files_and_answers_of_another_session(client: Client, server: Server, videos: dict[str, Path]) -> None:
    """Who knows what another browser's files and pages are called has nothing of it."""
    other = Client(server.address)
    other.ask("GET", "/")
    token = client.upload(videos["one"].read_bytes(), "one.mp4")
    assert other.join(0, [file(token)]).status == 403
    assert client.join(0, [file(token)]).status == 200
    assert "No call of this page is open" in other.answers()
    assert "one.mp4" in client.answers()
    assert "The video is gone" in other.call(2, [None, 2])
    assert "With 2 of 4 bins" in client.call(2, [None, 2])
    for cookie in ("", "atfr=", "atfr=x", f"atfr={MADE_UP}", f"{client.cookie}x", client.cookie[:-1]):
        stranger = Client(server.address)
        stranger.cookie = cookie
        stranger.ask("GET", "/")
        assert stranger.cookie != client.cookie
        assert "The video is gone" in stranger.call(2, [None, 2])


def test_the_cookie(server: Server) -> None:
    given = Client(server.address).ask("GET", "/").headers["Set-Cookie"]
    assert re.fullmatch(r"atfr=[\w-]{43}; Path=/; HttpOnly; SameSite=Strict", given)
    again = Client(server.address)
    again.cookie = given.split(";")[0]
    assert again.ask("GET", "/").headers["Set-Cookie"] is None
    linked = Client(server.address).ask("GET", "/", headers={"Sec-Fetch-Site": "cross-site"})
    assert (linked.status, linked.headers["Set-Cookie"]) == (200, None)  # by a link: there may be a cookie


CLOSED = """
    /gradio_api/deep_link?session_hash=page /gradio_api/proxy=https://a.hf.space/x /gradio_api/openapi.json
    /gradio_api/info /gradio_api/info/ /info /config /config/ /openapi.json /docs /redoc /user /gradio_api/user
    /gradio_api/token /gradio_api/app_id /gradio_api/login_check /login /login/ /logout /gradio_api/dev/reload /svelte/a
    /gradio_api/runs /gradio_api/run-history/buckets /gradio_api/custom_component/a/client/b/c /gradio_api/stream/a
    /gradio_api/stream/a/close /gradio_api/stream/a/b/1/playlist.m3u8 /gradio_api/stream/a/b/1/playlist-file
    /gradio_api/reset /gradio_api/reset/ /gradio_api/cancel /gradio_api/run/sent /gradio_api/api/sent
    /gradio_api/call/sent /gradio_api/call/v2/sent /gradio_api/call/sent/a /gradio_api/queue/status
    /gradio_api/component_server /gradio_api/component_server/ /gradio_api/upload_progress?upload_id=a
    /gradio_api/startup-events /robots.txt /pwa_icon /pwa_icon/2 /monitoring /monitoring/summary /monitoring/a
    /gradio_api/process_recording /gradio_api/vibe-edit /gradio_api/vibe-edit/ /gradio_api/undo-vibe-edit
    /gradio_api/vibe-code /gradio_api/vibe-starter-queries /gradio_api/profiling/traces /gradio_api/mcp
    /gradio_api/mcp/sse /gradio_api/heartbeat/ /gradio_api/heartbeat/a/b /gradio_api/queue/join/
    /gradio_api/queue/data/ /gradio_api/upload/
    /gradio_api/ /gradio_api /assets /assets/ /static/ /manifest.json/ //
""".split()


@pytest.mark.parametrize("path", CLOSED)
def test_routes_that_the_page_does_not_need(path: str, client: Client) -> None:
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
        assert client.ask(method, path, b"{}" if method == "POST" else None, JSON).status in (404, 405), method


def test_methods_that_the_page_does_not_need(client: Client, poster: str) -> None:
    for path in ("/", UPLOAD, JOIN, "/gradio_api/queue/data", "/theme.css", f"/gradio_api/file={poster}"):
        for method in ("PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND"):
            assert client.ask(method, path).status == 405, (method, path)


def test_paths_lead_to_nothing_else(client: Client, server: Server, secret: Path, poster: str) -> None:
    (private,) = server.temporary.glob("atfr-demo-*")
    up, coded, twice = "/.." * 20, "/%2e%2e" * 20, "/%252e%252e" * 20
    paths = []
    for target in (str(secret), "/etc/passwd", str(secret.with_name("link.mp4")), str(private), f"{private}/samples"):
        named = [target, f"{poster}/..{up}{target}", f"{poster}/{up}{target}", f"{up}{target}"[1:], f"file://{target}"]
        named += [
            target[1:],
            f"/{target}",
            f"{poster}%00{target}",
            f"{poster};{target}",
            f"http://{client.host}{target}",
        ]
        for prefix in ("/gradio_api/file=", "/gradio_api/file/", "/file=", "//gradio_api/file=", "/gradio_api//file="):
            paths += [prefix + name for name in named]
        paths += [f"/gradio_api/file%3D{target}", f"/./gradio_api/file={target}", f"/a/../gradio_api/file={target}"]
        paths += [f"http://{client.host}/gradio_api/file={target}", f"/gradio_api/proxy={target}", f"/{target}"]
        for folder in ("/assets", "/static"):
            paths += [
                f"{folder}{way}{target}" for way in (up, coded, twice, "/", "/%2f", "/..%2f..", "/\\..\\..", "/%00")
            ]
    for path in paths:
        answer = client.ask("GET", path.replace(" ", "%20"))
        assert answer.status in (400, 404), path
        assert SECRET not in answer.text
    for path in (f"/gradio_api/file={poster}?a=/etc/passwd", f"/gradio_api/file={poster}"):
        assert client.ask("GET", path).headers["Content-Type"] == "image/webp"


def test_headers_lead_to_nothing_else(client: Client) -> None:
    """What a proxy may say of itself is not taken from a client, and a saved state is not opened."""
    plain = client.ask("GET", "/").text
    for name in ("X-Forwarded-Host", "X-Gradio-Server", "X-Forwarded-Prefix", "Forwarded", "Referer", "X-Original-URL"):
        assert client.ask("GET", "/", headers={name: "http://other.example/gradio_api/config"}).text == plain, name
    for query in ("deep_link=../sent", "deep_link=AAAAAAAAAAA", "page=a", "__theme=dark", "view=api", "a=%00"):
        assert client.ask("GET", f"/?{query}").text == plain, query


def test_other_sites_get_no_answer(client: Client, server: Server, poster: str, videos: dict[str, Path]) -> None:
    port = client.host.split(":")[1]
    others = ["http://other.example", "null", "", f"http://127.0.0.1:{int(port) - 1}", f"http://{client.host}.example"]
    others += [f"http://localhost:{port}", f"http://{client.host}/", f"file://{client.host}", f"http://a@{client.host}"]
    foreign = [{"Origin": origin} for origin in others]
    foreign += [{"Sec-Fetch-Site": site} for site in ("cross-site", "same-site", "x")]
    foreign += [{"Origin": f"http://{client.host}", "Sec-Fetch-Site": "cross-site"}]
    video = form(videos["one"].read_bytes())
    for headers in foreign:
        asked = [client.ask("POST", UPLOAD, video, FORM | headers)]
        chosen = json.dumps({"fn_index": 1, "data": [], "session_hash": "a", "event_data": {"index": 0}}).encode()
        asked += [client.ask("POST", JOIN, chosen, kind | headers) for kind in (JSON, {"Content-Type": "text/plain"})]
        for path in ("/gradio_api/queue/data?session_hash=a", "/gradio_api/heartbeat/a", f"/gradio_api/file={poster}"):
            asked.append(client.ask("GET", path, headers=headers))
        asked.append(client.ask("OPTIONS", JOIN, headers=headers | {"Access-Control-Request-Method": "POST"}))
        for answer in asked:
            assert answer.status in (403, 405), headers
            assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    own = {"Origin": f"http://{client.host}", "Sec-Fetch-Site": "same-origin"}
    answer = client.ask("POST", JOIN, chosen, JSON | own)
    assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (200, None)
    client.answers("a")
    assert server.files() == []
    for name in ("other.example", f"other.example:{port}", ""):
        assert client.ask("GET", "/", headers={"Host": name}).status == 400


TWO = form(b"a")[: -len(f"--{BOUNDARY}--\r\n")] + form(b"b")
UPLOADS = [
    (b"", FORM, 400), (b"x", FORM, 400), (form(b"x", field="file"), FORM, 400), (form(b"x", field="path"), FORM, 400),
    (TWO, FORM, 400), (form(b"x").replace(b'; filename="a.mp4"', b""), FORM, 400), (form(b"x")[:60], FORM, 400),
    (form(b"x").replace(b"Content-Disposition", b"X"), FORM, 400), (form(b"x"), {}, 400), (form(b"x"), JSON, 400),
    (b"files=x", {"Content-Type": "application/x-www-form-urlencoded"}, 400),
    (form(b"x"), {"Content-Type": "multipart/form-data"}, 400),
    (form(b"x"), {"Content-Type": "multipart/form-data; boundary="}, 400),
    (form(b"x"), {"Content-Type": f"multipart/form-data; charset=undefined; boundary={BOUNDARY}"}, 400),
    (form(b"x", "a\xff\x00.mp4"), {"Content-Type": f"multipart/form-data; charset=x; boundary={BOUNDARY}"}, 200),
]  # fmt: skip


@pytest.mark.parametrize(("body", "headers", "status"), UPLOADS)
def test_uploads_of_a_wrong_form(body: bytes, headers: dict, status: int, client: Client, server: Server) -> None:
    answer = client.ask("POST", UPLOAD, body, headers)
    assert answer.status == status, answer
    if status == 200:
        client.call(0, [file(json.loads(answer.text)[0])])
    assert server.files() == []


NAMES = ["../../a.mp4", "/etc/a.mp4", "..\\a.mp4", "..", "a/", "a" * 1000, "x.mp4/../..", "é\t"]


@pytest.mark.parametrize(("video", "name"), [("one", NAMES[0]), *(("notes", name) for name in NAMES)])
def test_names_of_uploads(video: str, name: str, client: Client, server: Server, videos: dict[str, Path]) -> None:
    """A file's name is shown, whether it is a video or none, and names no place."""
    (private,) = server.temporary.glob("atfr-demo-*")
    before = set(private.rglob("*"))
    token = client.upload(videos[video].read_bytes(), name)
    assert {path.parent for path in set(private.rglob("*")) - before} == {private / "sent"}
    told = client.call(0, [file(token)])
    assert '"success":true' in told
    assert str(private) not in told
    assert set(private.rglob("*")) == before


def test_uploads_that_are_too_large_or_have_no_end(client: Client, server: Server) -> None:
    """None is taken by more than what it declares, and what it declares is known before a byte is kept."""
    head = f"POST {UPLOAD} HTTP/1.1\r\nHost: {client.host}\r\nContent-Type: {FORM['Content-Type']}\r\n"
    for declared, status in [
        ("Content-Length: 1100000", 413), ("Content-Length: 999999999999999", 413), ("Transfer-Encoding: chunked", 411),
        ("X: 1", 411), ("Content-Length: 100\r\nTransfer-Encoding: chunked", 411), ("Content-Length: -1", 400),
        ("Content-Length: 1e3", 400), ("Content-Length: 10\r\nContent-Length: 20", 400),
    ]:  # fmt: skip
        answer = client.raw(f"{head}{declared}\r\n\r\n".encode())  # the server ends it, though nothing has come
        assert answer.startswith(f"HTTP/1.1 {status} ".encode()), (declared, answer)
    assert server.files() == []


def test_a_body_that_is_no_upload_is_not_read(client: Client, server: Server) -> None:
    """As a form of another kind "&" a million times would take the page's time."""
    kind = "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 1000"
    answer = client.raw(f"POST {UPLOAD} HTTP/1.1\r\nHost: {client.host}\r\n{kind}\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert server.files() == []


def test_requests_that_do_not_end_are_given_up(client: Client, server: Server) -> None:
    """The client waits; the server does not."""
    calls = [(UPLOAD, FORM["Content-Type"]), (JOIN, "application/json")]
    begun = [f"POST {path} HTTP/1.1\r\nHost: {client.host}\r\nContent-Type: {kind}\r\n" for path, kind in calls]
    halves = [f"{head}Content-Length: 900\r\n\r\n".encode() + form(b"x")[:70] for head in begun]
    with ThreadPoolExecutor(4) as pool:
        *answers, nothing, little = pool.map(client.raw, [*halves, b"", b"GET / HTTP/1.1\r\nHost: a\r\nX: "])
    for answer in answers:
        assert answer.startswith(b"HTTP/1.1 408 "), answer
        assert b"took too long; try again" in answer
    assert (nothing, little) == (b"", b"")
    assert server.files() == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits another process")
def test_no_room_on_the_disk(client: Client, server: Server) -> None:
    before = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (500_000, before[1]))
    answer = client.ask("POST", UPLOAD, form(bytes(900_000)), FORM)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, before)
    assert (answer.status, json.loads(answer.text)["detail"][:26]) == (503, "There is no place for the ")
    assert server.files() == []


def test_the_sum_of_uploads_is_limited(client: Client, server: Server) -> None:
    """Who comes too late is told so, and it goes on when there is room."""
    tokens = []
    while (answer := client.ask("POST", UPLOAD, form(bytes(999_000)), FORM)).status == 200:
        tokens += json.loads(answer.text)
    assert (answer.status, json.loads(answer.text)["detail"]) == (
        503, "Too many videos are waiting here; try again in a few minutes."
    )  # fmt: skip
    assert len(tokens) == 10
    assert sum(path.stat().st_size for path in server.files()) <= 10_000_000
    assert Client(server.address).ask("POST", UPLOAD, form(bytes(999_000)), FORM).status == 503
    for token in tokens:
        assert "cannot be opened as one" in client.call(0, [file(token)])
    assert server.files() == []
    client.call(0, [file(client.upload(b"x"))])


def test_the_queue_is_limited(client: Client) -> None:
    """So is what one page may have open; and it goes on when there is room."""
    call = {"fn_index": 1, "data": [], "event_data": {"index": 0}}
    of_one = [client.join(**call, page="one") for _ in range(6)]
    assert [answer.status for answer in of_one] == [200] * 4 + [429] * 2
    assert "wait for the answers" in of_one[-1].text
    pages = 0
    while (answer := client.join(**call, page=f"page{pages}")).status == 200:
        pages += 1
    assert answer.status == 503
    assert "Queue is full" in answer.text
    assert pages <= 20
    assert client.answers("one").count('"process_completed"') == 4
    for page in range(pages):
        assert "sample: " in client.answers(f"page{page}")
