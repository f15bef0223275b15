"""Where keeping frames by change wins and where it loses: each disturbance alone, uniform frames beside it.

    for seed in 0 1 2; do atfr quickstart --seed $seed --out runs/seed$seed; done
    python benchmarks/disturbances.py runs/seed0 runs/seed1 runs/seed2 --out docs/studies/disturbances.csv

The networks of each quickstart, trained on mixed footage, are tested on sets of 150 videos that they have not seen,
whose videos all have one disturbance (or none). OUT gets a row for each set, run and network; those that are there are
passed over.
"""

import argparse
import csv
from pathlib import Path
from typing import get_args

from atfr.adapt.trace import INPUT, site_names
from atfr.comparison.placement import placements
from atfr.data.records import read_folder
from atfr.data.sample_footage import Footage
from atfr.data.samples import render_samples
from atfr.evaluate.task import load_checkpoint
from atfr.evaluate.test import test

NETWORKS = ("static", "fewer_frames", "adaptive")
COLUMNS = "footage run network videos top1 gflops inside".split()
SEED = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+", help="folders that `atfr quickstart` wrote")
    parser.add_argument("--out", type=Path, required=True, help="the CSV file")
    parser.add_argument("--work", type=Path, default=Path("runs/disturbances"), help="where videos are rendered")
    options = parser.parse_args()
    done = set()
    if options.out.exists():
        with options.out.open(newline="", encoding="utf-8") as file:
            done = {(row["footage"], row["run"], row["network"]) for row in csv.DictReader(file)}
    for footage in get_args(Footage):
        root = options.work / footage
        render_samples(root, clips_per_class_train=1, clips_per_class_test=25, seed=SEED, footage=footage)
        videos = read_folder(root)["test"]
        for run in options.runs:
            for name in NETWORKS:
                if (footage, run.name, name) in done:
                    continue
                model, task = load_checkpoint(run / name)
                result = test(model, videos, task.spec, num_clips=1, num_crops=1)
                sampled = INPUT in site_names(model)
                inside = placements({name: model}, videos, task.spec)[name].inside if sampled else ""
                row = [footage, run.name, name, len(result.videos), f"{result.top1:.4f}"]
                row += [f"{result.gflops_per_clip.mean:.5f}", inside and f"{inside:.4f}"]
                append(options.out, row)
                print(*row, flush=True)


def append(path: Path, row: list[object]) -> None:
    """Append a row, below the names of the columns."""
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, row] if new else [row])


if __name__ == "__main__":
    main()
