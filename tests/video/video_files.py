"""Write small video files of every odd kind, for the tests."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from atfr.cli.doctor import same_schedule


def ramp_video(frames: int = 12, height: int = 48, width: int = 64) -> np.ndarray:
    """Frames T H W 3 that differ from each other and along both axes: red by time, green along x, blue along y."""
    video = np.zeros((frames, height, width, 3), dtype=np.uint8)
    video[..., 0] = np.linspace(20, 220, frames).round()[:, None, None]
    video[..., 1] = np.linspace(20, 220, width).round()[None, None, :]
    video[..., 2] = np.linspace(20, 220, height).round()[None, :, None]
    return video


def write_video(
    path: Path,
    video: np.ndarray | list[np.ndarray],
    *,
    codec: str = "mpeg4",
    pix_fmt: str = "yuv420p",
    fps: int = 25,
    pts: list[int] | None = None,
    options: dict[str, str] | None = None,
    **stream_settings: object,
) -> Path:
    with same_schedule(), av.open(str(path), "w", container_options={"movflags": "+faststart"}) as container:
        stream = container.add_stream(codec, rate=fps, options=options or {})
        stream.height, stream.width = video[0].shape[:2]
        stream.pix_fmt = pix_fmt
        if codec == "mpeg4":
            stream.bit_rate = 8_000_000
        for name, value in stream_settings.items():
            setattr(stream.codec_context, name, value)
        for i, image in enumerate(video):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = (pts[i] if pts else i), Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def set_display_matrix(path: Path, a: int, b: int, c: int, d: int) -> None:
    """Write the 2 x 2 part of the display matrix into an MP4's track header (ISO/IEC 14496-12, 8.3.2)."""
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4 + 40  # version 0: flags, times, ids, duration, layer, volume
    one = 0x10000
    assert content[start : start + 4] == struct.pack(">i", one), "this is where the identity matrix should be"
    content[start : start + 36] = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path.write_bytes(content)


def write_audio(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), dtype=np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
