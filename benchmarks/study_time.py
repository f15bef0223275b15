"""Milliseconds a clip of the networks that benchmarks/study.py left, on real clips, the networks taking turns.

    python benchmarks/study_time.py ut_interaction/manifest.csv --work runs/study --fold 0 --seed 0

One process; batches of 8 clips and of 1; the median over batches of the ratio to the static network, with its range.
"""

import argparse
import statistics
from pathlib import Path

import torch

from atfr.data.dataset import ClipDataset
from atfr.data.records import read_csv
from atfr.evaluate.task import load_checkpoint
from atfr.quickstart.compare import side_by_side_ms

VARIANTS = ("static", "linear_mean_32_in_time", "linear_mean_32", "linear", "uniform", "average", "random")
CLIPS = 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, help="a CSV file with the columns path, label and fold")
    parser.add_argument("--work", type=Path, default=Path("runs/study"))
    parser.add_argument("--classes", type=int, default=6)
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    name = f"{options.classes}_classes_fold_{options.fold}_seed_{options.seed}"
    folders = {variant: options.work / f"{name}_{variant}" for variant in VARIANTS}
    loaded = {variant: load_checkpoint(path) for variant, path in folders.items() if (path / "task.json").exists()}
    networks = {variant: model for variant, (model, _) in loaded.items()}
    data = ClipDataset(read_csv(options.data, test_fold=options.fold)["test"], loaded["static"][1].spec, train=False)
    clips = torch.cat([data[index][0] for index in range(min(CLIPS, len(data)))])
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}")
    for size in (1, 8):
        ms = side_by_side_ms(networks, clips.split(size))
        for variant, values in ms.items():
            ratios = [static / own for static, own in zip(ms["static"], values, strict=True)]
            print(
                f"batches of {size}, {variant}: {statistics.median(values):.1f} ms a clip, "
                f"{statistics.median(ratios):.2f} x as fast as static ({min(ratios):.2f} to {max(ratios):.2f})"
            )


if __name__ == "__main__":
    main()
