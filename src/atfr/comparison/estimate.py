"""How long a comparison takes: from one step of the base, then corrected by what its networks took."""

import copy
import itertools
import math
import time
import timeit
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from atfr.comparison.making import TIMED_BATCH, TIMED_BATCHES, Ground, some_clips
from atfr.comparison.plans import LEAST, Plan
from atfr.comparison.rates import HELD_OUT, RATES, TRIAL
from atfr.train.tuning import frozen, set_modes

STEP = 2
"""Clips in the step that is timed."""

RUNS = 3

SETUP_S = 2.0
"""A network's own: copies, trials of its sampler, files."""


@dataclass
class Pace:
    """How fast it goes here."""

    train_s: float  # a clip through the static network, forward and backward
    test_s: float  # a clip forward
    decode_s: float  # a video
    scale: float = 1.0  # what networks took, over what was expected of them

    def network_s(self, plan: Plan, epochs: int, train_videos: float, test_videos: float, views: int = 1) -> float:
        """Return the seconds that it takes to train a network on from the base, and to test it on views of videos."""
        training = epochs * train_videos * self.train_s * plan.share
        return self.scale * (SETUP_S + training + test_videos * (self.test_s * plan.share * views + self.decode_s))


def pace_of(ground: Ground) -> Pace:
    """Time one step of the base on real clips."""
    trains = ground.epochs > 0
    videos = ground.splits["train" if trains else "test"]
    start_s = time.perf_counter()
    clips = torch.cat(list(itertools.islice(some_clips(videos, ground.spec, len(videos)), STEP))).to(ground.device)
    decode_s = (time.perf_counter() - start_s) / len(clips)
    network = copy.deepcopy(ground.base).to(ground.device)
    labels = torch.zeros(len(clips), dtype=torch.long, device=ground.device)

    def forward() -> None:
        with torch.inference_mode():
            network.eval()(clips).sum().item()

    def step() -> None:
        with frozen(network, ground.recipe.tuning):
            set_modes(network, ground.recipe.tuning)
            loss = cross_entropy(network(clips), labels)
            loss.backward()
            loss.item()

    test_s = seconds_of(forward) / len(clips)
    return Pace(seconds_of(step) / len(clips) if trains else 0.0, test_s, decode_s)


def seconds_of(work: Callable[[], None]) -> float:
    """Return the seconds of the quickest of some runs, after a first one."""
    work()
    return min(timeit.repeat(work, repeat=RUNS, number=1))


@dataclass(frozen=True)
class Work:
    """What a comparison has to do."""

    ground: Ground
    pace: Pace
    base_epochs: int  # of the base; 0 where it is there
    tuned: frozenset[str]  # kinds whose learning rate is chosen already
    done: frozenset[str]  # names of networks that are there

    def seconds(self, plans: Sequence[Plan]) -> float:
        """Return the seconds that is takes, for these networks."""
        ground, pace = self.ground, self.pace
        train, test = len(ground.splits.get("train", ())), len(ground.splits["test"])
        frames = ground.recipe.base_frames / ground.spec.frames
        total = pace.scale * self.base_epochs * train * pace.train_s * frames
        chosen = set(self.tuned)
        for plan in plans:
            if plan.name not in self.done:
                total += pace.network_s(plan, ground.epochs, train, test, ground.views.total)
                if ground.epochs and plan.kind not in chosen:
                    chosen.add(plan.kind)
                    held = HELD_OUT * train
                    epochs = math.ceil(TRIAL * ground.epochs)
                    total += len(RATES) * pace.network_s(plan, epochs, train - held, held)
        passes = 2 * TIMED_BATCHES * TIMED_BATCH
        return total + passes * pace.test_s * sum(plan.share for plan in plans if plan.views is None)

    def fitting(self, plans: Sequence[Plan], left_s: float | None) -> list[Plan]:
        """Return as many of the networks as fit into the time, the first ones; those that are there stay.

        Networks that keep as many at the same place go together: one of them says nothing.
        """
        kept = list(plans)
        while left_s is not None and self.seconds(kept) > left_s:
            spare = [plan for plan in kept[LEAST:] if plan.name not in self.done]
            if not spare:
                break
            kept = [plan for plan in kept if plan.name in self.done or plan.group != spare[-1].group]
        return kept
