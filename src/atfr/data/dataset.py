"""The torch data set over a list of videos: random clips to train on, or all the views of each video to test on."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from atfr.data.records import VideoList
from atfr.errors import DataError, InputError, VideoError
from atfr.video.decode import Frames, decode
from atfr.video.spec import ClipSpec
from atfr.video.transforms import test_clips, train_clip

DAMAGED, SKIPPED = 1, 2
MAX_REPLACEMENTS = 10

TrainItem = tuple[Float[Tensor, "3 T H W"], int]
TestItem = tuple[Float[Tensor, "V 3 T H W"], int, int]


class ClipDataset(Dataset[TrainItem | TestItem]):
    """Clips of the videos in `video_list`, decoded on the fly.

    An item is (clip 3 T H W, label) in training, and (views V 3 T H W, label, index) in testing. In training, what is
    drawn for an item depends only on (`seed`, epoch, index), not on the number of workers or on the order of the items:
    call `set_epoch` before each epoch, it reaches running workers too.

    A video that does not decode is replaced in training by the next one that does, and listed in `skipped`; in
    testing it raises `VideoError`, since a video must not silently fall out of a result. One that decodes in part is
    used and listed in `damaged`. Both lists hold what all workers met.

    Decoded frames, already at `spec.decode_side`, are kept in memory until `cache_bytes` are full; with workers, each
    has its own cache of its share, and it lives as long as the worker (`persistent_workers=True`). Training clips are
    thus cut from the same pixels whether they come from the cache or from the file.

    Args:
        video_list: The videos, from `read_folder` or `read_csv`.
        spec: The clip the network reads.
        train: Random training clips, or test views.
        seed: Of the training clips.
        num_clips: Clips a test video, spread uniformly.
        num_crops: Crops a test clip: 1 or 3.
        cache_bytes: Memory for decoded frames, in all workers together; 0 keeps none.
        decode_threads: Decoder threads a worker; 0 lets FFmpeg choose.
    """

    def __init__(
        self,
        video_list: VideoList,
        spec: ClipSpec,
        *,
        train: bool,
        seed: int = 0,
        num_clips: int = 1,
        num_crops: int = 1,
        cache_bytes: int = 2**30,
        decode_threads: int = 1,
    ) -> None:
        if cache_bytes < 0:
            raise InputError(f"cache_bytes must not be negative, got {cache_bytes}")
        self.video_list = video_list
        self.spec = spec
        self.train = train
        self.seed = seed
        self.num_clips = num_clips
        self.num_crops = num_crops
        self.cache_bytes = cache_bytes
        self.decode_threads = decode_threads
        self._cache: dict[int, Frames] = {}
        self._cached_bytes = 0
        # In shared memory, so that the epoch reaches running workers and their findings come back.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        self._state = torch.zeros(len(video_list), dtype=torch.uint8).share_memory_()

    def __len__(self) -> int:
        return len(self.video_list)

    def __getitem__(self, index: int) -> TrainItem | TestItem:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} videos")
        index %= len(self)
        if self.train:
            return self._train_item(index)
        frames = self.frames(index)
        return test_clips(frames, self.spec, self.num_clips, self.num_crops), self._label(index), index

    @property
    def epoch(self) -> int:
        """The epoch that training clips are drawn for."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Draw other training clips than in other epochs; the same epoch gives the same clips again."""
        self._epoch.fill_(epoch)

    @property
    def skipped(self) -> list[tuple[Path, str]]:
        """The training videos met so far that do not decode, each with the reason (found by decoding it once more)."""
        return self._met(SKIPPED)

    @property
    def damaged(self) -> list[tuple[Path, str]]:
        """The videos met so far of which only a part could be used, each with the warning."""
        return self._met(DAMAGED)

    def frames(self, index: int) -> Frames:
        """Decode video `index`, or take it from the cache; its shorter side is at most `spec.decode_side`."""
        if index in self._cache:
            return self._cache[index]
        frames = self._decode(index)
        if frames.warning:
            self._state[index] = DAMAGED
        worker = get_worker_info()
        share = self.cache_bytes // (worker.num_workers if worker else 1)
        if self._cached_bytes + frames.data.nbytes <= share:
            self._cache[index] = frames
            self._cached_bytes += frames.data.nbytes
        return frames

    def _decode(self, index: int) -> Frames:
        path = self.video_list.records[index].path
        return decode(path, shorter_side=self.spec.decode_side, threads=self.decode_threads)

    def _label(self, index: int) -> int:
        return self.video_list.records[index].label

    def _train_item(self, index: int) -> TrainItem:
        key = np.random.SeedSequence([self.seed, self.epoch, index])
        generator = torch.Generator().manual_seed(int(key.generate_state(1, np.uint64)[0] >> 1))
        for offset in range(min(MAX_REPLACEMENTS, len(self))):
            candidate = (index + offset) % len(self)
            if self._state[candidate] == SKIPPED:
                continue
            try:
                frames = self.frames(candidate)
            except VideoError:
                self._state[candidate] = SKIPPED
                continue
            return train_clip(frames, self.spec, generator), self._label(candidate)
        failed = self.skipped
        raise DataError(f"{len(failed)} videos do not decode, too many in a row to go on; the last: {failed[-1][1]}")

    def _met(self, state: int) -> list[tuple[Path, str]]:
        found = []
        for index in torch.nonzero(self._state == state).flatten().tolist():
            try:
                reason = self._decode(index).warning or "it did not decode once, but does now"
            except VideoError as error:
                reason = str(error)
            found.append((self.video_list.records[index].path, reason))
        return found
