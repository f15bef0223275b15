"""From a decoded frame to an upright RGB picture, at the size that the first frame of its video has."""

from pathlib import Path

import av
import numpy as np
import torch
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import VideoReformatter
from jaxtyping import UInt8
from torch import Tensor

from atfr.errors import InputError, VideoError


class Pictures:
    """Turns the frames of one video into pictures H W 3 of one size: that of the first frame it is shown.

    Args:
        shorter_side: larger frames are scaled down to this shorter side; None leaves their size.
    """

    def __init__(self, path: Path, shorter_side: int | None) -> None:
        if shorter_side is not None and shorter_side < 1:
            raise InputError(f"shorter_side must be at least 1 px, got {shorter_side}")
        self.path = path
        self.shorter_side = shorter_side
        self._size: tuple[int, int] | None = None
        self._shape: tuple[int, ...] = ()
        self._reformatter = VideoReformatter()

    def start(self, frame: av.VideoFrame) -> None:
        """Take size and rotation from the video's first frame, which is not wanted itself."""
        width, height = self._size = _scaled_size(frame.width, frame.height, self.shorter_side)
        self._shape = (width, height, 3) if _turn(frame)[0] else (height, width, 3)

    def picture(self, frame: av.VideoFrame) -> UInt8[np.ndarray, "H W 3"]:
        """Convert, scale and turn a frame.

        Frames are scaled into planes: FFmpeg halves the chroma of packed RGB of even width, and takes twice as long.

        Raises:
            VideoError: FFmpeg cannot convert frames of this kind.
        """
        if self._size is None:
            self._size = _scaled_size(frame.width, frame.height, self.shorter_side)
        layout = "rgb24" if self._size == (frame.width, frame.height) else "gbrp"
        try:
            rgb = self._reformatter.reformat(frame, *self._size, layout, threads=1)
        except (av.FFmpegError, ValueError) as error:
            raise VideoError(f"frames of '{self.path}' cannot be converted to RGB: {error}") from error
        image = _upright(rgb.to_ndarray(), frame)
        self._shape = self._shape or image.shape
        if image.shape != self._shape:  # the rotation changed in mid-stream
            image = np.ascontiguousarray(np.rot90(image))
        return image


def display_matrix(frame: av.VideoFrame) -> bytes:
    """Return how the frame is to be turned for display, as FFmpeg's nine numbers; nothing where it stands upright."""
    if SideDataType.DISPLAYMATRIX not in frame.side_data:
        return b""
    return bytes(frame.side_data[SideDataType.DISPLAYMATRIX])  # type: ignore[typeddict-item]


def stack(images: list[np.ndarray]) -> UInt8[Tensor, "T 3 H W"]:
    """Stack without holding every frame twice; stored T H W C, the layout in which uint8 frames resize fastest."""
    data = np.empty((len(images), *images[0].shape), dtype=np.uint8)
    for i in range(len(images)):
        data[i] = images[i]
        images[i] = data[i]
    return torch.from_numpy(data).permute(0, 3, 1, 2)


def _scaled_size(width: int, height: int, shorter_side: int | None) -> tuple[int, int]:
    shorter = min(width, height)
    if shorter_side is None or shorter <= shorter_side:
        return width, height
    return round(width * shorter_side / shorter), round(height * shorter_side / shorter)


def _upright(image: np.ndarray, frame: av.VideoFrame) -> np.ndarray:
    transpose, flip_x, flip_y = _turn(frame)
    if transpose:
        image = image.transpose(1, 0, 2)
    return np.ascontiguousarray(image[:: -1 if flip_y else 1, :: -1 if flip_x else 1])


def _turn(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """Read the file's display matrix: transpose, then flip along x, along y.

    Any of the eight ways to lay a rectangle on itself; other angles are ignored.
    """
    matrix = display_matrix(frame)
    if not matrix:
        return False, False, False
    # x' = a x + c y, y' = b x + d y, with y downwards
    a, b, _, c, d = np.frombuffer(matrix, dtype=np.int32)[:5].astype(np.int64)
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, bool(a < 0), bool(d < 0)
    return True, bool(c < 0), bool(b < 0)
