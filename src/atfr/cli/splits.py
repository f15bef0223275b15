"""Data sets with several splits: a run remembers its own, and the mean over all of them is one table.

A network must not be tested on what another split trained it on. So `atfr train` writes the data set and the split into
its folder (`data.json`), and `atfr test` refuses others.
"""

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atfr.cli import common
from atfr.errors import CheckpointError, InputError
from atfr.files import read_json, write_json

if TYPE_CHECKING:
    from atfr.evaluate.result import TestResult

DATA = "data.json"
FIGURES = {"top1": "top-1", "top5": "top-5", "mean_class_accuracy": "mean class accuracy"}


def remember(out: Path, dataset: str, split: int | None) -> None:
    """Write down what a network is trained on.

    Raises:
        CheckpointError: its training was begun on something else.
    """
    ours, begun = {"dataset": dataset, "split": split}, _trained_on(out)
    if begun is not None and begun != ours:
        raise CheckpointError(f"the training in '{out}' was begun on {begun}, not on {ours}; go on with the same")
    write_json(out / DATA, ours, indent=None)


def check_split(checkpoint: Path, dataset: str | None, split: int | None) -> None:
    """Refuse to test a network on another split of the data set that it was trained on.

    Raises:
        CheckpointError: it was trained on another split.
    """
    trained = _trained_on(checkpoint)
    if trained and trained["dataset"] == dataset and trained["split"] != split:
        raise CheckpointError(
            f"'{checkpoint}' was trained on split {trained['split']} of {dataset}, so on test videos of split {split}; "
            f"test it with --split {trained['split']}"
        )


def _trained_on(folder: Path) -> dict[str, Any] | None:
    path = folder / DATA
    if not path.is_file():
        return None
    try:
        found = read_json(path)
        return {"dataset": found["dataset"], "split": found["split"]}
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"'{path}' is damaged ({error}); remove it if you know what is in it") from error


def runs(checkpoint: Path, dataset: str | None) -> dict[int, Path]:
    """Return the folder of each split's run: split1, split2 and so on in the folder given.

    Raises:
        InputError: the data set has one split only.
        CheckpointError: a run is missing.
    """
    from atfr.data.sets import DATA_SETS

    splits = DATA_SETS[dataset].SPLITS if dataset else ()
    if not splits:
        several = ", ".join(name for name, kind in DATA_SETS.items() if kind.SPLITS)
        raise InputError(f"--split all is for a --dataset with several splits ({several}), got {dataset}")
    folders = {split: checkpoint / f"split{split}" for split in splits}
    for split, folder in folders.items():
        if not folder.is_dir():
            raise CheckpointError(
                f"--split all tests the runs split1 to split{splits[-1]} in '{checkpoint}', but there is no "
                f"'{folder}'; train it with --split {split} --out {folder}"
            )
    return folders


def check_same(runs: Mapping[int, Path]) -> None:
    """Refuse to average runs of different networks or clips.

    Raises:
        CheckpointError: a run is damaged or differs from the first one; it names in what.
    """
    from atfr.evaluate.task import load_task
    from atfr.weights.checkpoint import differences, locate, read_config

    (first, expected), *others = [
        (split, {**read_config(locate(folder)[0]), "clip": load_task(folder).spec.to_dict()})
        for split, folder in runs.items()
    ]
    for split, found in others:
        differing = [
            f"{name} is {one!r} in split{first} and {other!r} in split{split}"
            for name, one, other in differences(expected, found)
        ]
        if differing:
            raise CheckpointError(
                f"--split all averages runs of one training, and these differ: {'; '.join(differing)}; train them with "
                "the same arguments, or test each with its own --split"
            )


def summary(results: Mapping[int, "TestResult"]) -> dict[str, Any]:
    """Return the figures of each split, and their means and sample standard deviations over the splits."""
    splits = {
        split: {name: getattr(result, name) for name in FIGURES}
        | {"gflops_per_clip": result.gflops_per_clip.mean, "num_videos": len(result.videos)}
        | {"num_skipped": len(result.skipped)}
        for split, result in results.items()
    }
    values = {
        name: [figures[name] for figures in splits.values() if figures[name] is not None]
        for name in (*FIGURES, "gflops_per_clip")
    }
    return {
        "splits": splits,
        "mean": {name: statistics.fmean(each) if each else None for name, each in values.items()},
        "std": {name: statistics.stdev(each) if each else None for name, each in values.items()},
    }


def report_all(results: Mapping[int, "TestResult"], out: Path | None, json: bool) -> None:
    """Write and print the figures of all splits and their means."""
    figures = summary(results)
    if out is not None:
        write_json(out / "result.json", figures)
    if json:
        common.print_json(figures)
        return
    shown = {name: title for name, title in FIGURES.items() if figures["mean"][name] is not None}
    rows = [
        [f"split {split}", *(common.percent(one[name]) for name in shown), f"{one['gflops_per_clip']:.4g}"]
        for split, one in figures["splits"].items()
    ]
    spread = [f"{common.percent(figures['mean'][name])} ± {100 * figures['std'][name]:.1f}" for name in shown]
    rows.append(["mean", *spread, f"{figures['mean']['gflops_per_clip']:.4g}"])
    note = "± the standard deviation over the splits. GFLOPs are multiply-adds / 1e9."
    common.print_table("Test", ["", *shown.values(), "GFLOPs per clip"], rows, note)
