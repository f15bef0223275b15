"""Milliseconds a clip of the networks that benchmarks/study.py left, on real clips, the networks taking turns.

    python benchmarks/study_time.py ut_interaction/manifest.csv --work runs/study --fold 0 --seed 0

One process; batches of 8 clips and of 1; the median over batches of the ratio to the static network, with its range.
"""

from pathlib import Path

import torch

from atfr.data.dataset import ClipDataset
from atfr.data.records import read_csv
from atfr.evaluate.task import load_checkpoint
from atfr.measure import script_options, write_result
from atfr.measure.eager import forward_in_turns

VARIANTS = ("static", "linear_mean_32_in_time", "linear_mean_32", "linear", "uniform", "average", "random")
CLIPS = 24


def main() -> None:
    parser = script_options(__doc__)
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
    results = {}
    for size in (1, 8):
        batches = clips.split(size)
        timing = forward_in_turns(networks, batches, at_least=3 if options.quick else len(batches), budget_s=0)
        for variant in networks:
            ratio = timing.speedup(variant, over="static")
            print(f"batches of {size}, {variant}: {timing.ms(variant).median / size:.1f} ms a clip, {ratio} x as fast")
        results[f"batches of {size}"] = timing.to_dict()
    write_result(
        options.out, results, inputs={"data": str(options.data), "networks": list(networks), "clips": len(clips)}
    )


if __name__ == "__main__":
    main()
