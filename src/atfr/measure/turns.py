"""Time variants in turns: on a shared machine single times mean little, ratios within a round do."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from atfr.errors import InputError

Variant = Callable[[], object]
"""Something to time; it takes nothing, and what it returns is let go."""

Seconds = Mapping[str, float]
"""What each variant took in one round."""


@dataclass(frozen=True)
class Ratio:
    """A figure of each round, in which all noise that lasts for a round cancels: the median, and the range."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Ratio":
        """Return the median and the range of one value a round."""
        return cls(statistics.median(values), min(values), max(values))

    def to_dict(self) -> dict[str, float]:
        """Turn the ratio into plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.least:.3g} to {self.most:.3g})"


@dataclass(frozen=True)
class Timing:
    """What variants took that were run in turns."""

    seconds: dict[str, tuple[float, ...]]  # of each round, by the variant's name

    @property
    def rounds(self) -> int:
        """How often each variant was timed."""
        return len(next(iter(self.seconds.values())))

    def ms(self, name: str) -> Ratio:
        """Return the milliseconds of one variant: the median over the rounds, and the range."""
        return Ratio.of([1000 * seconds for seconds in self.seconds[name]])

    def ratio(self, formula: Callable[[Seconds], float]) -> Ratio:
        """Return what a formula of the variants' seconds gives in each round: the median, and the range.

        Examples:
            >>> timing = Timing({"static": (4.0, 8.0, 9.0), "adaptive": (2.0, 4.0, 3.0)})
            >>> str(timing.ratio(lambda s: s["static"] / (s["adaptive"] + 1)))
            '1.6 (1.33 to 2.25)'
        """
        rounds = zip(*self.seconds.values(), strict=True)
        return Ratio.of([formula(dict(zip(self.seconds, of_a_round, strict=True))) for of_a_round in rounds])

    def speedup(self, name: str, *, over: str) -> Ratio:
        """Return how many times as fast as another a variant is, by the rounds' own ratios."""
        return self.ratio(lambda s: s[over] / s[name])

    def to_dict(self) -> dict[str, Any]:
        """Turn the times into plain JSON values."""
        return {
            "rounds": self.rounds,
            "median_ms": {name: self.ms(name).median for name in self.seconds},
            "ms": {name: [round(1000 * seconds, 6) for seconds in values] for name, values in self.seconds.items()},
        }


def in_turns(
    variants: Mapping[str, Variant],
    *,
    rounds: int = 15,
    at_least: int = 7,
    budget_s: float = 20.0,
    warm_up: int = 2,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Timing:
    """Time variants in turns, warm; each round begins with another one.

    Args:
        variants: what to time, by name: each does the same work in every call. Evaluation and inference mode are theirs
            to set.
        rounds: at most so many; beyond `at_least` only within the budget.
        at_least: at least so many, however long they take.
        budget_s: seconds for all rounds, beyond `at_least`.
        warm_up: rounds before that are not counted: kernels are prepared, caches and allocators filled.
        device: where the variants run. On a CUDA device events take the time from an idle queue to the last kernel's
            end, so that neither what was queued before nor the launch of what follows is in it.
        progress: told how many rounds are done, of how many at most, before each.

    Raises:
        InputError: there is nothing to time, or no round to time it in.
    """
    if not variants or at_least < 1:
        raise InputError(f"expected variants to time and at least one round, got {len(variants)} and {at_least}")
    device = torch.device(device)
    names = list(variants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    most = max(rounds, at_least)
    for number in range(warm_up):
        progress(number, warm_up + most)
        for run in variants.values():
            run()
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()  # or it strikes one variant, and not the next
    try:
        start_s = time.perf_counter()
        for number in range(most):
            if number >= at_least and time.perf_counter() - start_s > budget_s:
                break
            progress(warm_up + number, warm_up + most)
            first = number % len(names)
            for name in names[first:] + names[:first]:
                seconds[name].append(timed(variants[name], device))
            gc.collect(0)  # what the round has made; all that was there before need not be looked through
    finally:
        if collecting:
            gc.enable()
    return Timing({name: tuple(values) for name, values in seconds.items()})


def timed(run: Variant, device: torch.device) -> float:
    """Return the seconds that one call takes, until all of its work on the device is done."""
    if device.type != "cuda":
        start_s = time.perf_counter()
        run()
        return time.perf_counter() - start_s
    with torch.cuda.device(device):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1000
