from pathlib import Path

import torch
from torch.utils.data import DataLoader

from atfr.data.dataset import ClipDataset
from atfr.data.records import VideoList, VideoRecord, read_folder
from atfr.train.loaders import ClipLoaders, EpochShuffle
from tests.evaluate.build import SPEC, write_folder


def test_order_changes_with_the_epoch_and_the_seed_and_is_the_same_again() -> None:
    videos = VideoList(tuple(VideoRecord(Path(f"{i}.mp4"), 0) for i in range(50)), ("a", "b"))
    dataset = ClipDataset(videos, SPEC, train=True)
    orders = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0)):
        dataset.set_epoch(epoch)
        orders.append(list(EpochShuffle(dataset, seed)))
    assert orders[0] == orders[3]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


def test_a_batch_that_is_not_full_is_left_out_only_beside_full_ones(tmp_path: Path) -> None:
    splits = read_folder(write_folder(tmp_path, classes=2, train=3, test=1))
    train, val = ClipDataset(splits["train"], SPEC, train=True), ClipDataset(splits["test"], SPEC, train=False)
    sizes = {
        batch_size: [
            len(labels)
            for _, labels in ClipLoaders(train, val, batch_size=batch_size, num_workers=0, seed=0).train_dataloader()
        ]
        for batch_size in (4, 6, 8)
    }
    assert sizes == {4: [4], 6: [6], 8: [6]}
    loader = ClipLoaders(train, val, batch_size=4, num_workers=0, seed=0).val_dataloader()
    assert isinstance(loader, DataLoader)
    ((views, labels),) = loader
    assert views.shape == (2, 1, 3, 4, 32, 32)
    assert torch.equal(labels, torch.tensor([0, 1]))
