"""What a comparison comes to: each network beside static and beside fewer frames, and one sentence on what to take."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from atfr.comparison.making import Row
from atfr.comparison.plans import ADAPTIVE, CHANGE, FEWER_FRAMES, FEWER_VIEWS, STATIC, UNTIL_SETTLED, Plan
from atfr.evaluate.analysis import wilson
from atfr.evaluate.result import TestResult
from atfr.evaluate.runs import Difference, LossDifference, loss_difference, paired_difference

Z95 = statistics.NormalDist().inv_cdf(0.975)

SAME_TIME = 1.1
"""Times whose ratio is below this are taken for the same: they come from a machine that does other things too."""


@dataclass(frozen=True)
class Beside:
    """A network beside another, on the same videos."""

    other: str
    top1: Difference  # how much more often it is right
    loss: LossDifference | None  # how much larger its loss is; None where a loss is not known


@dataclass(frozen=True)
class Verdict:
    """What to take.

    Attributes:
        take: the name of the network; None where the videos decide nothing.
        sentence: for a reader.
    """

    take: str | None
    sentence: str


def beside(result: TestResult, name: str, other: TestResult) -> Beside:
    """Hold a network against another."""
    return Beside(name, wide_enough(paired_difference(result, other)), loss_difference(result, other))


def wide_enough(difference: Difference) -> Difference:
    """Return a difference whose interval is not narrower than the score interval.

    A bootstrap of videos of which none has changed has no width, however few they are.
    """
    mean = difference.mean
    low, high = (end_of_score_interval(difference, mean, to) for to in (-1.0, 1.0))
    return replace(difference, low=min(difference.low, low), high=max(difference.high, high))


def end_of_score_interval(difference: Difference, start: float, stop: float) -> float:
    """Return how far from the mean a true difference may lie that the videos do not refute at 5 %, by bisection.

    Source: Tango 1998, Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design.
    """
    total, gained, lost = difference.videos, difference.gained, difference.lost
    for _ in range(40):
        true = (start + stop) / 2
        b = (2 * total - gained + lost) * true - gained - lost
        share_lost = (math.sqrt(max(0.0, b * b + 8 * total * lost * true * (1 - true))) - b) / (4 * total)
        variance = total * (2 * share_lost + true * (1 - true))
        refuted = (gained - lost - total * true) ** 2 > Z95**2 * variance
        start, stop = (start, true) if refuted else (true, stop)
    return start


@dataclass(frozen=True)
class Findings:
    """The rows of a comparison, and what they say."""

    plans: Mapping[str, Plan]  # of the rows, by name
    rows: Mapping[str, Row]
    margin: float  # the share of the videos that may be lost: within it a network is level with static

    def over_static(self, name: str) -> Beside:
        """Hold a network against all frames."""
        return beside(self.rows[name].test, STATIC, self.rows[STATIC].test)

    def over(self, name: str, other: str) -> Difference:
        """Return how much more often a network is right than another."""
        return wide_enough(paired_difference(self.rows[name].test, self.rows[other].test))

    def control(self, name: str) -> str | None:
        """Return which network on fewer frames a network is held against: as many, or those that cost no more.

        Where all cost more, the cheapest of them. Views that stop are held against the fewest views of every video that
        cost no less.
        """
        plan, own = self.plans[name], self.gflops(name)
        if plan.kind in (STATIC, FEWER_FRAMES, FEWER_VIEWS):
            return None
        kinds = (FEWER_VIEWS, STATIC) if plan.kind == UNTIL_SETTLED else (FEWER_FRAMES,)  # static has all views
        of = {one.name: self.gflops(one.name) for one in self.plans.values() if one.kind in kinds}
        if plan.kind == UNTIL_SETTLED:
            return min((other for other in of if of[other] >= 0.999 * own), key=of.__getitem__, default=None)
        if plan.kind == CHANGE and (same := f"{FEWER_FRAMES}_{plan.kept}") in of:
            return same
        affordable = [other for other in of if of[other] <= 1.02 * own]
        return max(affordable, key=of.__getitem__) if affordable else min(of, key=of.__getitem__, default=None)

    def over_control(self, name: str) -> Beside | None:
        """Hold a network against fewer frames."""
        control = self.control(name)
        return None if control is None else beside(self.rows[name].test, control, self.rows[control].test)

    def gflops(self, name: str) -> float:
        """Return the multiply-adds / 1e9 of a video, in the mean."""
        return self.rows[name].test.gflops_per_video

    def level(self, name: str) -> bool:
        """Whether a network is shown to lose no more than the margin."""
        return self.over(name, STATIC).low >= -self.margin

    def adaptive(self, name: str) -> bool:
        """Whether the sampler of a network looks at the clip."""
        return self.plans[name].kind in ADAPTIVE

    def time(self, name: str) -> float:
        """Return the time of a network, as a share of static's."""
        return self.rows[name].time_share

    def frontier(self, figure: str) -> list[str]:
        """Return the networks, from cheap to dear, than which none that costs less is as often right.

        Args:
            figure: what cost is: "gflops" or "time".
        """
        cost = self.gflops if figure == "gflops" else self.time
        found: list[str] = []
        for name in sorted(self.rows, key=lambda name: (cost(name), -self.rows[name].test.top1)):
            if not found or self.rows[name].test.top1 > self.rows[found[-1]].test.top1:
                found.append(name)
        return found

    def verdict(self) -> Verdict:
        """Return what to take: the quickest network that is shown level with static, if there is one.

        One whose sampler looks is named only where it is shown to be better than evenly spaced frames or maps that cost
        no more, or where nothing evenly spaced that is as quick is shown level.
        """
        static, others = self.rows[STATIC].test, [name for name in self.rows if name != STATIC]
        videos, chance = len(static.videos), 1 / static.num_classes
        if wilson(sum(video.correct for video in static.videos), videos)[0] <= chance:
            return Verdict(
                None,
                f"These {videos} videos decide nothing: static is right in {100 * static.top1:.0f} % of them, guessing "
                f"would be in {100 * chance:.0f} %.",
            )
        quick = sorted((name for name in others if self.level(name) and self.time(name) < 1), key=self.time)
        if not quick:
            return self.none_is_level(others, videos)
        best = quick[0]
        as_quick = [name for name in others if self.time(name) <= SAME_TIME * self.time(best)]
        if self.adaptive(best):
            level_uniform = [name for name in quick if name in as_quick and not self.adaptive(name)]
            if level_uniform and not self.shown_better(best, level_uniform[0]):
                best = level_uniform[0]
        else:
            better = [name for name in as_quick if self.adaptive(name) and self.shown_better(name, best)]
            best = max(better, key=lambda name: self.rows[name].test.top1, default=best)
        told = f"Take {self.plans[best].words}: {self.words(best)}; {self.ending(best)}."
        return Verdict(best, told + self.better_still(best, others))

    def better_still(self, best: str, others: Sequence[str]) -> str:
        """Return which network that costs more than the one to take, and less than static, is shown to be better."""
        better = [name for name in others if self.time(name) < 1 and self.shown_better(name, best)]
        if not better:
            return ""
        name = max(better, key=lambda name: (self.rows[name].test.top1, -self.time(name)))
        over = points(self.over(name, best))
        return f" Better still at {self.time(name):.2f}: {self.plans[name].words} ({over})."

    def shown_better(self, name: str, other: str) -> bool:
        """Whether a network is shown to be right more often than another."""
        return self.over(name, other).low > 0

    def words(self, name: str) -> str:
        """Return how a network stands beside static."""
        difference = self.over(name, STATIC)
        stand = "better than" if difference.low > 0 else "level with"
        return f"{stand} static at {self.time(name):.2f} of its time ({points(difference)})"

    def ending(self, name: str) -> str:
        """Return what adaptivity has to do with it."""
        videos = len(self.rows[STATIC].test.videos)
        if not self.adaptive(name):
            return f"adaptivity brings nothing that these {videos} videos show"
        control = self.control(name)
        if control is None:
            return "nothing that does not look was tried at its cost"
        told = f"than {self.plans[control].words} ({points(self.over(name, control))})"
        return f"better {told}" if self.shown_better(name, control) else f"that it is better {told} is not shown"

    def none_is_level(self, others: Sequence[str], videos: int) -> Verdict:
        """Return what to take where no cheaper network is shown level with static."""
        differences = {name: self.over(name, STATIC) for name in others}
        nearest = max(others, key=lambda name: (differences[name].mean, -self.time(name)))
        told = f"{self.plans[nearest].words}, comes nearest ({points(differences[nearest])})"
        if all(one.high < 0 for one in differences.values()):
            return Verdict(STATIC, f"Take {self.plans[STATIC].words}: whatever costs less loses; {told}.")
        shown = self.shown_all_the_same(others)
        return Verdict(
            None,
            f"These {videos} videos decide {'little' if shown else 'nothing'}: no cheaper network is shown within "
            f"{100 * self.margin:g} points of static, and not all are shown to lose; {told}. More test videos would "
            f"tell.{shown}",
        )

    def shown_all_the_same(self, others: Sequence[str]) -> str:
        """Return where a sampler that looks is shown to be better than fewer frames, in top-1, or else in the loss."""
        top1, losses = [], []
        for name in others:
            over = self.over_control(name) if self.adaptive(name) else None
            if over and over.top1.low > 0:
                told = f" {name} is right more often than {over.other} ({points(over.top1)})."
                top1.append((over.top1.mean, told))
            if over and over.loss and over.loss.high < 0:
                mean, low, high = over.loss.mean, over.loss.low, over.loss.high
                interval = f"{mean:+.2f}, 95 %: {low:+.2f} to {high:+.2f}"
                losses.append((-mean, f" The loss of {name} is below that of {over.other} ({interval})."))
        return max(top1 or losses or [(0.0, "")])[1]


def points(difference: Difference) -> str:
    """Return a difference in points, with its interval."""
    return f"{difference.points} points, 95 %: {difference.interval}"
