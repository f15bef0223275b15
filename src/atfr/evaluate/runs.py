"""The results of several tests: read again, named, and compared video by video where that is fair."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from atfr.errors import DataError, InputError
from atfr.evaluate.result import RESULT, TestResult, VideoResult, folder_of
from atfr.files import LARGE, read_json
from atfr.weights.checkpoint import CONFIG, differences

ALPHA = 0.05
"""Differences with a larger p may be chance."""

SAMPLES = 10_000
"""Bootstrap samples of a paired difference."""

Key = tuple[str, str]
"""Label and path of a video."""


def read_result(run: Path) -> TestResult:
    """Read what a test has found.

    Args:
        run: the folder of a training whose test was run, a folder that `atfr test --out` wrote, or the file result.json
            in one of them.

    Raises:
        DataError: there is no such result, or it is damaged; it says what to do.
    """
    path = result_file(run)
    try:
        values = read_json(path, LARGE)
    except (OSError, ValueError) as error:
        raise DataError(f"'{path}' cannot be read as JSON ({error}); test the network again") from error
    if isinstance(values, dict) and "splits" in values and "videos" not in values:
        raise DataError(
            f"'{path}' holds means over splits; give the runs themselves, as {path.parent / 'split1'} and so on"
        )
    try:
        return TestResult.from_dict(values)
    except DataError as error:
        raise DataError(f"'{path}': {error}") from error


def result_file(run: Path) -> Path:
    """Return where the result of a run lies.

    Raises:
        DataError: there is none.
    """
    if run.is_file():
        return run
    for folder in (run, folder_of(run)):
        if (folder / RESULT).is_file():
            return folder / RESULT
    if not run.is_dir():
        raise DataError(f"'{run}' does not exist; expected the folder of a training, or one that `atfr test` wrote")
    if (run / CONFIG).is_file():
        raise DataError(
            f"'{run}' holds a network that was not tested; test it: atfr test --checkpoint {run} --data FOLDER_OR_CSV"
        )
    tested = [
        path for path in sorted(run.iterdir()) for folder in (path, folder_of(path)) if (folder / RESULT).is_file()
    ]
    hint = f"do you mean {' '.join(map(str, tested))}?" if tested else "`atfr test --checkpoint RUN` leaves one in RUN"
    raise DataError(f"there is no result of a test in '{run}'; {hint}")


def read_runs(runs: Sequence[Path]) -> dict[str, TestResult]:
    """Read the results of several tests, each under the shortest name that tells it from the others.

    Raises:
        DataError: a result cannot be read.
        InputError: a run is given twice.
    """
    files = [result_file(run).absolute() for run in runs]
    for number, file in enumerate(files):
        if any(file.samefile(other) for other in files[:number]):
            raise InputError(f"'{runs[number]}' is given twice; each run is compared with the others once")
    return dict(zip(short_names(files), map(read_result, files), strict=True))


def short_names(files: Sequence[Path]) -> list[str]:
    """Return for each file the last parts of its path that tell it from the others; what all results have is left out.

    Examples:
        >>> short_names([Path("/runs/static/test/result.json"), Path("/runs/adaptive/test/result.json")])
        ['static', 'adaptive']
    """
    parts = [list(file.parts) for file in files]
    for own in parts:
        if own[-1] == RESULT and len(own) > 2:
            own.pop()
        if own[-1] == folder_of(Path()).name and len(own) > 2:
            own.pop()
    if len({tuple(own) for own in parts}) < len(parts):  # RUN/result.json beside RUN/test/result.json
        parts = [list(file.parts) for file in files]
    longest = max(map(len, parts))
    for length in range(1, longest + 1):
        names = [str(Path(*own[-length:])) for own in parts]
        if len(set(names)) == len(names):
            return names
    raise InputError(f"a file is given twice: {', '.join(map(str, files))}")


def bases(runs: Mapping[str, TestResult]) -> dict[str, str]:
    """Return for each run with SGS, or with something in its place, the static run of the same network if there is one.

    They must be comparable, too: else the line between them would say nothing.
    """
    found: dict[str, str] = {}
    for name, result in runs.items():
        for base, static in runs.items():
            same = all(result.network[key] == static.network[key] for key in ("model", "arguments"))
            adapted = result.network["sgs"] is not None and static.network["sgs"] is None
            if same and adapted and not why_not_comparable(static, result):
                found.setdefault(name, base)
    return found


def costs(runs: Mapping[str, TestResult]) -> tuple[str, dict[str, float]]:
    """Return of what the cost is told, a clip, or a video where views stop; and its mean GFLOPs by run."""
    if any(result.stopped for result in runs.values()):
        return "video", {name: result.gflops_per_video for name, result in runs.items()}
    return "clip", {name: result.gflops_per_clip.mean for name, result in runs.items()}


def why_not_comparable(first: TestResult, other: TestResult) -> list[str]:
    """Return why two results cannot be compared video by video, in words; nothing where they can."""
    reasons = []
    ours, theirs = by_key(first, other)
    if ours.keys() != theirs.keys():
        common = len(ours.keys() & theirs.keys())
        reasons.append(f"other test videos ({len(ours)} and {len(theirs)}, {common} of them in both)")
    if set(first.labels) != set(other.labels):
        reasons.append(f"other classes ({len(first.labels)} and {len(other.labels)})")
    ours_taken, theirs_taken = ({**one.views, "settled": None} for one in (first, other))  # when they stop is cost
    if clips := differences(ours_taken, theirs_taken):
        told = ", ".join(f"{name} {one} and {two}" for name, one, two in clips)
        reasons.append(f"other clips ({told})")
    return reasons


def by_key(first: TestResult, other: TestResult) -> tuple[dict[Key, VideoResult], dict[Key, VideoResult]]:
    """Return the videos of both results by label and path.

    Paths count from the folder that all videos lie in where no path is in both: the data may have moved.
    """
    whole = [{(video.label, video.path): video for video in result.videos} for result in (first, other)]
    if whole[0].keys() & whole[1].keys():
        return whole[0], whole[1]
    roots = [os.path.commonpath([Path(path).parent for _, path in each]) for each in whole]
    ours, theirs = (
        {(label, os.path.relpath(path, root)): video for (label, path), video in each.items()}
        for each, root in zip(whole, roots, strict=True)
    )
    return ours, theirs


@dataclass(frozen=True)
class Difference:
    """How much more often one network is right than another on the same videos, as shares of 1."""

    mean: float  # of the videos
    low: float  # its 95 % interval, of bootstrap samples of the videos
    high: float
    gained: int  # videos that only this one tells right
    lost: int  # videos that only the other one tells right
    p: float  # of McNemar's exact test: how often networks that are equally good would differ in as uneven a way
    videos: int  # all of them

    @property
    def points(self) -> str:
        """The mean in percentage points."""
        return f"{100 * self.mean:+.1f}"

    @property
    def interval(self) -> str:
        """The interval in percentage points."""
        return f"{100 * self.low:+.1f} to {100 * self.high:+.1f}"

    @property
    def in_points(self) -> str:
        """The mean and the interval."""
        return f"{self.points} ({self.interval})"

    @property
    def certainty(self) -> str:
        """What McNemar's test says, in words."""
        return f"p = {self.p:.2g}{'' if self.p < ALPHA else ', which may be chance'}"


def paired_difference(result: TestResult, reference: TestResult) -> Difference:
    """Compare two networks video by video; the results must be comparable.

    Source: McNemar 1947; exact: of the videos that one network alone tells right, each is as likely to tell.
    """
    from scipy.stats import binomtest

    ours, theirs = by_key(result, reference)
    gained = sum(video.correct and not theirs[key].correct for key, video in ours.items())
    lost = sum(theirs[key].correct and not video.correct for key, video in ours.items())
    total = len(ours)
    shares = [gained / total, lost / total, 1 - (gained + lost) / total]
    samples = np.random.default_rng(0).multinomial(total, shares, SAMPLES)  # what resampling videos comes to
    low, high = np.quantile((samples[:, 0] - samples[:, 1]) / total, (0.025, 0.975))
    p = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    return Difference((gained - lost) / total, float(low), float(high), gained, lost, p, total)


@dataclass(frozen=True)
class LossDifference:
    """How much larger one network's loss is than another's on the same videos: the mean, and its 95 % interval."""

    mean: float
    low: float
    high: float


def loss_difference(result: TestResult, reference: TestResult) -> LossDifference | None:
    """Compare two networks' losses video by video; None where a loss is not known. The results must be comparable."""
    ours, theirs = by_key(result, reference)
    pairs = [(video.loss, theirs[key].loss) for key, video in ours.items()]
    gaps = np.array([one - other for one, other in pairs if one is not None and other is not None])
    if len(gaps) < len(pairs):
        return None
    return LossDifference(float(gaps.mean()), *bootstrapped(gaps))


def bootstrapped(gaps: Float[np.ndarray, " N"]) -> tuple[float, float]:
    """Return the 95 % interval of the mean of some videos' differences, of bootstrap samples of the videos."""
    rng = np.random.default_rng(0)
    rows = max(1, 2**20 // len(gaps))  # samples at a time
    means = [
        gaps[rng.integers(0, len(gaps), (min(rows, SAMPLES // 5 - done), len(gaps)))].mean(1)
        for done in range(0, SAMPLES // 5, rows)
    ]
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return float(low), float(high)
