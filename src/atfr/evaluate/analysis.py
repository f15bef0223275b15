"""What the videos of a test tell: how maps kept go with motion and with being right, what is confused, how sure it is.

Everything is computed from a `TestResult` alone.
"""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from atfr.evaluate.result import ClassResult, TestResult, VideoResult

CALIBRATION_BINS = 15


def rank_correlation(first: Sequence[float], other: Sequence[float]) -> float:
    """Return Spearman's rank correlation of two rows of numbers, ties at their mean rank; NaN where one is constant."""
    from scipy.stats import spearmanr

    if len(first) == 0 or np.ptp(first) == 0 or np.ptp(other) == 0:
        return math.nan
    return float(spearmanr(first, other).statistic)


@dataclass(frozen=True)
class MotionRelation:
    """How the maps kept at a site go with motion: rank correlations, NaN where there is nothing to rank.

    Attributes:
        clips: over all clips.
        videos: over videos, of their clips' means.
        within_class: over the videos of a class, the mean of the classes.
    """

    clips: float
    videos: float
    within_class: float


def motion_relation(result: TestResult, site: str) -> MotionRelation:
    """Correlate the maps that clips keep at a site with the motion in the same clips."""
    kept = [count for video in result.videos for count in video.active_bins[site]]
    motion = [energy for video in result.videos for energy in video.motion]
    within = [rank_correlation(*video_means(videos, site)) for videos in result.by_class.values()]
    within = [value for value in within if not math.isnan(value)]
    return MotionRelation(
        rank_correlation(kept, motion),
        rank_correlation(*video_means(result.videos, site)),
        statistics.fmean(within) if within else math.nan,
    )


def video_means(videos: Sequence[VideoResult], site: str) -> tuple[list[float], list[float]]:
    """Return each video's mean number of maps kept at a site, and its mean motion."""
    kept = [statistics.fmean(video.active_bins[site]) for video in videos]
    return kept, [statistics.fmean(video.motion) for video in videos]


@dataclass(frozen=True)
class Group:
    """Videos whose clips keep so many maps on average, from `low` to below `high`, and how many of them are right."""

    low: int
    high: int
    videos: int
    correct: int

    @property
    def accuracy(self) -> float:
        """The share that is right."""
        return self.correct / self.videos

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the accuracy (Wilson 1927), which is good for few videos too."""
        return wilson(self.correct, self.videos)


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share."""
    from scipy.stats import binomtest

    interval = binomtest(successes, trials).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def accuracy_by_bins(result: TestResult, site: str, most: int = 10) -> list[Group]:
    """Group videos by the mean number of maps they keep at a site: whole numbers, or as many together as it takes.

    Args:
        most: groups, at most.
    """
    kept, _ = video_means(result.videos, site)
    first, last = math.floor(min(kept)), math.floor(max(kept))
    width = -(-(last + 1 - first) // most)
    places = [(math.floor(mean) - first) // width for mean in kept]
    groups = Counter(places)
    right = Counter(place for place, video in zip(places, result.videos, strict=True) if video.correct)
    return [
        Group(first + number * width, first + (number + 1) * width, groups[number], right[number])
        for number in sorted(groups)
    ]


@dataclass(frozen=True)
class Confidence:
    """Videos whose prediction has a probability from `low` to `high`: their mean probability, and the share right."""

    low: float
    high: float
    videos: int
    probability: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """How probabilities go with being right.

    Attributes:
        bins: those in which videos are.
        error: the expected calibration error: the mean over videos of the gap between their bin's probability and its
            accuracy.
    """

    bins: tuple[Confidence, ...]
    error: float


def calibration(result: TestResult, num_bins: int = CALIBRATION_BINS) -> Calibration:
    """Compare the probabilities of predictions with the share that is right, in bins of equal width.

    Videos whose probability is not finite are left out.

    Source: Guo et al. 2017, Eq. 2-3 (https://arxiv.org/abs/1706.04599), who take 15 bins.
    """
    videos = [video for video in result.videos if math.isfinite(video.probability)]
    members: dict[int, list[VideoResult]] = {}
    for video in videos:
        members.setdefault(max(0, math.ceil(video.probability * num_bins) - 1), []).append(video)
    bins = tuple(
        Confidence(
            number / num_bins,
            (number + 1) / num_bins,
            len(inside),
            statistics.fmean(video.probability for video in inside),
            sum(video.correct for video in inside) / len(inside),
        )
        for number, inside in sorted(members.items())
    )
    gaps = [one.videos * abs(one.accuracy - one.probability) for one in bins]
    return Calibration(bins, sum(gaps) / len(videos) if videos else math.nan)


@dataclass(frozen=True)
class Confusion:
    """How many videos of each class (down) are told to be of each class (across)."""

    labels: tuple[str, ...]
    counts: Int[np.ndarray, "K K"]

    @property
    def shares(self) -> Float[np.ndarray, "K K"]:
        """The counts as shares of each class's videos; 0 for classes that are only predicted."""
        totals = self.counts.sum(1, keepdims=True)
        return self.counts / np.maximum(totals, 1)

    def part(self, most: int) -> tuple[tuple[str, ...], Float[np.ndarray, "L M"]]:
        """Return the shares of the classes that are confused most, a last column for all others, if some are left out.

        Classes that are taken for each other stand side by side; of no more classes than `most`, all are there.
        """
        if len(self.labels) <= most:
            return self.labels, self.shares
        involved = [name for pair in self.pairs(most * most) for name in pair[:2]]
        labels = tuple(dict.fromkeys([*involved, *self.labels]))[:most]
        place = [self.labels.index(label) for label in labels]
        rows = self.shares[place]
        inside = rows[:, place]
        return labels, np.hstack([inside, rows.sum(1, keepdims=True) - inside.sum(1, keepdims=True)])

    def pairs(self, most: int) -> list[tuple[str, str, int, float]]:
        """Return what is confused most: label, prediction, videos, share of the label's; most videos first."""
        wrong = [cell for cell in self.cells() if cell[0] != cell[1]]
        return sorted(wrong, key=lambda cell: (-cell[2], -cell[3]))[:most]

    def cells(self) -> list[tuple[str, str, int, float]]:
        """Return what is taken for what, right or wrong: label, prediction, videos, share of the label's."""
        shares = self.shares
        return [
            (self.labels[row], self.labels[column], int(self.counts[row, column]), float(shares[row, column]))
            for row, column in zip(*self.counts.nonzero(), strict=True)
        ]


def confusion(result: TestResult) -> Confusion:
    """Count what is taken for what, over the classes that are tested or predicted, in the network's order."""
    seen = {name for video in result.videos for name in (video.label, video.prediction)}
    labels = tuple(label for label in result.labels if label in seen)
    place = {label: number for number, label in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels)), dtype=np.int64)
    for video in result.videos:
        counts[place[video.label], place[video.prediction]] += 1
    return Confusion(labels, counts)


def resolution_ends(result: TestResult, site: str, ends: int) -> tuple[list[ClassResult], list[ClassResult]]:
    """Return the classes whose clips keep fewest and most maps at a site, from fewest to most.

    Args:
        ends: classes at either end; where there are no more than twice as many, all are at the first.

    Source: Fayyaz et al. 2021, Table 5.
    """
    ordered = sorted(result.classes, key=lambda one: one.active_bins[site].mean)
    if len(ordered) <= 2 * ends:
        return ordered, []
    return ordered[:ends], ordered[-ends:]


@dataclass(frozen=True)
class MapUse:
    """What becomes of the maps that come into a site, as shares of 1 over all clips.

    Attributes:
        kept: maps that go on (A / T).
        dropped: maps that are in none of those.
        down_weighted: maps with less than half the weight of the one that counts most in their bin.
        clips_with_dropped: clips that drop a map.
    """

    kept: float
    dropped: float
    down_weighted: float
    clips_with_dropped: float


def map_use(result: TestResult, site: str) -> MapUse:
    """Sum up what becomes of the maps that come into a site."""
    sites = [video.sites[site] for video in result.videos]
    maps = sum(sum(counts.maps) for counts in sites)
    dropped = [count for counts in sites for count in counts.dropped]
    return MapUse(
        sum(sum(counts.active_bins) for counts in sites) / maps,
        sum(dropped) / maps,
        sum(sum(counts.down_weighted) for counts in sites) / maps,
        sum(count > 0 for count in dropped) / len(dropped),
    )


def correct_and_wrong(result: TestResult, site: str) -> tuple[list[float], list[float]]:
    """Return the mean number of maps kept at a site by each video that is classified correctly, and by each other."""
    kept, _ = video_means(result.videos, site)
    by_video = list(zip(kept, result.videos, strict=True))
    return [mean for mean, video in by_video if video.correct], [mean for mean, video in by_video if not video.correct]
