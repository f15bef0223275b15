"""Rows of a CSV file that several processes fill, and what they were made with; for the studies beside this file."""

import csv
import fcntl
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

import atfr


def find(path: Path, key: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the rows of a file that have all of these values."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if all(row[name] == str(value) for name, value in key.items())]


def append(path: Path, columns: Iterable[str], row: Mapping[str, Any]) -> None:
    """Append a row in one piece, also where several processes do."""
    with path.open("a", newline="", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        writer = csv.DictWriter(file, list(columns), lineterminator="\n")
        if file.seek(0, 2) == 0:
            writer.writeheader()
        writer.writerow(row)


@cache
def versions() -> str:
    """Return what the figures are made with."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return f"atfr {atfr.__version__} {commit.stdout.strip()} torch {torch.__version__}"
