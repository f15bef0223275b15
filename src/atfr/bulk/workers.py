"""The two kinds of workers, each a process of its own: decoders read videos, runners have the network.

They know nothing of Ray: the engine makes actors of them.
"""

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from atfr.bulk.fetch import clear_scratch, fetched
from atfr.bulk.manifest import Video
from atfr.errors import VideoError

Payload = Any
"""What a decoder hands to a runner: arrays, which travel without being copied on the same machine."""
Read = Callable[[os.PathLike[str]], tuple[Payload, int]]
"""Decodes a file: what the network needs of it, and how many bytes that is; raises VideoError."""
Network = Callable[[Sequence[Payload]], list[dict[str, Any]]]
"""Makes a row of each video."""


@dataclass(frozen=True)
class Decoded:
    """What a decoder says of a video, beside the payload."""

    content: str | None  # the SHA-256 of its bytes
    # of what went wrong: "video" (it does not decode) or "fetch" (its bytes do not come); "" where nothing did
    kind: str = ""
    message: str = ""  # what went wrong
    num_bytes: int = 0  # of the payload
    seconds: float = 0.0  # that decoding took, with no time spent waiting for the bytes


@dataclass(frozen=True)
class Ran:
    """What a runner says of some videos."""

    rows: list[dict[str, Any]]  # one of each
    seconds: float  # that the network took
    ceiling_s: float  # what a video takes where nothing is decoded: measured once, on the first ones, run again


class Worker:
    """What both kinds can do: say where they are, and be waited for."""

    def where(self) -> tuple[str, int]:
        """Return the node and the process that this is, once it is ready."""
        import ray

        return ray.get_runtime_context().get_node_id(), os.getpid()

    def watch(self) -> None:
        """Never return: who waits for it learns of the end of the process."""
        threading.Event().wait()


class Decoder(Worker):
    """Reads videos, one at a time; the bytes of the next come meanwhile."""

    def __init__(self, read: Read) -> None:
        clear_scratch()
        self.read = read
        self.turn = threading.Lock()

    def decode(self, video: Video) -> tuple[Decoded, Payload]:
        """Return the payload of a video, or why there is none."""
        content = None
        try:
            with fetched(video.uri) as (path, content), self.turn:
                start_s = time.perf_counter()
                try:
                    payload, num_bytes = self.read(path)
                except VideoError as error:
                    message = str(error).replace(str(path), video.uri)
                    return Decoded(content, "video", message, seconds=time.perf_counter() - start_s), None
                return Decoded(content, num_bytes=num_bytes, seconds=time.perf_counter() - start_s), payload
        except OSError as error:
            return Decoded(content, "fetch", f"{type(error).__name__}: {error}"), None


class Runner(Worker):
    """Has a network, and runs it on what decoders hand over."""

    def __init__(self, make_network: Callable[[], Network]) -> None:
        self.network = make_network()
        self.turn = threading.Lock()
        self.ceiling_s = 0.0

    def run(self, *payloads: Payload) -> Ran:
        """Make a row of each video."""
        with self.turn:
            rows, seconds = self._timed(payloads)
            if not self.ceiling_s:  # the first pass has set up what later ones find
                self.ceiling_s = self._timed(payloads)[1] / len(payloads)
            return Ran(rows, seconds, self.ceiling_s)

    def _timed(self, payloads: Sequence[Payload]) -> tuple[list[dict[str, Any]], float]:
        start_s = time.perf_counter()
        rows = self.network(payloads)
        return rows, time.perf_counter() - start_s
