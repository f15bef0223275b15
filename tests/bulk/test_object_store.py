"""Videos and tables in an object store: a real S3 server on loopback, behind a gate that misbehaves as networks do."""

import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from atfr.bulk import fetch, store
from atfr.bulk.manifest import Video, read_manifest
from atfr.bulk.table import PartTakenError
from atfr.bulk.tables import FINAL, Bulk
from atfr.bulk.workers import Decoder
from tests.bulk import stubs

KEY = "0123456789abcdef"
SIZE = 3_000_000


class Gate:
    """Stands before the server: answers as it does, but for objects whose names ask for trouble, so many times.

    What is refused is so more often than the client of the store asks by itself.
    """

    def __init__(self, app: Callable[..., Any]) -> None:
        self.app, self.trouble = app, {"refused": 3, "cut": 2, "slow": 1, "down": 0, "lost": 1}

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        kind = next((kind for kind in self.trouble if kind in path), None)
        if kind is None or self.trouble[kind] == 0 or method != ("PUT" if kind == "lost" else "GET"):
            return self.app(environ, start)
        self.trouble[kind] -= 1
        if kind == "slow":
            time.sleep(0.2)
            return self.app(environ, start)
        if kind == "cut":
            return [b"".join(self.app(environ, start))[: SIZE // 3]]  # fewer bytes than were promised
        if kind == "lost":  # it is done, and the answer does not come
            list(self.app(environ, lambda *_: None))
        start("503 Slow Down", [("Content-Type", "application/xml")])
        return [b"<Error><Code>SlowDown</Code></Error>"]


@pytest.fixture(scope="module")
def gate() -> Iterator[Gate]:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    found = Gate(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, found, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setattr(store, "FIRST_WAIT_S", 0.01)
        import s3fs

        patch.setattr(s3fs.S3FileSystem, "retries", 2)
        s3fs.S3FileSystem().mkdir("videos")
        yield found
    server.shutdown()
    thread.join()


def put(name: str, text: str) -> str:
    import s3fs

    data = text.encode().ljust(SIZE)
    s3fs.S3FileSystem().pipe_file(name, data)
    return hashlib.sha256(data).hexdigest()


def test_a_bucket_is_a_manifest(gate: Gate) -> None:
    put("videos/a/one.mp4", "one")
    put("videos/a/b/two.mkv", "two")
    put("videos/a/list.csv", "path\none.mp4\nb/two.mkv\n")
    both = ["s3://videos/a/b/two.mkv", "s3://videos/a/one.mp4"]
    for manifest in ("s3://videos/a", "s3://videos/a/**/*.m*"):
        assert [video.uri for block in read_manifest(manifest) for video in block] == both


def test_what_is_refused_or_cut_off_comes_in_the_end(gate: Gate) -> None:
    decoder = Decoder(stubs.read)
    for name in ("plain", "refused", "cut", "slow"):
        sha256 = put(f"videos/b/{name}.mp4", name)
        (video,) = next(read_manifest(f"s3://videos/b/{name}.mp4*"))
        decoded, payload = decoder.decode(video)
        assert (decoded.kind, decoded.message) == ("", "")
        assert decoded.content == sha256
        assert bytes(payload).rstrip() == name.encode()
    assert gate.trouble["refused"] == gate.trouble["cut"] == gate.trouble["slow"] == 0
    assert not list(Path(tempfile.gettempdir()).glob(f"{fetch.SCRATCH}{os.getpid()}-*"))


def test_a_download_that_fails_is_tried_again(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the client of the store has given up."""
    put("videos/flaky.mp4", "flaky")
    download, failures = fetch._download, [OSError("reset"), RuntimeError("what clients raise")]

    def flaky(*args: Any) -> str:
        if failures:
            raise failures.pop()
        return download(*args)

    monkeypatch.setattr(fetch, "_download", flaky)
    decoded, _ = Decoder(stubs.read).decode(Video("a", "s3://videos/flaky.mp4"))
    assert (decoded.kind, failures) == ("", [])
    failures += [OSError("reset")] * fetch.READ_TRIES
    assert Decoder(stubs.read).decode(Video("a", "s3://videos/flaky.mp4"))[0].message == "OSError: reset"


class Short(MemoryFileSystem):
    """Promises one byte more than it gives."""

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        found = super().info(path, **options)
        return found | {"size": found["size"] + 1}


def test_fewer_bytes_than_were_promised_are_no_video(tmp_path: Path) -> None:
    Short().pipe_file("/video.mp4", b"0123")
    with pytest.raises(OSError, match="cut off: 4 of 5 bytes"):
        fetch._download(Short(), "/video.mp4", tmp_path / "video.mp4")


def test_what_does_not_come_is_an_error_that_the_next_run_tries_again(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "READ_TRIES", 1)
    put("videos/down.mp4", "down")
    gate.trouble["down"] = 10**6
    for uri in ("s3://videos/nothing.mp4", "s3://videos/down.mp4"):
        decoded, payload = Decoder(stubs.read).decode(Video(uri, uri))
        assert decoded.kind == "fetch"
        assert payload is None
    assert "fetch" not in FINAL


def test_a_table_in_a_bucket_takes_each_part_once(gate: Gate) -> None:
    first, second = (Bulk("s3://videos/out", KEY) for _ in range(2))
    first.predictions.append([{"id": "a", "uri": "a", "configuration": KEY}])
    with pytest.raises(PartTakenError):
        second.predictions.append([{"id": "a", "uri": "a", "configuration": KEY}])
    lost = Bulk("s3://videos/lost", KEY)
    lost.predictions.append([{"id": "a", "uri": "a", "configuration": KEY}])  # confirmed only when asked again
    assert gate.trouble["lost"] == 0
    assert list(lost.predicted()) == [["a"]]
    first.write("summary.json", {"predicted": 1})
    assert first.read("summary.json") == {"predicted": 1}
