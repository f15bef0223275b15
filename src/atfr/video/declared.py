"""What a video file says of itself before FFmpeg reads it: where it ends, and how many samples it has.

FFmpeg makes a table of as many samples as a file of MP4's family declares, though a sample takes a byte of the file at
least; and it does not tell of every file that it is cut off. Files of MP4's family (ISO/IEC 14496-12), AVI (RIFF) and
Matroska (RFC 9559) are looked at here, no others.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

TOP_BOXES = frozenset(b"ftyp moov mdat free skip wide pnot styp sidx moof mfra uuid meta".split())
CONTAINERS = frozenset(b"moov trak mdia minf stbl moof traf".split())
COUNT_AT = {b"stsz": 8, b"stz2": 8, b"trun": 4}
"""Where in a box its number of samples is; `stts` and `ctts` have one in each of their entries."""
MAX_DEPTH = 10
MAX_BOXES = 100_000
"""Of one level; more are not looked at."""
UNKNOWN_RIFF = 0x7FFF_FFFF
"""A recorder that was stopped leaves sizes from here on, or 0."""
PADDING = 8
"""A file may be so many bytes shorter than it says, and whole."""
MATROSKA, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def is_cut_off(path: Path) -> bool:
    """Return whether the file ends before the end that it declares."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(4096)
        if head[:4] == b"RIFF":
            declared = int.from_bytes(head[4:8], "little")
            end = declared + 8 if declared < UNKNOWN_RIFF else 0
        elif head[:4] == MATROSKA:
            end = _segment_end(head)
        elif head[4:8] in TOP_BOXES:
            end = max((behind for kind, _, behind in _boxes(file, 0, size) if kind in TOP_BOXES), default=0)
        else:
            return False
    return end > size + PADDING


def declared_samples(path: Path) -> int:
    """Return the largest number of samples that an MP4 file declares for a track or fragment; 0 of other files."""
    size = path.stat().st_size
    with path.open("rb") as file:
        return max(_counts(file, 0, size), default=0) if file.read(8)[4:] in TOP_BOXES else 0


def _counts(file: BinaryIO, start: int, end: int, depth: int = 0) -> Iterator[int]:
    """Yield what each table declares, but for sound whose samples FFmpeg does not tell apart (a single duration, 1)."""
    sound = False
    for kind, body, behind in _boxes(file, start, end):
        if kind in CONTAINERS and depth < MAX_DEPTH:
            if not (kind == b"minf" and sound and _durations(file, body, behind) == [1]):
                yield from _counts(file, body, min(behind, end), depth + 1)
        elif kind == b"hdlr":
            sound = _read(file, body + 8, 4) == b"soun"
        elif kind in COUNT_AT:
            yield int.from_bytes(_read(file, body + COUNT_AT[kind], 4), "big")
        elif kind in (b"stts", b"ctts"):
            yield int(_entries(file, body, behind)[:, 0].sum(dtype=np.int64))


def _durations(file: BinaryIO, start: int, end: int) -> list[int]:
    """Return the durations of the entries of the `stts` in a `minf`."""
    for kind, body, behind in _boxes(file, start, end):
        if kind == b"stbl":
            return _durations(file, body, behind)
        if kind == b"stts":
            return _entries(file, body, behind)[:, 1].tolist()
    return []


def _entries(file: BinaryIO, body: int, behind: int) -> np.ndarray:
    """Return the pairs of numbers in an `stts` or `ctts`."""
    entries = np.frombuffer(_read(file, body + 8, max(0, behind - body - 8)), ">u4")
    return entries[: 2 * int.from_bytes(_read(file, body + 4, 4), "big")][: len(entries) // 2 * 2].reshape(-1, 2)


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the type of each box that begins here, where its content begins, and where it should end."""
    for _ in range(MAX_BOXES):
        header = _read(file, start, 16)
        if start + 8 > end or len(header) < 8:
            return
        length, body = int.from_bytes(header[:4], "big"), start + 8
        if length == 1:
            length, body = int.from_bytes(header[8:], "big"), start + 16
        elif length == 0:
            length = end - start
        if length < body - start:
            return
        yield header[4:8], body, start + length
        start += length


def _read(file: BinaryIO, place: int, length: int) -> bytes:
    file.seek(place)
    return file.read(length)


def _segment_end(head: bytes) -> int:
    """Return where the first segment of a Matroska file should end, 0 where it does not say."""
    header, body = _length(head, 4)
    if header is None or head[body + header : body + header + 4] != SEGMENT:
        return 0
    length, start = _length(head, body + header + 4)
    return 0 if length is None else start + length


def _length(head: bytes, place: int) -> tuple[int | None, int]:
    """Read a length of variable size: its value, None where it is unknown, and where what it measures begins."""
    size = 9 - head[place].bit_length() if place < len(head) and head[place] else 8
    value = int.from_bytes(head[place : place + size], "big") & ((1 << 7 * size) - 1)
    return (None if value == (1 << 7 * size) - 1 else value), place + size
