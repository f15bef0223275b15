"""The table of the study that decides, and whether it has shown what its plan says, from the rows that are there.

    python benchmarks/deciding_report.py docs/studies/deciding
    python benchmarks/deciding_report.py docs/studies/deciding_kinetics --kept 8

Rows are judged where all five folds of a seed are there, over the seeds that both sides have; what is missing is said.
"""

import argparse
import csv
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from atfr.comparison.verdict import wide_enough
from atfr.evaluate.runs import SAMPLES, Difference

FOOTAGES = ("embedded", "plain")
STATIC = ("static", 32)
KINDS = ("fewer_frames", "change", "sgs", "sgs_keep", "change_maps")
FOLDS, SEEDS, AT_INPUT = 5, 3, ("fewer_frames", "change")

Network = tuple[str, int]


@dataclass(frozen=True)
class Found:
    """What a network has found on the videos of all folds, of each seed that has them.

    Attributes:
        right: by seed, whether each video was told right.
        losses: by seed, the loss of each video.
        gflops, kept: of a clip, in the mean.
    """

    right: Mapping[int, np.ndarray]
    losses: Mapping[int, np.ndarray]
    gflops: float
    kept: float

    def mean(self, values: Mapping[int, np.ndarray]) -> float:
        """Return the mean over seeds and videos."""
        return float(np.mean([values[seed] for seed in values]))


def read(path: Path, each_kept: Sequence[int]) -> tuple[dict[str, dict[Network, Found]], list[str]]:
    """Return what was found of each footage and network, and which rows are missing."""
    rows: dict[tuple[str, Network, int], dict[int, dict[str, str]]] = defaultdict(dict)
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                network = (row["kind"], int(row["kept"]))
                rows[row["footage"], network, int(row["seed"])].setdefault(int(row["fold"]), row)
    found: dict[str, dict[Network, Found]] = {footage: {} for footage in FOOTAGES}
    missing = []
    for footage in FOOTAGES:
        for network in (STATIC, *product(KINDS, each_kept)):
            whole = {}
            for seed in range(SEEDS):
                folds = rows[footage, network, seed]
                if len(folds) == FOLDS:
                    whole[seed] = [folds[fold] for fold in range(FOLDS)]
                else:
                    lacking = [str(fold) for fold in range(FOLDS) if fold not in folds]
                    missing.append(f"{footage} {network[0]}_{network[1]} seed {seed}: folds {' '.join(lacking)}")
            if whole:
                found[footage][network] = found_in(whole)
    return found, missing


def found_in(whole: Mapping[int, Sequence[Mapping[str, str]]]) -> Found:
    """Put the rows of all folds together."""
    right = {seed: np.array([int(one) for row in rows for one in row["right"]]) for seed, rows in whole.items()}
    losses = {seed: np.array([float(x) for row in rows for x in row["losses"].split()]) for seed, rows in whole.items()}
    each = [row for rows in whole.values() for row in rows]
    gflops, kept = (np.average([float(r[name]) for r in each], weights=[int(r["videos"]) for r in each])
                    for name in ("gflops", "active_bins"))  # fmt: skip
    return Found(right, losses, float(gflops), float(kept))


def common(ours: Found, theirs: Found) -> list[int]:
    """Return the seeds that both have."""
    return sorted(ours.right.keys() & theirs.right.keys())


def interval(gaps: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of the mean over videos, of bootstrap samples of the videos."""
    picks = np.random.default_rng(0).integers(0, len(gaps), (SAMPLES, len(gaps)))
    low, high = np.quantile(gaps[picks].mean(1), (0.025, 0.975))
    return float(low), float(high)


def top1_difference(ours: Found, theirs: Found) -> Difference | None:
    """Return how much more often one is right than the other, video by video; None where no seed is complete in both.

    Of one seed the interval is never narrower than the score interval; averages over several have none.
    """
    seeds = common(ours, theirs)
    if not seeds:
        return None
    pairs = np.stack([ours.right[seed] - theirs.right[seed] for seed in seeds])
    gaps = pairs.mean(0)
    low, high = interval(gaps)
    gained, lost = int((gaps > 0).sum()), int((gaps < 0).sum())
    difference = Difference(float(gaps.mean()), low, high, gained, lost, float("nan"), len(gaps))
    return wide_enough(difference) if len(seeds) == 1 else difference


def loss_difference(ours: Found, theirs: Found) -> str:
    """Return how much larger one's loss is than the other's, with its interval."""
    seeds = common(ours, theirs)
    if not seeds:
        return ""
    gaps = np.stack([ours.losses[seed] - theirs.losses[seed] for seed in seeds]).mean(0)
    low, high = interval(gaps)
    return f"{gaps.mean():+.3f} ({low:+.3f} to {high:+.3f})"


def table(found: Mapping[Network, Found]) -> Iterator[str]:
    """Yield the lines of a footage's table."""
    yield "| network | seeds | top-1 (%) | loss | GFLOPs | kept | over static | over fewer frames | loss over these |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for network, one in found.items():
        kind, kept = network
        control = ("fewer_frames", kept if kind in AT_INPUT else 8)
        against_control = kind not in ("static", "fewer_frames") and control in found
        cells = [
            f"`{kind}` {kept}" if kind != "static" else "`static`",
            ", ".join(map(str, one.right)),
            f"{100 * one.mean(one.right):.1f}",
            f"{one.mean(one.losses):.3f}",
            f"{one.gflops:.3f}",
            f"{one.kept:.1f}",
            told(top1_difference(one, found[STATIC])) if kind != "static" and STATIC in found else "",
            told(top1_difference(one, found[control])) if against_control else "",
            loss_difference(one, found[control]) if against_control else "",
        ]
        yield "| " + " | ".join(cells) + " |"


def told(difference: Difference | None) -> str:
    """Return a difference in points with its interval."""
    return "" if difference is None else f"{difference.points} ({difference.interval})"


def criteria(found: Mapping[str, Mapping[Network, Found]], each_kept: Sequence[int]) -> Iterator[str]:
    """Yield whether each criterion of the plan is met, as far as it can be judged."""
    asked = [
        *(("embedded", ("change", a), ("fewer_frames", a), "at least +10.0, interval above 0") for a in each_kept),
        ("embedded", ("change", 8), STATIC, "mean at least -1.0"),
        *(("plain", ("change", a), ("fewer_frames", a), "mean at least -1.0, interval above -4.0") for a in each_kept),
    ]
    for footage, ours, theirs, wanted in asked:
        what = f"{footage}: {ours[0]}_{ours[1]} over {theirs[0]}_{theirs[1]}, {wanted}"
        sides = [found[footage][network] for network in (ours, theirs) if network in found[footage]]
        difference = top1_difference(*sides) if len(sides) == 2 else None
        if difference is None:
            yield f"{'no verdict':13}  {what}: rows are missing"
            continue
        least, floor = (0.10, 0.0) if "+10" in wanted else (-0.01, -0.04 if "interval" in wanted else -np.inf)
        met = round(difference.mean, 9) >= least and difference.low > floor
        seeds = common(*sides)
        verdict = ("met" if met else "missed") + (" so far" if len(seeds) < SEEDS else "")
        yield f"{verdict:13}  {what}: {told(difference)}; seeds {', '.join(map(str, seeds))}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where runs.csv is")
    parser.add_argument("--kept", type=int, nargs="+", default=[4, 8], help="frames of 32")
    options = parser.parse_args()
    found, missing = read(options.folder / "runs.csv", options.kept)
    for footage, networks in found.items():
        print(f"\n{footage}\n", *table(networks), sep="\n")
    print("", *criteria(found, options.kept), sep="\n")
    print("\nevery row is there" if not missing else "\n".join(["\nmissing", *missing]))


if __name__ == "__main__":
    main()
