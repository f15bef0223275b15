"""What decoding a video once has told: kept in a small file, so that nobody has to decode it again to know.

The file is `.atfr-index.jsonl` in the folder of the data, or, where that cannot be written or is a link or a pipe, in
the user's cache folder (`$XDG_CACHE_HOME/atfr`, by default `~/.cache/atfr`). It holds a JSON object a line; of two on
the same video the later counts, and one that a crash has cut off is passed over. An entry counts as long as the video
has the same size and time of change. Remove the file to forget everything.
"""

import hashlib
import json
import os
import tempfile
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from atfr.data.records import VideoList
from atfr.files import named, parse_json, sha256_of

INDEX_FILE = ".atfr-index.jsonl"
VERSION = 2
"""Of what is looked for in a video: entries of another are passed over."""


@dataclass(frozen=True)
class VideoFacts:
    """What a whole decoding of a video found."""

    frames: int  # frames that decode; 0 for a file that is no video
    duration_s: float = 0.0  # the time from the first frame to the end of the last
    fps: float = 0.0  # the mean rate, frames/s
    problem: str | None = None  # "broken" where nothing decodes, "damaged" where only a part does, or None
    reason: str = ""  # what was wrong
    source: str = ""  # what the video was made of, if it was made of another: its `fingerprint`

    def __post_init__(self) -> None:
        """Refuse what an index of others may hold.

        Raises:
            TypeError: a value is of another kind.
        """
        counted = isinstance(self.frames, int) and 0 <= self.frames < 2**31
        timed = all(isinstance(number, int | float) for number in (self.duration_s, self.fps))
        said = self.problem in (None, "broken", "damaged")
        if not (counted and timed and said and all(isinstance(text, str) for text in (self.reason, self.source))):
            raise TypeError(f"no facts of a video: {self}")


class VideoIndex(AbstractContextManager["VideoIndex"]):
    """The facts of the videos of a folder; close it, or use it in a `with` statement.

    One process writes at a time.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        self.path = index_path(self.root)
        self._prefix = os.path.join(self.root, "")  # of paths as they mostly come: `relpath` takes ten times as long
        self._entries: dict[str, tuple[int, int, VideoFacts]] = {}
        self._file: TextIO | None = None
        if self.path.is_file():
            for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    entry = parse_json(line)
                    if entry.pop("version") != VERSION:
                        continue
                    path, size, mtime_ns = (entry.pop(name) for name in ("path", "size", "mtime_ns"))
                    self._entries[path] = (size, mtime_ns, VideoFacts(**entry))
                except (ValueError, TypeError, KeyError, AttributeError):
                    continue  # cut off, or of another version: that video is decoded again

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, path: Path) -> VideoFacts | None:
        """Return what is known about a video, None where nothing is or where the file has changed since."""
        size, mtime_ns, facts = self._entries.get(self._key(path), (-1, -1, None))
        if facts is None:
            return None
        try:
            now = path.stat()
        except OSError:
            return None
        return facts if (now.st_size, now.st_mtime_ns) == (size, mtime_ns) else None

    def num_frames(self, videos: VideoList) -> list[int]:
        """Return the number of frames of each sound video, 0 of another or unknown one: what `ClipDataset` takes."""
        facts = (self.get(record.path) for record in videos.records) if self._entries else ()
        return [known.frames if known and not known.problem else 0 for known in facts] or [0] * len(videos)

    def add(self, path: Path, facts: VideoFacts) -> None:
        """Write down what is known about a video, at once; nothing of one that is not there."""
        try:
            now = path.stat()
        except OSError:  # a link that leads nowhere, or removed since
            return
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            no_link = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)
            self._file = os.fdopen(no_link, "a", encoding="utf-8")
            self._file.write("\n")  # ends a line that a crash has cut off
        key = self._key(path)
        self._entries[key] = (now.st_size, now.st_mtime_ns, facts)
        entry = {"version": VERSION, "path": key, "size": now.st_size, "mtime_ns": now.st_mtime_ns, **asdict(facts)}
        with named(self.path):
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            file, self._file = self._file, None
            with named(self.path):  # it tries again to write what did not fit
                file.close()

    def _key(self, path: Path) -> str:
        inside = os.fspath(path).removeprefix(self._prefix)
        return os.path.relpath(path, self.root) if inside == os.fspath(path) else inside


def fingerprint(path: Path) -> str:
    """Return what tells a file from others and from what it was before: size, time of change, hash of the content."""
    found, now = sha256_of(path), path.stat()
    return f"{now.st_size} {now.st_mtime_ns} {found}"


def is_same(path: Path, found: str, *, by_content: bool = False) -> bool:
    """Return whether a file still has a `fingerprint`: by size and time, or else by size and content.

    Args:
        by_content: whether the content must be the same in any case.
    """
    size, _, rest = found.partition(" ")
    now = path.stat()
    if str(now.st_size) != size:
        return False
    same_time = rest.startswith(f"{now.st_mtime_ns} ")
    return (same_time and not by_content) or sha256_of(path) == found.rsplit(maxsplit=1)[-1]


def index_path(root: Path) -> Path:
    """Return where the index of a folder is: in the folder, or in the cache folder where it cannot be written."""
    beside = root / INDEX_FILE
    ours = not beside.is_symlink() and (beside.is_file() or not beside.exists())
    if ours and os.access(beside if beside.exists() else root, os.W_OK):
        return beside
    name = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
    return cache_folder() / "atfr" / f"{name}.jsonl"


def cache_folder() -> Path:
    """Return the user's cache folder; that of somebody who has no home, as in a container, is for temporary files."""
    if named_by_user := os.environ.get("XDG_CACHE_HOME"):
        return Path(named_by_user)
    try:
        return Path.home() / ".cache"
    except RuntimeError:
        return Path(tempfile.gettempdir())
