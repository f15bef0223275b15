"""What files declare is no evidence against them, and fills no memory; where they end is known undecoded."""

import os
import resource
import struct
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from atfr.errors import VideoError
from atfr.video.declared import declared_samples, is_cut_off
from atfr.video.decode import decode
from atfr.video.file import VideoFile
from tests.video.video_files import ramp_video, write_video

HOURS = 25 * 3600 * 3
GAPS = {
    "skipped.avi": ("mpeg4", [0, 1, 2, 3, 9, 10, 30, 31, 32, 60, 61, 62]),
    "a minute.avi": ("mpeg4", [0, 1, 2, 3, 4, 5, 1500, 1501, 1502, 1503, 1504, 1505]),
    "a minute.mp4": ("libx264", [0, 1, 2, 3, 4, 5, 1500, 1501, 1502, 1503, 1504, 1505]),
    "rate.webm": ("libvpx", [0, 1, 2, 3, 9, 10, 30, 31, 32, 60, 61, 62]),
    "hours.mp4": ("libx264", [*range(9), HOURS, HOURS + 1, HOURS + 2]),
    "hours.mkv": ("libx264", [*range(9), HOURS, HOURS + 1, HOURS + 2]),
}
CODECS = {"mp4": "libx264", "mov": "libx264", "mkv": "libx264", "webm": "libvpx", "avi": "mpeg4"}
LEAN = 200_000_000


@pytest.mark.parametrize("name", GAPS)
def test_frames_that_are_left_out_are_not_missed(name: str, tmp_path: Path) -> None:
    codec, pts = GAPS[name]
    path = write_video(tmp_path / name, ramp_video(12), codec=codec, pts=pts)
    frames = decode(path, max_bytes=12 * 48 * 64 * 3)
    assert (len(frames), frames.warning) == (12, None)
    assert frames.pts_s.diff().max() == pytest.approx(np.diff(pts).max() / 25, abs=1e-3)
    video = VideoFile(path)
    assert (len(video), video.warning) == (12, None)


def test_a_lossless_trim_has_the_frames_that_are_shown(tmp_path: Path) -> None:
    """An edit list leaves the frames out between the key frame before the cut and the cut; they are declared."""
    whole = write_video(tmp_path / "whole.mp4", ramp_video(60), codec="libx264", gop_size=60)
    with av.open(str(whole)) as source, av.open(str(tmp_path / "trim.mp4"), "w") as target:
        stream = source.streams.video[0]
        copied = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.size:
                packet.pts, packet.dts = (ticks - round(2 / stream.time_base) for ticks in (packet.pts, packet.dts))
                packet.stream = copied
                target.mux(packet)
    with av.open(str(tmp_path / "trim.mp4")) as container:
        assert container.streams.video[0].frames == 60
    frames = decode(tmp_path / "trim.mp4")
    assert (len(frames), frames.warning) == (10, None)
    assert VideoFile(tmp_path / "trim.mp4").take(torch.tensor([9]))[0, 0].float().mean() > 200


@pytest.mark.parametrize("ending", CODECS)
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_file_that_is_cut_off_is_told_from_a_whole_one(ending: str, share: float, tmp_path: Path) -> None:
    path = write_video(
        tmp_path / f"v.{ending}",
        np.random.default_rng(0).integers(0, 255, (40, 48, 64, 3), np.uint8),
        codec=CODECS[ending],
    )
    assert not is_cut_off(path)
    assert decode(path).warning is None
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert is_cut_off(path)
    assert "truncated" in (decode(path).warning or "")


def boxes(kind: bytes, *content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + sum(map(len, content)), kind) + b"".join(content)


def trap(table: bytes, handler: bytes = b"vide") -> bytes:
    """A file of a few bytes with this table of samples."""
    stbl = boxes(b"stbl", table)
    media = boxes(b"mdia", boxes(b"hdlr", bytes(8), handler, bytes(13)), boxes(b"minf", stbl))
    return boxes(b"ftyp", b"isom", bytes(4)) + boxes(b"moov", boxes(b"trak", media)) + boxes(b"mdat", bytes(64))


MANY = 50_000_000
SIZES = boxes(b"stsz", struct.pack(">III", 0, 1, MANY))
TRUN = boxes(b"trun", struct.pack(">II", 0, MANY))
BRAND = boxes(b"ftyp", b"isom", bytes(4))
STTS_SOUND = boxes(b"stts", struct.pack(">IIII", 0, 1, MANY, 1))
TRAPS = {
    "sizes": trap(SIZES),
    "compact sizes": trap(boxes(b"stz2", struct.pack(">III", 0, 4, MANY))),
    "durations": trap(boxes(b"stts", struct.pack(">IIIIII", 0, 2, 1, 1, MANY, 512))),
    "offsets": trap(boxes(b"ctts", struct.pack(">IIII", 0, 1, MANY, 512))),
    "sound": trap(SIZES, b"soun"),
    "sound of two durations": trap(boxes(b"stts", struct.pack(">IIIIII", 0, 2, 1, 1, MANY, 1)), b"soun"),
    "fragment": BRAND + boxes(b"moof", boxes(b"traf", TRUN)),
    "a box of 64-bit size": BRAND + struct.pack(">I4sQ", 1, b"moov", 16 + 88)
    + trap(SIZES)[24:],
    "a box up to the end": struct.pack(">I4s", 0, b"moov") + trap(SIZES)[24:],
}  # fmt: skip


@pytest.mark.parametrize("name", TRAPS)
def test_more_samples_than_bytes_are_refused_before_the_table_is_made(name: str, tmp_path: Path) -> None:
    path = tmp_path / "trap.mp4"
    path.write_bytes(TRAPS[name])
    assert declared_samples(path) >= MANY
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (decode, lambda it: len(VideoFile(it))):
        with pytest.raises(VideoError, match=r"declares 5000000[01] samples in"):
            read(path)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < LEAN


def test_sound_that_is_counted_in_chunks_is_no_trap(tmp_path: Path) -> None:
    """Of such, FFmpeg keeps an entry a chunk; compressed, a sample takes less than a byte (IMA4: 34 for 64)."""
    path = tmp_path / "old.mov"
    path.write_bytes(trap(STTS_SOUND + SIZES, b"soun"))
    assert declared_samples(path) == 0


@pytest.mark.parametrize(
    "content", [b"", b"RIFF", b"\x1a\x45\xdf\xa3", b"\x1a\x45\xdf\xa3\x01", b"\0\0\0\1moov\0", b"\0\0\0\x10ftypisom"]
)
def test_what_is_too_short_tells_nothing(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "short"
    path.write_bytes(content)
    assert declared_samples(path) == 0
    is_cut_off(path)


def test_bytes_at_random_tell_something_or_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = bytearray(TRAPS["sizes"])
    path = tmp_path / "random.mp4"
    for _ in range(300):
        content = whole.copy()
        for place in rng.integers(8, len(content), 4):
            content[place] = rng.integers(256)
        path.write_bytes(content[: rng.integers(8, len(content) + 1)])
        declared_samples(path)
        is_cut_off(path)


def test_what_may_never_end_is_refused_at_once(tmp_path: Path) -> None:
    """A pipe that nobody writes to, and a device without an end."""
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "device.mp4").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe.mp4", tmp_path / "device.mp4"):
        for read in (decode, lambda it: len(VideoFile(it))):
            with pytest.raises(VideoError, match="is a pipe or a device"):
                read(path)
