"""Real and odd video files become upright RGB frames with times, or one clear error."""

import os
import re
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from atfr.errors import InputError, VideoError
from atfr.video import container as container_module
from atfr.video.decode import Frames, _repair_times, decode
from tests.video.video_files import ramp_video, set_display_matrix, write_audio, write_video

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "videos"
REAL_FRAMES = {  # counted with the FFmpeg that PyAV carries, frame by frame
    "R6llTwEh07w.mp4": (303, 340, 256),
    "RATRACE_wave_f_nm_np1_fr_goo_37.avi": (72, 560, 240),
    "SOX5yA1l24A.mp4": (332, 340, 256),
    "SchoolRulesHowTheyHelpUs_wave_f_nm_np1_ba_med_0.avi": (74, 320, 240),
    "TrumanShow_wave_f_nm_np1_fr_med_26.avi": (48, 432, 240),
    "WUzgd7C1pWA.mp4": (327, 340, 256),
    "av1_video.mkv": (125, 640, 360),
    "bt709_full_range.mp4": (30, 1280, 720),
    "h265_video.mp4": (10, 128, 128),
    "hmdb51_Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi": (83, 320, 240),
    "nasa_13013.mp4": (325, 320, 180),
    "v_SoccerJuggling_g23_c01.avi": (240, 320, 240),
    "v_SoccerJuggling_g24_c01.avi": (251, 320, 240),
}


def mean_error(data: torch.Tensor, video: np.ndarray) -> float:
    return float(np.abs(data.permute(0, 2, 3, 1).numpy().astype(float) - video).mean())


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_video(tmp_path / "clip.mp4", ramp_video())


@pytest.mark.parametrize("name", REAL_FRAMES)
def test_real_files(name: str) -> None:
    if not REAL.is_dir():
        pytest.skip(f"needs the real videos in {REAL}")
    frames = decode(REAL / name)
    count, width, height = REAL_FRAMES[name]
    assert frames.data.shape == (count, 3, height, width)
    assert frames.data.dtype == torch.uint8
    assert frames.pts_s.dtype == torch.float64
    assert (frames.pts_s.diff() > 0).all()
    assert frames.pts_s[0] >= 0
    assert frames.warning is None
    assert frames.data.float().std() > 5  # a picture, not a flat field


def test_pixels_and_times(clip: Path) -> None:
    video = ramp_video()
    frames = decode(str(clip))
    assert frames.data.shape == (12, 3, 48, 64)
    assert mean_error(frames.data, video) < 3
    torch.testing.assert_close(frames.pts_s, torch.arange(12, dtype=torch.float64) / 25)
    assert frames.fps == pytest.approx(25)
    assert frames.path == clip
    assert "12 frames, 64 x 48 px, 25 fps" in repr(frames)


# The eight ways to lay a rectangle on itself: (a, b, c, d) with x' = a x + c y and y' = b x + d y, y downwards, and the
# same in NumPy on T H W 3.
TURNS = {
    "as it is": ((1, 0, 0, 1), lambda v: v),
    "90 clockwise": ((0, 1, -1, 0), lambda v: np.rot90(v, -1, (1, 2))),
    "180": ((-1, 0, 0, -1), lambda v: np.rot90(v, 2, (1, 2))),
    "90 counterclockwise": ((0, -1, 1, 0), lambda v: np.rot90(v, 1, (1, 2))),
    "mirrored": ((-1, 0, 0, 1), lambda v: v[:, :, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda v: v[:, ::-1]),
    "transposed": ((0, 1, 1, 0), lambda v: v.transpose(0, 2, 1, 3)),
    "transposed the other way": ((0, -1, -1, 0), lambda v: np.rot90(v, 2, (1, 2)).transpose(0, 2, 1, 3)),
}


@pytest.mark.parametrize("turn", TURNS)
def test_display_matrix_is_applied(clip: Path, turn: str) -> None:
    matrix, expected = TURNS[turn]
    if turn != "as it is":
        set_display_matrix(clip, *matrix)
    frames = decode(clip)
    video = expected(ramp_video())
    assert frames.data.shape[2:] == video.shape[1:3]
    assert mean_error(frames.data, video) < 3


def test_rotation_agrees_with_pyav(clip: Path) -> None:
    set_display_matrix(clip, 0, 1, -1, 0)
    with av.open(str(clip)) as container:
        assert next(container.decode(video=0)).rotation == -90  # counterclockwise, so clockwise by 90


def test_variable_frame_rate_keeps_its_times(tmp_path: Path) -> None:
    pts = [0, 1, 2, 10, 11, 30]
    path = write_video(tmp_path / "v.mkv", ramp_video(6), pts=pts)
    frames = decode(path)
    torch.testing.assert_close(frames.pts_s, torch.tensor(pts, dtype=torch.float64) / 25, atol=1e-3, rtol=0)
    assert frames.fps == pytest.approx(5 / 1.2, rel=1e-2)


@pytest.mark.parametrize(("codec", "pix_fmt"), [("libx264", "yuv444p"), ("ffv1", "yuv444p10le"), ("ffv1", "bgr0")])
def test_pixel_formats(tmp_path: Path, codec: str, pix_fmt: str) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no encoder {codec}")
    path = write_video(tmp_path / "v.mkv", ramp_video(3), codec=codec, pix_fmt=pix_fmt)
    assert mean_error(decode(path).data, ramp_video(3)) < 3


@pytest.mark.parametrize("color_range", [1, 2])
def test_limited_and_full_range(tmp_path: Path, color_range: int) -> None:
    """Black, white and grey must come out the same from limited-range (16 to 235) and full-range luma."""
    video = np.repeat(np.array([0, 128, 255], dtype=np.uint8), 32)[None, None, :, None] * np.ones(
        (2, 32, 1, 3), dtype=np.uint8
    )
    path = tmp_path / "v.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 96, "yuv444p"
        stream.codec_context.color_range = color_range
        for image in video:
            luma = image[..., 0].astype(float)
            luma = luma if color_range == 2 else 16 + luma * 219 / 255
            planes = np.stack([luma.round(), np.full_like(luma, 128), np.full_like(luma, 128)]).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(planes, format="yuv444p")
            frame.color_range = color_range
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert mean_error(decode(path).data, video) < 2


def test_one_frame_and_odd_size(tmp_path: Path) -> None:
    frames = decode(write_video(tmp_path / "v.mkv", ramp_video(1, 47, 61), codec="ffv1", pix_fmt="bgr0"))
    assert frames.data.shape == (1, 3, 47, 61)
    assert frames.pts_s.tolist() == [0]
    assert frames.fps == 25


def test_size_that_changes_in_mid_stream(tmp_path: Path) -> None:
    """Two MPEG transport streams end to end: the second half has another size, and its clock starts again."""
    halves = []
    for height, width in ((48, 64), (96, 128)):
        half = write_video(tmp_path / f"{height}.ts", ramp_video(6, height, width), codec="mpeg2video")
        halves.append(half.read_bytes())
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(halves))
    frames = decode(path)
    assert frames.data.shape[1:] == (3, 48, 64)
    assert len(frames) >= 11
    assert mean_error(frames.data[-3:, 1:], ramp_video(6)[-3:, ..., 1:]) < 4


@pytest.mark.parametrize("name", ["with space.mp4", "видео 動画 ü.mp4", "a:b.mp4", "50%d.mp4", "#?&.mp4", "-i.mp4"])
def test_any_file_name(tmp_path: Path, clip: Path, name: str) -> None:
    shutil.copy(clip, tmp_path / name)
    assert len(decode(tmp_path / name)) == 12


def test_file_name_that_is_not_utf8(tmp_path: Path, clip: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff\xfe.mp4"
    try:
        shutil.copy(clip, path)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert len(decode(os.fsdecode(path))) == 12


def test_relative_path(tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(decode(clip.name)) == 12


def test_truncated_file_gives_what_decodes_and_says_so(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = write_video(tmp_path / "v.mp4", rng.integers(0, 255, (40, 48, 64, 3), dtype=np.uint8))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    frames = decode(path)
    assert 10 < len(frames) < 30
    assert frames.warning is not None
    assert "truncated" in frames.warning
    assert str(path) in frames.warning


def test_damaged_middle_gives_the_rest_and_says_so(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.avi", np.random.default_rng(0).integers(0, 255, (40, 48, 64, 3), dtype=np.uint8))
    content = bytearray(path.read_bytes())
    half = len(content) // 2
    content[half : half + len(content) // 5] = bytes(len(content) // 5)
    path.write_bytes(content)
    frames = decode(path)
    assert len(frames) > 10
    assert frames.warning is not None


def test_no_video(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("this is no video\n" * 100)
    (tmp_path / "text.txt").write_text("this is no video\n" * 100)
    (tmp_path / "noise.avi").write_bytes(np.random.default_rng(0).bytes(10_000))
    write_audio(tmp_path / "sound.wav")
    expected = {
        "empty.mp4": "empty",
        "text.mp4": "cannot be opened",
        "text.txt": "expected a video",
        "noise.avi": "cannot be opened",
        "sound.wav": "no video stream",
        "missing.mp4": "there is no video file",
        "": "is a folder",
    }
    for name, message in expected.items():
        with pytest.raises(VideoError, match=message) as caught:
            decode(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_file_cut_before_its_first_frame(tmp_path: Path, clip: Path) -> None:
    content = clip.read_bytes()
    clip.write_bytes(content[: content.index(b"mdat") + 4])
    with pytest.raises(VideoError, match=re.escape(str(clip))):
        decode(clip)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.5,\n{video}\n#EXT-X-ENDLIST\n"),
        ("list.ffconcat", "ffconcat version 1.0\nfile {video.name}\n"),
        ("list.mp4", "ffconcat version 1.0\nfile {video.name}\n"),
    ],
)
def test_a_list_of_other_files_is_no_video(tmp_path: Path, name: str, content: str) -> None:
    """Who sends one to a server would see what lies there."""
    video = tmp_path / "private.ts"
    with av.open(str(video), "w", format="mpegts") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for _ in range(30):
            container.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        container.mux(stream.encode())
    assert len(decode(video)) > 0
    (tmp_path / name).write_text(content.format(video=video))
    with pytest.raises(VideoError, match="cannot be opened"):
        decode(tmp_path / name)


def test_a_playlist_opens_no_other_address(tmp_path: Path) -> None:
    playlist = tmp_path / "list.m3u8"
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(VideoError):
        decode(playlist)


def test_absurd_sizes_are_refused(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container_module, "MAX_SIDE_PX", 60)
    with pytest.raises(VideoError, match="64 x 48 px"):
        decode(clip)
    monkeypatch.setattr(container_module, "MAX_SIDE_PX", 64)
    monkeypatch.setattr(container_module, "MAX_FRAME_PX", 64 * 48 - 1)
    with pytest.raises(VideoError, match=r"64 x 48 px|larger than 0\.00307 million pixels"):
        decode(clip)


def test_a_long_video_is_refused_before_it_fills_memory(clip: Path) -> None:
    with pytest.raises(VideoError, match=r"12 frames of 64 x 48 px.*shorter_side"):
        decode(clip, max_bytes=12 * 48 * 64 * 3 - 1)
    assert len(decode(clip, max_bytes=12 * 48 * 64 * 3)) == 12
    assert len(decode(clip, max_bytes=12 * 48 * 64 * 3 // 4, shorter_side=24)) == 12


def test_shorter_side_scales_down_but_never_up(clip: Path) -> None:
    small = decode(clip, shorter_side=24)
    assert small.data.shape == (12, 3, 24, 32)
    assert mean_error(small.data, ramp_video()[:, ::2, ::2]) < 5
    assert decode(clip, shorter_side=500).data.shape == (12, 3, 48, 64)
    with pytest.raises(InputError, match="shorter_side"):
        decode(clip, shorter_side=0)


def test_threads_change_nothing(clip: Path) -> None:
    torch.testing.assert_close(decode(clip, threads=2).data, decode(clip).data, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([0.0, 0.1, 0.2, 0.3], [0, 0.1, 0.2, 0.3]),
        ([0.1, 0.4, 0.3, 0.5], [0.1, 0.3, 0.4, 0.5]),  # decoding order
        ([0.0, None, 0.2, None], [0, 0.1, 0.2, 0.3]),  # missing
        ([None, 0.5, 0.6], [0.4, 0.5, 0.6]),
        ([0.0, 0.1, 0.1, 0.3], [0, 0.1, 0.2, 0.3]),  # twice the same
        ([-0.2, -0.1, 0.0], [0, 0.1, 0.2]),  # before zero
        ([None, None, None], [0, 0.1, 0.2]),
        ([0.0, 0.0, 0.0], [0, 0.1, 0.2]),
        ([7.0], [7.0]),
    ],
)
def test_times_are_repaired(times: list[float | None], expected: list[float]) -> None:
    pts_s, fps = _repair_times(times, 10.0)
    np.testing.assert_allclose(pts_s, expected, atol=1e-9)
    assert fps == pytest.approx(10 if len(times) != 4 or times[1] != 0.4 else 7.5)


def test_a_clock_that_starts_again_is_replaced_by_frame_numbers() -> None:
    times = [i / 10 for i in range(40)] * 2
    pts_s, fps = _repair_times(times, 10.0)
    np.testing.assert_allclose(pts_s, np.arange(80) / 10)
    assert fps == pytest.approx(10)


def test_frames_refuses_other_data() -> None:
    times = torch.zeros(2, dtype=torch.float64)
    with pytest.raises(InputError, match="uint8"):
        Frames(torch.zeros(2, 3, 4, 4), times, 25, Path("x"))
    with pytest.raises(InputError, match="one time a frame"):
        Frames(torch.zeros(3, 3, 4, 4, dtype=torch.uint8), times, 25, Path("x"))
