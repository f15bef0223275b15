"""`atfr test`: the multi-view test of a trained network, as a table, JSON and CSV."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from atfr.checks import Precision
from atfr.cli import common, splits
from atfr.cli.clips import TestClip
from atfr.errors import InputError
from atfr.video.spec import ViewSpec
from atfr.words import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from atfr.evaluate.forward import Pass
    from atfr.evaluate.predict import Loaded, Views
    from atfr.evaluate.result import ClassResult, TestResult
    from atfr.models import VideoModel

TRAINED_CLIP = TestClip()
SHOWN = 3  # classes at either end
WIDE = 20
"""Points of accuracy: a wider interval decides little."""


def test(
    *,
    checkpoint: Path,
    data: Path,
    views: str = "10x3",
    crops: Literal["uniform", "random"] = "uniform",
    seed: int = 0,
    clip: TestClip = TRAINED_CLIP,
    test_fold: int | None = None,
    dataset: common.DataSetName | None = None,
    split: int | Literal["all"] | None = None,
    num_bins: int | list[int] | None = None,
    batch_size: int = 8,
    num_workers: int = 0,
    device: str = "auto",
    precision: Precision = "float32",
    max_skipped: float = 0.25,
    engine: Literal["here", "ray"] = "here",
    address: str | None = None,
    out: Path | None = None,
    json: bool = False,
) -> None:
    """Test a trained network on the test split: accuracy, GFLOPs per clip, time per clip, active bins.

    Of a folder without `train` and `test` inside, the test split is the fifth of each class that `atfr train` holds
    out. Videos that do not decode are left out, counted and named. Several processes share the videos, each tested
    once: torchrun --nproc-per-node 4 --no-python atfr test ...

    Args:
        crops: Crops along the longer side, or anywhere at random, as the paper says.
        seed: Of random crops.
        clip: The clip, where it is not that of the training.
        split: The split of UCF101 or HMDB51; all tests the runs split1, split2 and split3 in the folder `checkpoint`,
            each on its own, and gives the mean; they must be of the same network and clip.
        max_skipped: The share of the videos that may fail to decode.
        engine: Where videos are decoded and run: in this process, or by workers on Ray, as `atfr bulk` has them.
        out: A folder for result.json, videos.csv (one row a video), classes.csv, and skipped.csv where some are; by
            default `test` in the folder `checkpoint`. `atfr report` reads it.
    """
    asked = common.parse_views(views)
    if out is not None and out.exists() and not out.is_dir():
        raise InputError(f"--out is a folder for result.json, videos.csv and classes.csv, '{out}' is a file")

    if on_ray := engine == "ray":
        given = {"crops": crops, "num_workers": num_workers}
        common.refuse(test, given, "--engine ray has workers of its own, and takes uniform crops")
    else:
        common.refuse(test, {"address": address}, "a cluster is for --engine ray")

    def run(checkpoint: Path, split: int | None) -> "TestResult":
        model, task = common.load(checkpoint, "cpu" if on_ray else device, num_bins)
        from atfr.evaluate import test as evaluate

        videos = common.read_data(data, task.labels, test_fold, dataset, split)["test"]
        splits.check_split(checkpoint, dataset, split)
        changed = {
            "--num_bins": num_bins is not None,
            "--clip": clip.over(task.spec) != task.spec,
            "--crops": crops != "uniform",
        }
        view_spec = common.views_of(asked, task, checkpoint, changed)
        with common.progress("testing" if split is None else f"testing split {split}") as progress:
            workers = on_workers(model, batch_size, precision, view_spec, device, address, progress)
            return evaluate.test(
                model,
                videos,
                clip.over(task.spec),
                **asdict(view_spec),
                crops=crops,
                seed=seed,
                batch_size=batch_size,
                num_workers=num_workers,
                precision=precision,
                max_skipped=max_skipped,
                progress=(lambda *_: None) if on_ray else progress,
                elsewhere=workers if on_ray else None,
            )

    if split != "all":
        with common.process_group() as first:
            result = run(checkpoint, split)
        if first:
            report(result, out, checkpoint, json)
        return
    folders = splits.runs(checkpoint, dataset)
    splits.check_same(folders)
    with common.process_group() as first:
        results = {number: run(folder, number) for number, folder in folders.items()}
    if first:
        for number, result in results.items():
            write(result, out and out / f"split{number}", folders[number])
        splits.report_all(results, out, json)


def on_workers(
    model: "VideoModel",
    batch_size: int,
    precision: Precision,
    view_spec: ViewSpec,
    device: str,
    address: str | None,
    progress: "Callable[[int, int], None]",
) -> "Callable[[Views], Iterator[tuple[Loaded, Pass | None]]]":
    """Return what has the workers of a Ray cluster decode and run."""

    def outcomes(files: "Views") -> "Iterator[tuple[Loaded, Pass | None]]":
        from atfr.bulk.cluster import cluster, resources
        from atfr.bulk.engine import Settings
        from atfr.bulk.network import together
        from atfr.bulk.testing import outcomes_on_ray

        with cluster(address):
            gpu = device == "cuda" or (device == "auto" and resources()[2] > 0)
            settings = Settings(gpu=gpu, together=together(batch_size, view_spec))
            yield from outcomes_on_ray(model, files, batch_size, precision, settings, progress)

    return outcomes


def report(result: "TestResult", out: Path | None, checkpoint: Path, json: bool) -> None:
    """Write and print the result of a test."""
    written = write(result, out, checkpoint)
    if json:
        common.print_json(result.to_dict())
        return
    print_result(result)
    if written:
        print(f"\nWritten: {written}\nSee it:  atfr report {written}")


def write(result: "TestResult", out: Path | None, checkpoint: Path) -> Path | None:
    """Write the result of a test, beside its network where no folder is given, and warn of its videos.

    The folder is returned; None where it was not given and cannot be written to.
    """
    for skip in result.skipped:
        common.warn(f"left out: {skip.reason}")
    for video in result.videos:
        if video.warning:
            common.warn(video.warning)
    from atfr.evaluate.result import folder_of

    folder = out or folder_of(checkpoint)
    try:
        result.save(folder)
    except OSError as error:
        if out is not None:
            raise
        common.warn(f"the results are not kept, for '{folder}' cannot be written ({error}); give --out FOLDER")
        return None
    return folder


def print_result(result: "TestResult") -> None:
    """Print the figures of a test, and how many clips kept how many maps."""
    from atfr.evaluate.analysis import wilson

    gflops, error = result.gflops_per_clip, result.top1_standard_error
    rows = [["top-1", f"{common.percent(result.top1)} ± {100 * error:.1f} (standard error)"]]
    low, high = (100 * end for end in wilson(round(result.top1 * len(result.videos)), len(result.videos)))
    rows.append(["  95 % interval", f"{low:.1f} to {high:.1f} % (Wilson)"])
    if result.top5 is not None:
        rows.append(["top-5", common.percent(result.top5)])
    spread = f"{gflops.mean:.4g} ± {gflops.std:.2g}, {gflops.min:.4g} to {gflops.max:.4g}"
    views = result.views
    taken = f"{counted(views['clips'], 'clip')} x {counted(views['crops'], views['places'] + ' crop')}"
    rows += [
        ["mean class accuracy", common.percent(result.mean_class_accuracy)],
        ["videos", f"{len(result.videos)} of the test split tested, {len(result.skipped)} left out"],
        ["views", f"{taken}; {{frames}} x {{size}} x {{size}} px".format(**views)],
        *([["  until settled", f"{result.views_per_video:.3g} of them in the mean"]] if result.stopped else []),
        ["GFLOPs per clip", spread],
        ["  without the sampler", f"{result.static_gflops_per_clip:.4g}"],
        ["ms per clip", f"{result.ms_per_clip:.4g} (median)"],
    ]
    timing = result.timing
    note = (
        f"GFLOPs are multiply-adds / 1e9, ± the spread over clips. Time: forward pass only, "
        f"batch {timing['batch_size']}, {timing['device']}, {counted(timing['threads'], 'thread')}, "
        f"torch {timing['torch']}, {timing['dtype']}."
    )
    common.print_table("Test", ["", "result"], rows, note, left=(0, 1))
    if high - low > WIDE:
        common.note(
            f"{counted(len(result.videos), 'video decides', 'videos decide')} little: on others "
            f"like these, top-1 may be anything from {low:.0f} to {high:.0f} %"
        )
    for site, counts in result.active_bins.items():
        print()
        common.print_histogram(f"Active bins, {site}" if len(result.active_bins) > 1 else "Active bins", counts)
    if result.active_bins and len(result.classes) > 1:
        print()
        print_extremes(result.classes)


def print_extremes(classes: "Sequence[ClassResult]") -> None:
    """Print the classes whose clips cost least and most."""
    ordered = sorted(classes, key=lambda one: one.gflops_per_clip.mean)
    shown = ordered if len(ordered) <= 2 * SHOWN else [*ordered[:SHOWN], *ordered[-SHOWN:]]
    rows = [
        [
            one.label,
            one.num_videos,
            common.percent(one.accuracy),
            f"{one.gflops_per_clip.mean:.4g}",
            ", ".join(f"{kept.mean:.1f}" for kept in one.active_bins.values()),
        ]
        for one in shown
    ]
    title = "Classes, by cost" if len(shown) == len(ordered) else f"The {SHOWN} cheapest and dearest classes"
    common.print_table(title, ["class", "videos", "accuracy", "GFLOPs per clip", "active bins"], rows)
