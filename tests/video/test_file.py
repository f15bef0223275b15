"""Frames taken from a file are, bit for bit, those of a full decode: any frames, any file, seeking or not."""

import itertools
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from atfr.errors import InputError, VideoError
from atfr.video import file as file_module
from atfr.video.decode import decode
from atfr.video.file import VideoFile
from atfr.video.seeking import NotExactError, seek_frames
from tests.video.test_decode import REAL, REAL_FRAMES
from tests.video.video_files import set_display_matrix, write_video

FRAMES = 60


def moving(frames: int = FRAMES, height: int = 48, width: int = 64) -> np.ndarray:
    """A textured square that moves over noise, so that every frame differs and frames lean on each other."""
    rng = np.random.default_rng(0)
    video = np.repeat(rng.integers(0, 80, (1, height, width, 3), dtype=np.uint8), frames, 0)
    square = rng.integers(100, 255, (16, 16, 3), dtype=np.uint8)
    for i in range(frames):
        video[i, i % 30 : i % 30 + 16, (2 * i) % 48 : (2 * i) % 48 + 16] = square + i % 7
    return video


@pytest.fixture
def seeks(monkeypatch: pytest.MonkeyPatch) -> dict[bool, int]:
    """How often seeking gave the frames (True), and how often it was refused (False)."""
    counts = {True: 0, False: 0}

    def counting(*arguments: object) -> Iterator[av.VideoFrame]:
        try:
            yield from seek_frames(*arguments)
            counts[True] += 1
        except NotExactError:
            counts[False] += 1
            raise

    monkeypatch.setattr(file_module, "seek_frames", counting)
    return counts


def assert_every_window_is_exact(path: Path, step: int = 1, **how: object) -> None:
    full = decode(path, **how)
    count = len(full)
    assert len(VideoFile(path)) == count
    everything = VideoFile(path, **how)
    assert torch.equal(everything.take(torch.arange(count)), full.data)
    assert everything.warning == full.warning
    windows = [torch.arange(start, min(start + 9, count), 2) for start in range(0, count, step)]
    apart = torch.tensor([0, count // 3, count - 1]).unique()
    for indices in (*windows, apart):
        assert torch.equal(VideoFile(path, num_frames=count, **how).take(indices), full.data[indices]), indices


X264 = {"bf": "3", "g": "12", "keyint_min": "12", "sc_threshold": "0", "preset": "fast"}
SOUND = {
    "B-frames": ("b.mp4", "libx264", X264, None),
    "open GOP": ("o.mp4", "libx264", X264 | {"x264-params": "open-gop=1:bframes=3:b-pyramid=normal"}, None),
    "open GOP in Matroska": ("o.mkv", "libx264", X264 | {"x264-params": "open-gop=1:bframes=3"}, None),
    "intra refresh": ("i.mp4", "libx264", X264 | {"x264-params": "intra-refresh=1:bframes=0"}, None),
    "variable rate": ("v.mkv", "libx264", X264, [i * i // 3 + 2 * i for i in range(FRAMES)]),
    "first time is not 0": ("l.mp4", "libx264", X264, [i + 100 for i in range(FRAMES)]),
    "HEVC open GOP": (
        "h.mp4",
        "libx265",
        {"x265-params": "keyint=12:min-keyint=12:open-gop=1:bframes=3:log-level=0"},
        None,
    ),
    "VP9 with hidden frames": ("v.webm", "libvpx-vp9", {"g": "12", "auto-alt-ref": "1", "lag-in-frames": "16"}, None),
    "VP8 with hidden frames": ("8.webm", "libvpx", {"g": "12", "auto-alt-ref": "1", "lag-in-frames": "16"}, None),
    "MPEG-4 with B-frames": ("4.mp4", "mpeg4", {"bf": "2", "g": "12"}, None),
    "AVI with B-frames": ("4.avi", "mpeg4", {"bf": "2", "g": "12"}, None),
    "AVI of H.264 with B-frames": ("h.avi", "libx264", X264, None),
    "AVI without B-frames": ("n.avi", "mpeg4", {"bf": "0", "g": "12"}, None),
    "transport stream": ("t.ts", "libx264", X264, None),
    "program stream": ("p.mpg", "mpeg2video", {"bf": "2", "g": "12"}, None),
    "MPEG-2 open GOP": ("p.mkv", "mpeg2video", {"bf": "2", "g": "12"}, None),
    "Flash": ("f.flv", "flv", {"g": "12"}, None),
    "raw H.264": ("r.h264", "libx264", X264, None),
    "key frames only": ("j.mov", "mjpeg", {}, None),
    "one key frame": ("k.mp4", "libx264", {"g": "600", "bf": "3"}, None),
}
MUST_SEEK = {
    "B-frames",
    "open GOP",
    "open GOP in Matroska",
    "variable rate",
    "MPEG-4 with B-frames",
    "AVI without B-frames",
}
CANNOT_SEEK = {"one key frame"}


@pytest.mark.parametrize("kind", SOUND)
def test_frames_of_generated_files(tmp_path: Path, kind: str, seeks: dict[bool, int]) -> None:
    name, codec, options, pts = SOUND[kind]
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no encoder {codec}")
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = write_video(tmp_path / name, moving(), codec=codec, options=options, pix_fmt=pix_fmt, pts=pts)
    assert_every_window_is_exact(path)
    if kind in MUST_SEEK:
        assert seeks[True] > 40
    if kind in CANNOT_SEEK:
        assert not seeks[True]


@pytest.mark.parametrize("name", REAL_FRAMES)
def test_frames_of_real_files(name: str) -> None:
    if not REAL.is_dir():
        pytest.skip(f"needs the real videos in {REAL}")
    assert_every_window_is_exact(REAL / name, step=40, shorter_side=100)


def test_scaled_and_turned(tmp_path: Path, seeks: dict[bool, int]) -> None:
    path = write_video(tmp_path / "v.mp4", moving(), codec="libx264", options=X264)
    set_display_matrix(path, 0, 1, -1, 0)
    assert decode(path, shorter_side=24).data.shape[2:] == (32, 24)
    assert_every_window_is_exact(path, step=5, shorter_side=24)
    assert seeks[True] > 5


def damage(content: bytes, how: str) -> bytes:
    rng = np.random.default_rng(1)
    flipped = bytearray(content)
    if how == "cut":
        return content[: 2 * len(content) // 3]
    places = rng.integers(len(content) // 4, 3 * len(content) // 4, 12 if how == "flipped" else 200)
    for place in places:
        flipped[place] ^= 1 << int(rng.integers(8))
    return bytes(flipped)


@pytest.mark.parametrize(
    ("suffix", "how"), list(itertools.product(("mp4", "mkv", "avi", "ts"), ("cut", "flipped", "ruined")))
)
def test_frames_of_damaged_files(tmp_path: Path, suffix: str, how: str) -> None:
    """A packet in the middle that gives no frame shifts the numbers of all later frames."""
    path = write_video(tmp_path / f"v.{suffix}", moving(), codec="libx264", options=X264)
    path.write_bytes(damage(path.read_bytes(), how))
    assert_every_window_is_exact(path, step=3)


def test_a_clock_that_starts_again(tmp_path: Path, seeks: dict[bool, int]) -> None:
    path = write_video(tmp_path / "v.ts", moving(), codec="libx264", options=X264)
    path.write_bytes(path.read_bytes() * 2)
    assert_every_window_is_exact(path, step=3)
    assert not seeks[True]


def test_size_that_changes(tmp_path: Path) -> None:
    parts = [write_video(tmp_path / f"{h}.ts", moving(30, h, 4 * h // 3), codec="mpeg2video") for h in (48, 96)]
    (tmp_path / "both.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    assert_every_window_is_exact(tmp_path / "both.ts", step=3)


def test_false_key_frames(tmp_path: Path, seeks: dict[bool, int]) -> None:
    """An MP4 whose table of key frames names every frame: decoding must not begin at one that leans on others."""
    path = write_video(tmp_path / "v.mp4", moving(), codec="libx264", options=X264)
    content = bytearray(path.read_bytes())
    place = content.index(b"stss")
    content[place : place + 4] = b"free"  # without the table, all are key frames (ISO/IEC 14496-12, 8.6.2)
    path.write_bytes(content)
    assert_every_window_is_exact(path, step=3)


def test_a_video_whose_first_frame_is_shown_later(tmp_path: Path) -> None:
    """An edit list that begins in the middle: packets before it are decoded and dropped."""
    path = write_video(tmp_path / "v.mp4", moving(), codec="libx264", options=X264)
    content = bytearray(path.read_bytes())
    place = content.index(b"elst") + 4 + 4 + 4  # version and flags, count of entries; then duration, start, rate
    (start,) = struct.unpack_from(">i", content, place + 4)
    timescale = struct.unpack_from(">I", content, content.index(b"mdhd") + 4 + 12)[0]
    struct.pack_into(">i", content, place + 4, start + 20 * timescale // 25)
    path.write_bytes(content)
    assert len(decode(path)) < FRAMES
    assert_every_window_is_exact(path, step=3)


def test_large_videos_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_module, "KEEP_BYTES", 48 * 64 * 3 // 2 * 20)
    path = write_video(tmp_path / "v.mp4", moving(), codec="libx264", options=X264)
    file = VideoFile(path)
    assert len(file) == FRAMES
    assert not file._kept
    indices = torch.tensor([50, 3, 3, 41])
    assert torch.equal(file.take(indices), decode(path).data[indices])


def test_decoding_ends_with_the_last_frame_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "v.mp4", moving(), codec="libx264", options=X264)
    met: list[int] = []
    decoded = file_module.decoded

    def counting(*arguments: object) -> Iterator[av.VideoFrame]:
        for frame in decoded(*arguments):
            met.append(1)
            yield frame

    monkeypatch.setattr(file_module, "decoded", counting)
    VideoFile(path, num_frames=FRAMES).take(torch.tensor([2, 9]))
    assert len(met) == 10


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda path: VideoFile(path).take(torch.tensor([60])), "frames 0 to 59"),
        (lambda path: VideoFile(path).take(torch.tensor([-1])), "frames 0 to 59"),
        (lambda path: VideoFile(path).take(torch.tensor([], dtype=torch.int64)), "frames 0 to 59"),
        (lambda path: VideoFile(path, shorter_side=0), "shorter_side"),
        (lambda path: VideoFile(path, num_frames=0), "num_frames"),
    ],
)
def test_wrong_arguments(tmp_path: Path, call: Callable[[Path], object], message: str) -> None:
    path = write_video(tmp_path / "v.mp4", moving(), codec="libx264", options=X264)
    with pytest.raises(InputError, match=message):
        call(path)


def test_files_that_are_no_video(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("this is no video\n" * 100)
    with pytest.raises(VideoError, match="cannot be opened"):
        len(VideoFile(tmp_path / "text.mp4"))
    with pytest.raises(VideoError, match="there is no video file"):
        VideoFile(tmp_path / "none.mp4", num_frames=3).take(torch.tensor([0]))
    path = write_video(tmp_path / "v.mp4", moving(), codec="libx264", options=X264)
    with pytest.raises(VideoError, match="said to have 70 frames"):
        VideoFile(path, num_frames=70).take(torch.tensor([69]))
