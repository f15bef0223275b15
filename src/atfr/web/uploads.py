"""Files that users send: whose they are, how many are held, and that nothing of them stays."""

import re
import secrets
import shutil
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from atfr.errors import AtfrError, InputError, VideoError
from atfr.video.spec import ClipSpec
from atfr.viz import CentredClip
from atfr.web.limits import Limits
from atfr.web.reading import read_apart

HELD = 10
"""So many of the largest files are held at most, until their turn comes."""
NAME_LENGTH = 100


class FullError(AtfrError):
    """There is no room for another file at the moment."""


@dataclass
class Sent:
    """A file that a session has sent, or is sending."""

    session: str
    size: int
    path: Path
    name: str = ""


class Inbox:
    """Holds files until their turn comes, each for the session that sent it, and reads the clip of one.

    A file is known by a token that only its sender is told; its place is named by the token alone.

    Args:
        folder: where files are held; nothing else is read or removed.
    """

    def __init__(self, folder: Path, spec: ClipSpec, limits: Limits) -> None:
        self.folder, self.spec, self.limits = folder, spec, limits
        folder.mkdir(mode=0o700, exist_ok=True)
        self._lock = threading.Lock()
        self._sent: dict[str, Sent] = {}

    def begin(self, session: str, size: int) -> str:
        """Make room for a file of so many bytes, and return its token.

        Raises:
            FullError: there is no room.
        """
        token = secrets.token_urlsafe(32)
        with self._lock:
            if sum(file.size for file in self._sent.values()) + size > HELD * self.limits.bytes:
                raise FullError("Too many videos are waiting here; try again in a few minutes.")
            self._sent[token] = Sent(session, size, self.folder / token)
        return token

    def fill(self, token: str, name: str, content: BinaryIO) -> None:
        """Keep the content of a file; of its name, only what stands behind the last slash."""
        file = self._sent[token]
        file.name = name.replace("\\", "/").rsplit("/", 1)[-1][-NAME_LENGTH:] or "video"
        ending = re.search(r"\.\w{1,8}$", file.name, re.ASCII)  # some formats are known by it alone
        file.path = self.folder / f"{token}{ending.group() if ending else ''}"
        with file.path.open("xb") as target:
            shutil.copyfileobj(content, target)

    def is_from(self, session: str, token: str) -> bool:
        """Whether this session has sent the file, and it is still here."""
        file = self._sent.get(token)
        return file is not None and file.session == session

    def forget(self, token: str) -> None:
        """Remove a file, if it is still here."""
        with self._lock:
            if file := self._sent.pop(token, None):
                file.path.unlink(missing_ok=True)

    def take(self, token: str) -> CentredClip:
        """Return the centred clip of a file, which is removed whatever comes of it; its path is the bare name.

        Raises:
            VideoError: the file is no video.
            InputError: it is too long or too large, or is not here any more.
        """
        file = self._sent.get(token)
        if file is None:
            raise InputError("the file is not here any more; send it again")
        try:
            return replace(self._read(file), path=Path(file.name))
        finally:
            self.forget(token)

    def _read(self, file: Sent) -> CentredClip:
        """Return the clip of a file, in whose messages the bare name stands for its place."""
        try:
            clip = read_apart(file.path, self.spec, self.limits)
        except (InputError, VideoError) as error:
            raise type(error)(str(error).replace(str(file.path), file.name)) from error
        return replace(clip, warning=clip.warning and clip.warning.replace(str(file.path), file.name))
