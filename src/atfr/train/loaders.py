"""The loaders of a training: clips in an order that depends on seed and epoch alone, and validation that goes on."""

import itertools
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from atfr.data.dataset import ClipDataset
from atfr.errors import VideoError


class ClipLoaders(pl.LightningDataModule):
    """Gives Lightning the training and the validation clips.

    Args:
        train: a data set for training.
        val: a data set for testing, or None.
        batch_size: clips in a step, and videos in a validation step, on each device.
        num_workers: processes that decode; 0 decodes in this one.
        seed: of the order of the clips.
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
        self.sampler = EpochShuffle(train, seed, balanced=balanced)

    def train_dataloader(self) -> DataLoader:
        """Each clip once an epoch; a last batch that is not full is left out, where there are full ones."""
        return DataLoader(
            self.train,
            self.batch_size,
            sampler=self.sampler,
            drop_last=len(self.train) >= self.batch_size,
            pin_memory=torch.cuda.is_available(),
            **self.options,
        )

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """Each video in its order; those that do not decode are left out (the test names them)."""
        if self.val is None:
            return []
        return DataLoader(_Forgiving(self.val), self.batch_size, collate_fn=_collate, **self.options)


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


class _Forgiving(Dataset[tuple[Tensor, int] | None]):
    """The views and the label of each video, None where it does not decode."""

    def __init__(self, dataset: ClipDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int] | None:
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
