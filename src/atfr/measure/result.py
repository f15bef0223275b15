"""Result files: what was measured, of what, by which command, under which conditions, whole or not at all."""

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from atfr.files import read_json, write_json
from atfr.measure.machine import Limits, conditions, machine_limits


def write_result(
    path: str | os.PathLike[str] | None,
    results: Mapping[str, Any],
    *,
    inputs: Mapping[str, Any],
    limits: Limits | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Write what was measured as JSON, with the conditions and the machine's limits; return what was written.

    Args:
        path: the file; None writes nothing. Its folder is made.
        results: plain JSON values (`Timing.to_dict`, `Ratio.to_dict`).
        inputs: what was measured: networks, clip shapes, batches, seeds, files.
        limits: of this run; measured now where there are none.
    """
    report = {
        "command": command(),
        "inputs": dict(inputs),
        "conditions": conditions(device),
        "limits": (limits or machine_limits(device)).to_dict(),
        "results": dict(results),
    }
    if path is not None:
        write_json(Path(path), report, indent=1)
    return report


def is_result(path: Path) -> bool:
    """Say whether `write_result` has written a file."""
    try:
        report = read_json(path)
    except (OSError, ValueError):
        return False
    return isinstance(report, dict) and report.keys() == {"command", "inputs", "conditions", "limits", "results"}


def command() -> str:
    """Return the command line of this process, without the folders of its program."""
    program = Path(sys.argv[0])
    if program.suffix != ".py":
        return shlex.join([program.name, *sys.argv[1:]])
    place = program.resolve()
    return shlex.join(["python", f"{place.parent.name}/{place.name}", *sys.argv[1:]])
