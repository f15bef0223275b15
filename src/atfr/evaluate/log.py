"""log: predictions in a file as they come, so that a run over an archive that is interrupted goes on where it was."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from atfr.checks import Precision
from atfr.errors import InputError, VideoError
from atfr.evaluate.predict import Prediction
from atfr.evaluate.task import Task
from atfr.files import finite, named, parse_json

if TYPE_CHECKING:
    from atfr.models import VideoModel


def identity(model: "VideoModel", task: Task) -> str:
    """Return a hash of a network's weights and settings and of its labels: a folder may hold another one tomorrow."""
    what = [model.config, replace(task, views=None).to_dict()]  # when views stop is told beside it
    found = hashlib.sha256(json.dumps(what, sort_keys=True).encode())
    for name, tensor in model.state_dict().items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def computed_in(precision: Precision) -> dict[str, str]:
    """Return what a precision adds to what predictions depend on; float32, the rule, nothing."""
    return {} if precision == "float32" else {"precision": precision}


BEGINNING = b'{"path": "'
"""Of every line."""

SOMETIMES = ("precision", "settled", "most_views")
"""What stands in the lines of some networks and views only; `views` is then what was computed."""


def entries_in(
    lines: Iterable[bytes], path: Path, made_by: Mapping[str, Any], remedy: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the bytes of each line of a file of predictions, and what it says; not of one that a crash has cut off.

    Raises:
        InputError: a line is none, or was made by something else.
    """
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n") and BEGINNING.startswith(line[: len(BEGINNING)]):
            return
        try:
            entry = parse_json(line)
            found = {name: entry[name] for name in {*made_by, *SOMETIMES} if name in entry}
            _ = entry["path"], entry["error"]  # which every line has
        except (ValueError, KeyError, TypeError) as error:
            what = f"line {number} of '{path}' is no prediction ({type(error).__name__}: {error})"
            raise InputError(f"{what}; {remedy}") from error
        if found != made_by:
            differing = [name for name in {**made_by, **found} if made_by.get(name) != found.get(name)]
            other, asked = ({name: of.get(name) for name in differing} for of in (found, made_by))
            raise InputError(f"'{path}' has predictions of {other}, not of {asked}; {remedy}")
        yield len(line), entry


class PredictionLog(AbstractContextManager["PredictionLog"]):
    """A file of predictions, a JSON object a line; close it, or use it in a `with` statement.

    Each line is written when its video is done. A line that a crash has cut off is removed. One process writes at a
    time: a second is refused.

    Args:
        path: the file; its folder is made.
        made_by: what else the predictions depend on, plain JSON values; it stands in each line.

    Attributes:
        done: the paths of the videos that are predicted already. One that did not decode is not among them: the next
            run tries again, and of two lines on a path the later counts.

    Raises:
        InputError: the file is no such file, was made by something else, or another process is writing to it.
        OSError: it cannot be read or written.
    """

    def __init__(self, path: str | os.PathLike[str], made_by: Mapping[str, Any]) -> None:
        self.path, self.made_by = Path(path), dict(made_by)
        self.done: set[str] = set()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists() and not self.path.is_file():
            raise InputError(f"expected a file for predictions, but '{self.path}' is a folder, a pipe or a device")
        self._file = self.path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._file.truncate(self._read())
        except BlockingIOError:
            self._file.close()
            raise InputError(f"another process writes predictions to '{self.path}': wait, or give a new file") from None
        except BaseException:
            self._file.close()
            raise

    def _read(self) -> int:
        """Take up what is there, and return the bytes that whole lines take."""
        self._file.seek(0)
        end = 0
        for size, entry in entries_in(self._file, self.path, self.made_by, "give a new file"):
            end += size
            if entry["error"] is None:
                self.done.add(entry["path"])
        return end

    def left(self, paths: Iterable[Path]) -> list[Path]:
        """Return the videos that are not predicted yet, each once."""
        return [path for path in dict.fromkeys(paths) if str(path) not in self.done]

    def add(self, prediction: Prediction) -> None:
        """Write a prediction."""
        self._write(prediction.to_dict() | {"error": None})
        self.done.add(str(prediction.path))

    def add_failed(self, path: Path, error: VideoError) -> None:
        """Write that a video does not decode."""
        self._write({"path": str(path), "error": str(error)})

    def _write(self, entry: dict[str, Any]) -> None:
        with named(self.path):
            self._file.write(json.dumps(finite(entry | self.made_by), allow_nan=False).encode() + b"\n")
            self._file.flush()

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        with named(self.path):  # it tries again to write what did not fit
            self._file.close()
