"""VideoFile: take some frames out of a video file, and decode no more than that needs."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np
from jaxtyping import Int64, UInt8
from torch import Tensor

from atfr.errors import InputError, VideoError
from atfr.video.container import Findings, decoded, expected_frames, open_video
from atfr.video.pictures import Pictures, stack
from atfr.video.seeking import NotExactError, seek_frames

KEEP_BYTES = 128 * 2**20
"""Decoded but not converted frames that are kept from counting for the first `take`."""


class VideoFile:
    """A video of which frames are taken by their numbers: `take(i)` is `decode(path).data[i]`, bit for bit.

    The number of a frame is its place among those that decode. Where the video's length is not known, the first look
    decodes all of it, since a file may declare more frames than it has; but only the frames taken are converted, and a
    video of any length takes little memory. Where the length is known, decoding starts at the key frame before a frame
    if `seeking.py` can show that this gives the same frames, otherwise at the first; it ends with the last frame taken.

    Args:
        shorter_side: Scale larger frames down to this shorter side.
        threads: Decoder threads; 0 lets FFmpeg choose.
        num_frames: How many frames decode, as `len` found once. Leave it out where there was a `warning`: what a
            damaged file gives may depend on where decoding starts.

    Attributes:
        warning: What is wrong with the file, where only a part of it decodes; None also as long as it was not all
            decoded.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        shorter_side: int | None = None,
        threads: int = 1,
        num_frames: int | None = None,
    ) -> None:
        if num_frames is not None and num_frames < 1:
            raise InputError(f"num_frames must be at least 1, got {num_frames}")
        self.path = Path(path)
        self.threads = threads
        self.warning: str | None = None
        self._num_frames = num_frames
        self._pictures = Pictures(self.path, shorter_side)
        self._kept: list[av.VideoFrame] = []
        self._expected: Callable[[int], Tensor] | None = None
        self._images_kept: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        """Return how many frames decode.

        Raises:
            VideoError: There is no such file, it is no video, none of its frames decodes, or they are absurdly large.
        """
        if self._num_frames is None:
            self._num_frames = self._look()
        return self._num_frames

    def expect(self, indices_of: Callable[[int], Int64[Tensor, "N"]]) -> None:
        """Say which frames will be taken from a video of so many.

        A first look at a file that has as many as it declares then keeps these, converted, and a long video too is
        decoded only once.
        """
        self._expected = indices_of

    def take(self, indices: Int64[Tensor, "N"]) -> UInt8[Tensor, "N 3 H W"]:
        """Return the frames of these numbers, each between 0 and `len` - 1.

        Raises:
            VideoError: As `len`; or the file has fewer frames than `num_frames` said.
        """
        chosen, place = indices.unique(return_inverse=True)
        wanted = chosen.tolist()
        if not wanted or wanted[0] < 0 or wanted[-1] >= len(self):
            raise InputError(f"frames 0 to {len(self) - 1} of '{self.path}' can be taken, got {indices.tolist()}")
        images = stack(self._images(wanted))
        return images if len(chosen) == len(indices) and bool((chosen == indices).all()) else images[place]

    def _look(self) -> int:
        """Decode all of the video once; keep the frames, where they are not too large."""
        kept_bytes = 0
        with open_video(self.path, self.threads) as (container, stream):
            findings = Findings(self.path)
            declared = expected_frames(container, stream)
            expected = set(self._expected(declared).tolist()) if self._expected and declared else ()
            for number, frame in enumerate(decoded(container, stream, findings)):
                if number == 0:
                    self._pictures.start(frame)
                if number in expected:
                    self._images_kept[number] = self._pictures.picture(frame)
                kept_bytes += sum(plane.buffer_size for plane in frame.planes)
                if kept_bytes <= KEEP_BYTES:
                    self._kept.append(frame)
                else:
                    self._kept.clear()
        self.warning = findings.warning()
        return findings.count

    def _images(self, wanted: Sequence[int]) -> list[UInt8[np.ndarray, "H W 3"]]:
        """Convert the frames of these numbers, which rise."""
        if all(number in self._images_kept for number in wanted):
            return [self._images_kept[number] for number in wanted]
        if self._kept:
            return [self._pictures.picture(self._kept[i]) for i in wanted]
        with open_video(self.path, self.threads) as (container, stream):
            try:
                return [self._pictures.picture(frame) for frame in seek_frames(container, stream, wanted, len(self))]
            except NotExactError:
                pass
        images: list[np.ndarray] = []
        with open_video(self.path, self.threads) as (container, stream):
            for number, frame in enumerate(decoded(container, stream, Findings(self.path))):
                if number == 0:
                    self._pictures.start(frame)
                if number == wanted[len(images)]:
                    images.append(self._pictures.picture(frame))
                    if len(images) == len(wanted):
                        break
        if len(images) < len(wanted):
            raise VideoError(
                f"'{self.path}' was said to have {len(self)} frames, but has fewer; it changed since they were counted"
            )
        return images
