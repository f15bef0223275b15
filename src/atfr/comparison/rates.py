"""The learning rate of each kind of network: of a few, the one with the least loss on training videos held out.

Every kind gets the same choice, fewer frames too: a control at somebody else's learning rate would be handicapped.
"""

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from atfr.comparison.making import Ground
from atfr.comparison.plans import Plan
from atfr.data.dataset import ClipDataset
from atfr.data.records import VideoList, rank_of
from atfr.errors import DataError
from atfr.files import write_whole

RATES = (1 / 3, 2 / 3, 4 / 3)
"""Shares of the recipe's learning rate."""

TRIAL = 0.5
"""Epochs of a trial, as a share of those of the networks."""

HELD_OUT = 0.2
"""Of the training videos of each class, where there is no split `val`."""


@dataclass
class Rates:
    """The losses of each kind at each rate, kept in a file as they come."""

    ground: Ground
    train: ClipDataset
    held_out: VideoList
    losses: dict[str, dict[float, float]] = field(default_factory=dict)  # by kind and rate

    @property
    def path(self) -> Path:
        """The file."""
        return self.ground.out / "rates.json"

    def chosen(self) -> frozenset[str]:
        """Return the kinds whose rate is known."""
        return frozenset(kind for kind, found in self.losses.items() if len(found) == len(RATES))

    def of(self, plan: Plan) -> float:
        """Return the rate for a network of this kind, chosen with this one if that was not done."""
        found = self.losses.setdefault(plan.kind, {})
        for rate in RATES:
            if rate not in found:
                found[rate] = self.loss(plan, rate)
                write_whole(self.path, json.dumps(self.losses, indent=1) + "\n")
        return min(found, key=found.__getitem__)

    def loss(self, plan: Plan, rate: float) -> float:
        """Train a network at a rate, and return its loss on the videos held out."""
        ground, folder = self.ground, self.ground.out / ".rates"
        ground.say(f"choosing the learning rate of {plan.kind}: {rate * ground.recipe.learning_rate:.2g}")
        network = ground.adapted(plan)
        ground.trained(network, self.train, rate, folder, math.ceil(TRIAL * ground.epochs))
        shutil.rmtree(folder)
        loss = ground.tested(network, self.held_out, plan.name).loss
        return math.inf if loss is None or math.isnan(loss) else loss


def read_rates(ground: Ground) -> Rates:
    """Return the rates that are known, and what the others are chosen with."""
    train, held_out = ground.splits["train"], ground.splits.get("val")
    if held_out is None:
        train, held_out = hold_out(train)
    rates = Rates(ground, ClipDataset(train, ground.spec, train=True, seed=ground.seed + 1), held_out)
    if rates.path.is_file():
        known: Mapping[str, Mapping[str, float]] = json.loads(rates.path.read_text(encoding="utf-8"))
        rates.losses = {kind: {float(rate): loss for rate, loss in found.items()} for kind, found in known.items()}
    return rates


def hold_out(videos: VideoList) -> tuple[VideoList, VideoList]:
    """Return a list without a share of each class's videos, which the hashes of their names choose, and that share.

    Raises:
        DataError: no class has two videos.
    """
    held = set()
    for label in range(len(videos.labels)):
        own = [record for record in videos.records if record.label == label]
        ranked = sorted(own, key=lambda record: rank_of(record.path.name))
        held |= set(ranked[: min(max(1, round(HELD_OUT * len(own))), len(own) - 1)])
    if not held:
        raise DataError("learning rates are chosen on training videos held out: a class needs two at least")
    parts = [tuple(record for record in videos.records if (record in held) is inside) for inside in (False, True)]
    return replace(videos, records=parts[0]), replace(videos, records=parts[1])
