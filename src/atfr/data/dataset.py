"""The torch data set over a list of videos: random clips to train on, or all the views of each video to test on."""

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, InitVar, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from atfr.data.records import VideoList
from atfr.data.workers import Readings
from atfr.errors import DataError, InputError, VideoError, VideoTooLongError
from atfr.video.decode import Frames, decode
from atfr.video.file import VideoFile
from atfr.video.spec import ClipSpec
from atfr.video.transforms import test_clips, train_clip
from atfr.words import counted

DAMAGED, SKIPPED = 1, 2
MAX_REPLACEMENTS = 10
MAX_SKIPPED = 0.25

TrainItem = tuple[Float[Tensor, "3 T H W"], int]
TestItem = tuple[Float[Tensor, "V 3 T H W"], int, int]


@dataclass(eq=False, repr=False)
class ClipDataset(Dataset[TrainItem | TestItem]):
    """Clips of the videos in `video_list`, decoded on the fly: only the frames that a clip takes (`VideoFile`).

    An item is (clip 3 T H W, label) in training, and (views V 3 T H W, label, index) in testing. In training, what is
    drawn for an item depends only on (`seed`, epoch, index), not on the number of workers or on the order of the items:
    call `set_epoch` before each epoch, it reaches running workers too.

    A video that does not decode is listed in `skipped`. In training the next one that does takes its place; in testing
    it raises `VideoError`, since a video must not silently fall out of a result. Where more than `max_skipped` of all
    videos do not decode, both raise `DataError`. A video of which only a part decodes is used; it is listed in
    `damaged` once all of it was decoded. Both lists hold what all workers met.

    Whole videos are decoded and kept in memory, already at `spec.decode_side`, where there is room for them in
    `cache_bytes`; of the others only the frames that a clip takes are converted, whatever their length. With workers,
    each has its own cache of its share, and it lives as long as the worker (`persistent_workers=True`).
    Training clips are cut from the same pixels whether they come from the cache or from the file. How many frames a
    video has is kept for all workers; `num_frames` hands over what is known, and spares the first look at a file.

    Args:
        video_list: The videos, from `read_folder` or `read_csv`.
        spec: The clip the network reads.
        train: Random training clips, or test views.
        seed: Of the training clips.
        num_clips: Clips a test video, spread uniformly.
        num_crops: Crops a test clip: 1 or 3.
        cache_bytes: Memory for decoded frames, in all workers together; 0 keeps none.
        decode_threads: Decoder threads a worker; 0 lets FFmpeg choose.
        num_frames: How many frames of each video decode, as `len(VideoFile(path))` found; 0 where it is not known, or
            where the video is damaged.
        max_skipped: The share of all videos that may fail to decode.
    """

    video_list: VideoList
    spec: ClipSpec
    _: KW_ONLY
    train: bool
    seed: int = 0
    num_clips: int = 1
    num_crops: int = 1
    cache_bytes: int = 2**30
    decode_threads: int = 1
    num_frames: InitVar[Sequence[int] | None] = None
    max_skipped: float = MAX_SKIPPED

    def __post_init__(self, num_frames: Sequence[int] | None) -> None:
        if self.cache_bytes < 0:
            raise InputError(f"cache_bytes must not be negative, got {self.cache_bytes}")
        if not 0 <= self.max_skipped <= 1:
            raise InputError(f"max_skipped is a share, between 0 and 1, got {self.max_skipped}")
        if num_frames is not None and len(num_frames) != len(self):
            raise InputError(f"num_frames must hold one number for each of {len(self)} videos, got {len(num_frames)}")
        self.readings = Readings()
        self._cache: dict[int, Frames] = {}
        self._cached_bytes = 0
        self._too_long: set[int] = set()  # for what room was left when they were met
        # In shared memory, so that the epoch reaches running workers and their findings come back.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        self._state = torch.zeros(len(self), dtype=torch.uint8).share_memory_()
        self._num_frames = torch.tensor(num_frames or [0] * len(self), dtype=torch.int32).share_memory_()

    def __len__(self) -> int:
        return len(self.video_list)

    def __getitem__(self, index: int) -> TrainItem | TestItem:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} videos")
        index %= len(self)
        if self.train:
            return self._train_item(index)
        views = self._cut(index, lambda video: test_clips(video, self.spec, self.num_clips, self.num_crops))
        return views, self.video_list.records[index].label, index

    @property
    def epoch(self) -> int:
        """The epoch that training clips are drawn for."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Draw other training clips than in other epochs; the same epoch gives the same clips again."""
        self._epoch.fill_(epoch)

    @property
    def skipped(self) -> list[tuple[Path, str]]:
        """The videos met so far that do not decode, each with the reason (found by decoding it once more)."""
        return self._met(SKIPPED)

    @property
    def damaged(self) -> list[tuple[Path, str]]:
        """The videos met so far of which only a part could be used, each with the warning."""
        return self._met(DAMAGED)

    def path(self, index: int) -> Path:
        """Return the file of video `index`."""
        return self.video_list.records[index].path

    def _cut(self, index: int, cut: Callable[[Frames | VideoFile], Tensor]) -> Tensor:
        """Cut clips from video `index`, and note what is found out about it.

        Raises:
            VideoError: It does not decode.
            DataError: It does not decode, and neither do too many others.
        """
        try:
            with self.readings.reading(index):
                video = self._video(index)
                clips = cut(video)
        except VideoError as error:
            self._state[index] = SKIPPED
            check_skipped(int((self._state == SKIPPED).sum()), len(self), self.max_skipped, str(error))
            raise
        if video.warning:
            self._state[index] = DAMAGED
        else:
            self._num_frames[index] = len(video)
        return clips

    def _video(self, index: int) -> Frames | VideoFile:
        """Decode video `index` and keep it, as long as there is room; then give the file to take frames from."""
        if index in self._cache:
            return self._cache[index]
        how: dict[str, Any] = {"shorter_side": self.spec.decode_side, "threads": self.decode_threads}
        worker = get_worker_info()
        room = self.cache_bytes // (worker.num_workers if worker else 1) - self._cached_bytes
        if room > 0 and index not in self._too_long:
            try:
                frames = self._cache[index] = decode(self.path(index), max_bytes=room, **how)
            except VideoTooLongError:
                self._too_long.add(index)
            else:
                self._cached_bytes += frames.data.nbytes
                return frames
        return VideoFile(self.path(index), num_frames=int(self._num_frames[index]) or None, **how)

    def _train_item(self, index: int) -> TrainItem:
        key = np.random.SeedSequence([self.seed, self.epoch, index])
        generator = torch.Generator().manual_seed(int(key.generate_state(1, np.uint64)[0] >> 1))
        for offset in range(min(MAX_REPLACEMENTS, len(self))):
            candidate = (index + offset) % len(self)
            if self._state[candidate] == SKIPPED:
                continue
            try:
                clip = self._cut(candidate, lambda video: train_clip(video, self.spec, generator))
            except VideoError:
                continue
            return clip, self.video_list.records[candidate].label
        failed = self.skipped
        raise DataError(
            f"{counted(len(failed), 'video does', 'videos do')} not decode, too many in a row to go on; the last: "
            f"{failed[-1][1]}"
        )

    def _met(self, state: int) -> list[tuple[Path, str]]:
        found = []
        for index in torch.nonzero(self._state == state).flatten().tolist():
            try:
                video = VideoFile(self.path(index))
                found_now = counted(len(video), "frame decodes", "frames decode")
                reason = video.warning or found_now
            except VideoError as error:
                reason = str(error)
            found.append((self.path(index), reason))
        return found


def check_skipped(failed: int, count: int, max_skipped: float, example: str) -> None:
    """Refuse to go on with a data set of which too much does not decode.

    Raises:
        DataError: more than the share `max_skipped` of `count` videos failed.
    """
    if failed > max_skipped * count:
        raise DataError(
            f"{failed} of {count} videos do not decode, more than {100 * max_skipped:.3g} % (max_skipped); "
            f"one of them: {example}"
        )
