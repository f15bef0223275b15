"""Decode what strangers send in a process of its own, with limits of time and of memory."""

import io
import signal
import sys
import threading
from dataclasses import replace
from multiprocessing import active_children, forkserver, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from atfr.errors import InputError, VideoError
from atfr.video.spec import ClipSpec
from atfr.video.transforms import CentredClip, centred_clip
from atfr.web.limits import Limits, check_video

SECONDS = 60
MEMORY = 2 * 2**30
"""A video may take so many bytes beyond what the process has when it starts: 4096 x 4096 pixels take the half."""
CONTEXT = get_context("forkserver")
ENDED = threading.Event()


def prepare() -> None:
    """Start the process that others are forked from: it has imported what reading needs, and has read nothing."""
    ENDED.clear()
    CONTEXT.set_forkserver_preload([__name__])
    forkserver.ensure_running()


def end() -> None:
    """Read nothing any more, and end what is read."""
    ENDED.set()
    for process in active_children():
        process.kill()


def read_apart(
    path: Path, spec: ClipSpec, limits: Limits, seconds: float = SECONDS, memory: int = MEMORY
) -> CentredClip:
    """Return the centred clip of a video that a process of its own decodes.

    Raises:
        VideoError: the file is no video, or decoding it takes too long or too much memory.
        InputError: it is beyond a limit.
    """
    ours, theirs = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_answer, args=(theirs, memory, path, spec, limits), daemon=True)
    with ours:
        try:
            with theirs:
                process.start()
            if ENDED.is_set():
                raise VideoError(f"'{path}' was not read, as the page has ended")
            if not ours.poll(seconds):
                raise VideoError(
                    f"'{path}' takes more than {seconds:g} seconds to decode; send a shorter or smaller one"
                )
            found = torch.load(io.BytesIO(ours.recv_bytes()), weights_only=True)
        except (EOFError, OSError) as error:
            raise VideoError(f"'{path}' makes the decoder fail; send it again, or in another format") from error
        finally:
            if process.pid is not None:
                process.kill()
                process.join()
    if "refused" in found:
        raise {"VideoError": VideoError, "InputError": InputError}[found["refused"]](found["text"])
    return CentredClip(path=path, **found)


def _answer(pipe: Connection, memory: int, path: Path, spec: ClipSpec, limits: Limits) -> None:
    """Send what is in a file, or why it is not taken."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's, which ends this process
    _hold_back(memory)
    out = io.BytesIO()
    torch.save(_read(path, spec, limits), out)
    pipe.send_bytes(out.getvalue())


def _read(path: Path, spec: ClipSpec, limits: Limits) -> dict[str, Any]:
    try:
        check_video(path, limits)
        clip = centred_clip(path, spec)
    except (InputError, VideoError) as error:
        return {"refused": type(error).__name__, "text": str(error)}
    except (MemoryError, RuntimeError):
        return {"refused": "VideoError", "text": f"'{path}' takes too much memory to decode; save it smaller"}
    found = replace(clip, clips=clip.clips.contiguous())
    return {name: getattr(found, name) for name in ("clips", "numbers", "video_frames", "warning")}


def _hold_back(memory: int) -> None:
    """Limit this process, where the system can: memory, seconds of work, and no file is written."""
    if sys.platform != "linux":
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + memory
    for kind, value in (
        (resource.RLIMIT_AS, most),
        (resource.RLIMIT_CPU, SECONDS),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (value, value))
