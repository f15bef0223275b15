"""Decode files that are named on stdin, one a line, and answer with a line of JSON each. Run by `pool.py`."""

import json
import random
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch

from atfr.errors import VideoError
from atfr.video.container import open_video
from atfr.video.decode import decode
from atfr.video.file import VideoFile

MAX_BYTES = 256 * 2**20
LEFTOVERS = frozenset({"ffv1", "huffyuv", "mjpeg", "prores"})
"""Decoders that show what memory held before where a frame is damaged, some without a word: no two decodings agree."""


def peak_mb() -> float:
    """The most memory that this process held since `forget_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0


def memory_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def attempt(path: Path) -> dict[str, Any]:
    """Decode a file in full and in parts, and say what came of it."""
    try:
        frames = decode(path, shorter_side=32, max_bytes=MAX_BYTES)
    except VideoError as error:
        message = str(error)
        sound = str(path) in message and "\n" not in message
        return {"outcome": "refused" if sound else "unclear message", "reason": message}
    count = len(frames)
    if not (torch.isfinite(frames.pts_s).all() and (frames.pts_s.diff() > 0).all() and frames.pts_s[0] >= 0):
        return {"outcome": "wrong times", "reason": str(frames.pts_s)}
    with open_video(path, 1) as (_, stream):
        repeatable = frames.warning is None and stream.codec_context.name not in LEFTOVERS
    whole = VideoFile(path, shorter_side=32)
    chosen = random.Random(path.name)
    if len(whole) != count or whole.warning != frames.warning:
        return {"outcome": "another count or warning", "reason": f"{len(whole)} of {count}, {whole.warning}"}
    for number in range(4):
        start = chosen.randrange(count)
        indices = torch.arange(start, min(count, start + 8), 2)
        known = None if frames.warning else count
        file = whole if number == 0 else VideoFile(path, shorter_side=32, num_frames=known)
        if not torch.equal(file.take(indices), frames.data[indices]) and repeatable:
            return {"outcome": "other frames", "reason": f"frames {indices.tolist()} of {count}, {frames.warning}"}
    if frames.warning:
        return {"outcome": "used in part", "reason": frames.warning}
    return {"outcome": "used", "reason": ""}


def main() -> None:
    torch.set_num_threads(1)
    limit = int(sys.argv[1]) * 2**20
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    print("ready", flush=True)
    for line in sys.stdin:
        before, start = memory_mb(), time.perf_counter()
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        try:
            found = attempt(Path(line.rstrip("\n")))
        except Exception as error:
            found = {"outcome": "unexpected error", "reason": f"{type(error).__name__}: {error}"}
        print(json.dumps(found | {"seconds": time.perf_counter() - start, "peak_mb": peak_mb() - before}), flush=True)


if __name__ == "__main__":
    main()
