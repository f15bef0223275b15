"""The loaders of a training: clips in an order that depends on seed and epoch alone, and validation that goes on."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from atfr.data.dataset import ClipDataset
from atfr.data.workers import WatchedLoader
from atfr.errors import InputError, VideoError


class ClipLoaders(pl.LightningDataModule):
    """Gives Lightning the training and the validation clips.

    Args:
        batch_size: clips in a step, and videos in a validation step, on each device.
        balanced: draw each class equally often.
    """

    def __init__(
        self,
        train: ClipDataset,
        val: ClipDataset | None,
        *,
        batch_size: int,
        num_workers: int,
        seed: int,
        balanced: bool = False,
    ) -> None:
        super().__init__()
        self.train = train
        self.val = val
        self.batch_size = batch_size
        self.options: dict[str, Any] = {"num_workers": num_workers, "persistent_workers": num_workers > 0}
        self.order = EpochShuffle(train, seed, balanced=balanced)

    def train_dataloader(self) -> DataLoader:
        """Each clip once an epoch, shared by the processes of the training; each call makes a loader of its own."""
        share = Share(self.order, self.batch_size, *self._place())
        return self._loader(self.train, self.train, sampler=share, pin_memory=torch.cuda.is_available())

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """Each video once in all processes together; those that do not decode are left out (the test names them).

        Where the videos do not divide, the last places are empty: Lightning wants as many batches of each process.
        """
        if self.val is None:
            return []
        rank, world_size = self._place()
        places = range(rank, math.ceil(len(self.val) / world_size) * world_size, world_size)
        return self._loader(_Forgiving(self.val), self.val, sampler=places, collate_fn=_collate)

    def _loader(self, dataset: Dataset, videos: ClipDataset, **options: Any) -> WatchedLoader:
        """A loader that names the file on which one of its workers dies."""
        options |= self.options | {"batch_size": self.batch_size}
        return WatchedLoader(dataset, readings=videos.readings, path_of=videos.path, **options)

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)


class EpochShuffle(Sampler[int]):
    """A random order of a data set, fixed by its seed and the data set's epoch: a resumed training takes it up.

    `balanced` draws as many items, from each class equally many (but for one): a rare class's come again, of a frequent
    one's some wait for another epoch.
    """

    def __init__(self, dataset: ClipDataset, seed: int, *, balanced: bool = False) -> None:
        self.dataset = dataset
        self.seed = seed
        self.balanced = balanced

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[int]:
        key = np.random.SeedSequence([self.seed, self.dataset.epoch])
        generator = torch.Generator().manual_seed(int(key.generate_state(1)[0]))
        order = torch.randperm(len(self.dataset), generator=generator).tolist()
        yield from self._balance(order) if self.balanced else order

    def _balance(self, order: list[int]) -> Iterator[int]:
        """Take the classes in turns, each one's items in their order, again from the start where they are used up."""
        classes: dict[int, list[int]] = {}
        for index in order:
            classes.setdefault(self.dataset.video_list.records[index].label, []).append(index)
        turns = zip(*(itertools.cycle(items) for items in classes.values()), strict=True)
        return itertools.islice(itertools.chain.from_iterable(turns), len(order))


class Share(Sampler[int]):
    """What one of several processes takes of an order, so that all together train as one process would.

    Their batches of one step make up the batch that one process would make with `world_size` times the size. What does
    not fill such a batch is left out, where there are full ones.

    Raises:
        InputError: there is not even one item for each process.
    """

    def __init__(self, order: Sampler[int], batch_size: int, rank: int, world_size: int) -> None:
        count = len(order)  # type: ignore[arg-type]
        if count < world_size:
            raise InputError(f"{count} training videos are too few for {world_size} processes: each needs one at least")
        together = batch_size * world_size
        self.order, self.rank, self.world_size = order, rank, world_size
        self.stop = count - count % (together if count >= together else world_size)

    def __len__(self) -> int:
        return self.stop // self.world_size

    def __iter__(self) -> Iterator[int]:
        yield from list(self.order)[self.rank : self.stop : self.world_size]


class _Forgiving(Dataset[tuple[Tensor, int] | None]):
    """The views and the label of each video, None where it does not decode or there is none."""

    def __init__(self, dataset: ClipDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int] | None:
        if index >= len(self.dataset):
            return None
        try:
            views, label, _ = self.dataset[index]
        except VideoError:
            return None
        return views, label


def _collate(
    items: list[tuple[Tensor, int] | None],
) -> tuple[Float[Tensor, "N V C T H W"], Int[Tensor, " N"]] | None:
    decoded = [item for item in items if item is not None]
    return default_collate(decoded) if decoded else None
