"""The states of a training on disk: each written whole or not at all, and found again after any sudden end.

out/last.ckpt       after the last whole epoch
out/previous.ckpt   after the epoch before it, for when the last one is damaged
"""

import contextlib
import os
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from atfr.errors import CheckpointError
from atfr.files import named
from atfr.weights.checkpoint import differences

RESUME, PREVIOUS, DAMAGED = "last.ckpt", "previous.ckpt", "damaged.ckpt"
ARGUMENTS = "atfr_arguments"
"""Where a state keeps what its training was started with."""

State = dict[str, Any]
BROKEN = (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, ValueError, OSError, AttributeError)
"""What torch raises, and what is missing, where a file is no such state."""


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its place, down to the disk, and then moves it there; the last becomes the previous.

    Lightning's own writes beside the place too, but Ctrl-C may get lost there in a finaliser, and it keeps one file.
    """

    def save_checkpoint(self, checkpoint: State, path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint whole or not at all."""
        path = Path(path)
        scratch = path.with_name(f".{path.name}.tmp")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with named(path), scratch.open("wb") as file:
                try:
                    torch.save(checkpoint, file)
                except RuntimeError as error:  # of torch's writer, which ends by one of its own
                    if isinstance(cause := error.__context__, OSError):
                        raise cause from None
                    raise
                file.flush()
                os.fsync(file.fileno())
            if path.name == RESUME and path.exists():
                keep_as_previous(path)
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)


def keep_as_previous(last: Path) -> None:
    """Let the last state be the previous one too; where there are no hard links it is moved, and is last no more."""
    previous, link = last.with_name(PREVIOUS), last.with_name(f".{PREVIOUS}.tmp")
    link.unlink(missing_ok=True)
    try:
        os.link(last, link)
        link.replace(previous)
    except OSError:
        last.replace(previous)
    finally:
        link.unlink(missing_ok=True)  # still there if both are the last one already


def is_started(out: Path) -> bool:
    """Whether a folder holds a training to go on with."""
    return any((out / name).exists() for name in (RESUME, PREVIOUS))


def read_state(path: Path) -> tuple[Path, State]:
    """Return where the newest readable state is, and the state: at `path`, or else, with a warning, the one before.

    A damaged last one is renamed, so that it does not become the previous one.

    Raises:
        CheckpointError: there is none, or it is damaged or unsafe to load.
    """
    try:
        return path, _read(path)
    except CheckpointError as error:
        previous = path.with_name(PREVIOUS)
        if path.name != RESUME or not previous.is_file():
            raise
        state = _read(previous)
        warnings.warn(f"{error}; going on from '{previous}', after epoch {state['epoch']}", stacklevel=3)
    with contextlib.suppress(FileNotFoundError):
        path.replace(path.with_name(DAMAGED))
    return previous, state


def _read(path: Path) -> State:
    if not path.is_file():
        raise CheckpointError(f"there is no '{path}' to resume from; train without resuming")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        int(state["epoch"]), state["state_dict"].keys()
    except BROKEN as error:
        raise CheckpointError(
            f"'{path}' is damaged, no checkpoint of `atfr train`, or holds code, which is not loaded: "
            f"{str(error).splitlines()[0]}"
        ) from error
    return state


def check_state(path: Path, state: State, weights: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> None:
    """Refuse a state of another network, or of a training with other arguments.

    Raises:
        CheckpointError: it names the first weight, or all arguments, that differ.
    """
    saved = state["state_dict"]
    for name in sorted(weights.keys() | saved.keys()):
        found, wanted = (tuple(d[name].shape) if name in d else None for d in (saved, weights))
        if found != wanted:
            raise CheckpointError(
                f"'{path}' is of another network: {name} is {found or 'missing'} there and {wanted or 'missing'} in "
                "this one; resume with the arguments of the training that wrote it"
            )
    changes = differences(arguments, state.get(ARGUMENTS, arguments))
    differing = [f"{name} was {before!r} and is {now!r}" for name, now, before in changes]
    if differing:
        raise CheckpointError(
            f"'{path}' is of a training with other arguments: {'; '.join(differing)}; resume with those that it began "
            "with, or train anew in another folder"
        )
