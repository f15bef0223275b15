"""Checks of arguments: what was expected, what came, and the nearest that would do."""

import difflib
import importlib.metadata
import math
import operator
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from atfr.errors import InputError

if TYPE_CHECKING:
    import torch

Choice = TypeVar("Choice", bound=str)

Precision = Literal["float32", "bfloat16"]
"""What a network computes in."""


def one_of(name: str, value: Choice, choices: Sequence[str]) -> Choice:
    """Return the value when it is among the choices; else raise an InputError that suggests the nearest."""
    if value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}{hint}")
    return value


def whole_number(value: object) -> int | None:
    """Return an integer as an int, of whatever library it is, and None for all else."""
    try:
        return None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def at_least_one(name: str, value: int) -> int:
    """Return the value when it is an integer of at least 1; else raise an InputError."""
    if (whole := whole_number(value)) is None or whole < 1:
        raise InputError(f"{name} must be an integer of at least 1, got {value!r}")
    return whole


def processes(name: str, value: int) -> int:
    """Return a number of processes when it is from 0 to 1024; else raise an InputError: more would stop the machine."""
    return int(in_range(name, not_negative(name, value), 0, 1024))


def not_negative(name: str, value: int) -> int:
    """Return the value when it is an integer of at least 0; else raise an InputError."""
    if (whole := whole_number(value)) is None or whole < 0:
        raise InputError(f"{name} must be an integer of at least 0, got {value!r}")
    return whole


def in_range(name: str, value: float, least: float, most: float) -> float:
    """Return a number when it lies between two others; else raise an InputError."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not least <= value <= most or not math.isfinite(value):
        bounds = f"from {least:g} to {most:g}" if math.isfinite(most) else f"of at least {least:g}"
        raise InputError(f"{name} must be a number {bounds}, got {value!r}")
    return float(value)


def version_of(package: str) -> str | None:
    """Return the installed version of a package, if it is installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def device_of(name: str, device: str) -> "torch.device":
    """Return the device that is meant, if it can be used; auto is a GPU where there is one, under torchrun one's own.

    Raises:
        InputError: it cannot.
    """
    import torch

    if device == "auto":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
        if found.type == "meta":
            raise RuntimeError("it holds no numbers")
        torch.zeros(1, device=found)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"{name} {device!r} cannot be used: {str(error).splitlines()[0]}") from error
    return found


def has_bfloat16(device: "torch.device") -> bool:
    """Whether a device computes in bfloat16; a processor without it takes tens of times as long as in float32."""
    return device.type != "cpu" or bool(re.search(r"\w*bf16\b", cpuinfo() or "bf16"))


def cpuinfo() -> str:
    """Return what Linux says of the processor; nothing elsewhere."""
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
