"""What fine-tuning leaves as it was, what it moves slowly, what it draws, and when it stops."""

from collections import Counter
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

from atfr.data.dataset import ClipDataset
from atfr.data.records import VideoList, VideoRecord, read_folder
from atfr.errors import InputError
from atfr.models import VideoModel
from atfr.train.fit import FitResult, fit
from atfr.train.loaders import EpochShuffle
from atfr.train.recipe import Tuning
from atfr.train.tuning import parameter_groups
from tests.evaluate.build import SPEC, network, write_folder

pytestmark = pytest.mark.usefixtures("few_layers")
NORMS = ("running_mean", "running_var", "num_batches_tracked")


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, VideoList]:
    return read_folder(write_folder(tmp_path_factory.mktemp("data"), classes=2, train=4, test=2))


def run(model: VideoModel, splits: dict[str, VideoList], out: Path, tuning: Tuning, **options: Any) -> FitResult:
    train, val = ClipDataset(splits["train"], SPEC, train=True), ClipDataset(splits["test"], SPEC, train=False)
    defaults: dict[str, Any] = {"epochs": 2, "batch_size": 4, "warmup_epochs": 0, "num_workers": 0, "logger": False}
    return fit(model, train, val, out=out, tuning=tuning, **(defaults | options))


def changed(model: VideoModel, before: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


def state(model: VideoModel) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_frozen_stages_stay_bit_for_bit_and_sgs_among_them_is_trained(splits: dict, tmp_path: Path) -> None:
    model = network(classes=2)
    before = state(model)
    run(model, splits, tmp_path / "out", Tuning(freeze="res3"))
    moved = changed(model, before)
    kept = tuple(f"{model.stage_paths[stage]}." for stage in ("stem", "res2", "res3"))
    sgs = {name for name in before if ".sgs." in name}
    assert sgs <= moved
    assert not {name for name in moved - sgs if name.startswith(kept)}
    rest = {name for name in before if not name.startswith(kept)}
    assert rest <= moved, f"not trained: {rest - moved}"
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_parameters_that_were_frozen_before_stay_frozen(splits: dict, tmp_path: Path) -> None:
    model = network(classes=2)
    model.stem.requires_grad_(False)
    run(model, splits, tmp_path / "out", Tuning(freeze="res2"), epochs=1)
    assert not any(parameter.requires_grad for parameter in model.stem.parameters())
    assert model.head.fc.weight.requires_grad


def test_fixed_batch_norm_keeps_its_statistics_and_trains_its_scales(splits: dict, tmp_path: Path) -> None:
    model = network(classes=2)
    before = state(model)
    run(model, splits, tmp_path / "fixed", Tuning(norm="fixed"), limit_val_batches=1)  # validation changes modes too
    moved = changed(model, before)
    assert not {name for name in moved if name.endswith(NORMS)}
    assert moved == {name for name in before if not name.endswith(NORMS)}
    run(model, splits, tmp_path / "train", Tuning())
    assert {name for name in before if name.endswith(NORMS)} <= changed(model, before)


def test_earlier_weights_move_at_their_share_of_the_rate() -> None:
    model = network()
    groups = parameter_groups(model, Tuning(earlier_rate=0.1), 0.5, 0.01)
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert len(rates) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        new = ".sgs." in name or name.startswith("head.fc.")
        decay = 0.0 if parameter.ndim == 1 else 0.01
        assert rates[id(parameter)] == pytest.approx((0.5 if new else 0.05, decay)), name


def test_weight_decay_spares_batch_norm_and_biases_and_nothing_else() -> None:
    model = network()
    groups = parameter_groups(model, Tuning(), 1.0, 0.1)
    decays = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    assert len(decays) == len(list(model.parameters()))
    for name, module in model.named_modules():
        for own, parameter in module.named_parameters(recurse=False):
            spared = isinstance(module, torch.nn.BatchNorm3d) or own == "bias"
            assert decays[id(parameter)] == (0.0 if spared else 0.1), f"{name}.{own}"


def test_frozen_parameters_have_no_group() -> None:
    model = network()
    model.stem.requires_grad_(False)
    trained = {id(p) for group in parameter_groups(model, Tuning(), 1.0, 0.1) for p in group["params"]}
    assert not trained & {id(parameter) for parameter in model.stem.parameters()}


def test_balanced_draws_each_class_equally_often_and_every_item_in_its_turn() -> None:
    labels = [0] * 40 + [1] * 8 + [2] * 2
    videos = VideoList(tuple(VideoRecord(Path(f"{i}.mp4"), label) for i, label in enumerate(labels)), ("a", "b", "c"))
    dataset = ClipDataset(videos, SPEC, train=True)
    seen: Counter[int] = Counter()
    orders = []
    for epoch in (0, 1, 2, 3, 0):
        dataset.set_epoch(epoch)
        orders.append(list(EpochShuffle(dataset, 0, balanced=True)))
        assert len(orders[-1]) == 50
        counts = Counter(labels[index] for index in orders[-1])
        assert max(counts.values()) - min(counts.values()) <= 1
        assert counts.total() == 50
        within = Counter(orders[-1])
        assert max(within[i] for i in range(40)) == 1, "a frequent class's item came twice in an epoch"
        assert {within[48], within[49]} <= {8, 9}
        seen.update(orders[-1])
    assert orders[0] == orders[4] != orders[1]
    assert len({i for i in seen if i < 40}) > 30, "the same few of the frequent class again and again"


class Losses(pl.Callback):
    """Notes the loss of each batch, and the classifier after each epoch."""

    def __init__(self) -> None:
        self.seen: list[float] = []
        self.weights: list[Tensor] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, idx: int) -> None:
        self.seen.append(float(outputs["loss"]))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.weights.append(pl_module.model.head.fc.weight.detach().clone())


def test_patience_stops_and_keeps_the_best_weights(splits: dict, tmp_path: Path) -> None:
    model, epochs = network(classes=2), Losses()
    result = run(model, splits, tmp_path / "out", Tuning(patience=2), epochs=8, learning_rate=0.05, callbacks=[epochs])
    losses = [row["val/loss"] for row in result.history]
    best = losses.index(min(losses))
    assert len(losses) == best + 3 < 8  # two epochs after the best; at this rate the training goes astray
    assert torch.equal(model.head.fc.weight, epochs.weights[best])
    assert not torch.equal(epochs.weights[best], epochs.weights[-1])


def test_mixup_mixes_clips_and_labels(splits: dict, tmp_path: Path) -> None:
    plain, mixed = Losses(), Losses()
    model = network(classes=2)
    untrained = state(model)
    run(model, splits, tmp_path / "plain", Tuning(), learning_rate=0, callbacks=[plain], epochs=1)
    model.load_state_dict(untrained)
    run(model, splits, tmp_path / "mixed", Tuning(mixup=1.0), learning_rate=0, callbacks=[mixed], epochs=1)
    assert plain.seen != pytest.approx(mixed.seen)
    assert len(plain.seen) == len(mixed.seen)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"earlier_rate": 0}, "earlier_rate must be above 0 and at most 1, got 0"),
        ({"earlier_rate": 2}, "earlier_rate must be above 0"),
        ({"mixup": -1}, "mixup must be 0 or more"),
        ({"patience": 0}, "patience must be 1 epoch or more"),
        ({"norm": "frozen"}, "norm"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Tuning(**values)


def test_what_does_not_fit_the_network_or_the_data_is_refused(splits: dict, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"freeze must be a stage, one of stem, res2.*got 'layer1'"):
        run(network(classes=2), splits, tmp_path / "a", Tuning(freeze="layer1"))
    train = ClipDataset(splits["train"], SPEC, train=True)
    with pytest.raises(InputError, match="patience stops by the validation loss: fit needs val"):
        fit(network(classes=2), train, out=tmp_path / "b", tuning=Tuning(patience=1))
    assert not (tmp_path / "a").exists()
