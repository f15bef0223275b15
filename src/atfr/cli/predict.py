"""`atfr predict`: the most probable classes of videos, with the active bins and the GFLOPs spent."""

import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atfr.checks import Precision
from atfr.cli import common
from atfr.errors import InputError
from atfr.words import counted

if TYPE_CHECKING:
    from atfr.errors import VideoError
    from atfr.evaluate.predict import Prediction
    from atfr.evaluate.task import Task

    Run = Callable[..., Iterator[Prediction]]

KINETICS = "i3d_inception"


def predict(
    videos: list[Path],
    *,
    checkpoint: Path | None = None,
    bundle: Path | None = None,
    views: str = "1x1",
    num_bins: int | list[int] | None = None,
    batch_size: int = 8,
    num_workers: int = 0,
    device: str = "auto",
    precision: Precision = "float32",
    out: Path | None = None,
    json: bool = False,
) -> int:
    """Name the action in videos, with the active bins and the GFLOPs spent.

    A file that does not decode is named on stderr, the others are predicted, and the exit code is 2.

    Args:
        videos: Video files, or folders of them: all that lie in a folder and below.
        checkpoint: A folder that `atfr train` wrote; by default i3d_inception, which knows the 400 actions of Kinetics
            and whose weights `atfr weights i3d_inception` gets once.
        out: A file for the predictions, a JSON object a line, each written as soon as it is known. Videos that it has
            already are left out: give the same line again to go on.
        json: Print JSON instead of a table; with --out, of how many there are and what they cost.
    """
    asked = common.parse_views(views)
    from atfr.data.walk import videos_among

    videos = videos_among(videos)
    if checkpoint is not None and bundle is not None:
        raise InputError("give one network: --checkpoint FOLDER of `atfr train`, or --bundle FOLDER of `atfr export`")
    if bundle is not None:
        common.refuse(predict, {"num_bins": num_bins, "device": device}, "a bundle runs as it was exported")
    unsaid = checkpoint is None and bundle is None
    network = bundle or checkpoint or Path(KINETICS)
    predict_with, task, identity = predictor(network, bundle is not None, device, num_bins, precision)
    view_spec = common.views_of(asked, task, network, {"--num_bins": num_bins is not None})
    run = functools.partial(predict_with, num_workers=num_workers, batch_size=batch_size, **asdict(view_spec))
    if unsaid:
        common.note(f"no --checkpoint: this is {KINETICS}, which knows the 400 actions of Kinetics")
    if out is not None:
        from atfr.evaluate.log import computed_in

        made_by = {"network": str(network), "sha256": identity, "num_bins": num_bins} | computed_in(precision)
        return written(run, videos, out, made_by | view_spec.made_by(), view_spec.total, json)
    predictions: list[Prediction] = []
    code = told(run, videos, predictions.append)
    if json:
        common.print_json([prediction.to_dict() for prediction in predictions])
    elif predictions:
        print_predictions(predictions, view_spec.total)
    return code


def told(
    run: "Run",
    videos: list[Path],
    keep: "Callable[[Prediction], None]",
    lose: "Callable[[Path, VideoError], None]" = lambda *_: None,
) -> int:
    """Predict videos, name those that do not decode, hand both on, and return the exit code."""
    from atfr.cli.main import FAILED, fail

    count = code = 0

    def on_error(path: Path, error: "VideoError") -> None:
        nonlocal count, code
        count, code = count + 1, FAILED
        fail(str(error))
        lose(path, error)

    with common.progress("predicting", len(videos)) as progress:
        for prediction in run(videos, on_error=on_error):
            keep(prediction)
            count += 1
            progress(count, len(videos))
            if prediction.warning:
                common.warn(prediction.warning)
    return code


def written(run: "Run", videos: list[Path], out: Path, made_by: dict[str, Any], most_views: int, json: bool) -> int:
    """Predict into a file what it does not have yet, print how much that was, and return the exit code."""
    from atfr.evaluate.log import PredictionLog

    spent = static = 0.0
    computed, sampled = 0, False
    with PredictionLog(out, made_by) as log:
        left, there = log.left(videos), len(log.done)
        if there:
            common.note(f"'{out}' has {counted(there, 'video')}; {counted(len(left), 'is', 'are')} left")

        def keep(prediction: "Prediction") -> None:
            nonlocal spent, static, computed, sampled
            log.add(prediction)
            computed += len(prediction.gflops)
            spent += prediction.total_gflops
            static += prediction.total_static_gflops
            sampled = bool(prediction.active_bins)

        try:
            code = told(run, left, keep, log.add_failed)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"{counted(len(log.done), 'video is', 'videos are')} in '{out}', go on with the same line"
            ) from None
        predicted = len(log.done) - there
    if json:
        figures = {"predicted": predicted, "failed": len(left) - predicted, "were_there": there}
        common.print_json({"out": str(out), **figures, "views": computed, "gflops": spent, "static_gflops": static})
    else:
        lost = counted(len(left) - predicted, "does", "do")
        old = counted(there, "was", "were")
        print(f"Predicted: {counted(predicted, 'video')}, {lost} not decode, {old} there already.")
        print(bill(spent, static if sampled else None, computed, most_views * predicted))
        print(f"Written: {out}")
    return code


def predictor(
    network: Path, is_bundle: bool, device: str, num_bins: int | list[int] | None, precision: Precision
) -> "tuple[Run, Task, str]":
    """Return what predicts videos, the network of a checkpoint or a bundle, with its task and a hash of what it is."""
    if is_bundle:
        with common.busy("loading the bundle"):
            import atfr
            from atfr.files import sha256_of
            from atfr.runtime.description import BUNDLE

            bundle = atfr.load_bundle(network, precision=precision)
            return bundle.predict, bundle.task, sha256_of(network / BUNDLE)  # which has those of the other files
    model, task = common.load(network, device, num_bins)
    from atfr.evaluate.log import identity
    from atfr.evaluate.predict import predict

    return functools.partial(predict, model, task=task, precision=precision), task, identity(model, task)


def bill(spent: float, static: float | None, computed: int, most_views: int) -> str:
    """Return what videos have cost, in a line, and without the sampler; None where there is none."""
    views = f"Views: {computed} of {most_views}, the others were not needed. " if computed < most_views else ""
    beside = "" if static is None else f", {static:.4g} without the sampler"
    return f"{views}GFLOPs (multiply-adds) of all views: {spent:.4g} spent{beside}."


def print_predictions(predictions: "list[Prediction]", most_views: int) -> None:
    """Print a block of five rows a video: what it is, and what finding that out has cost."""
    rows = []
    for prediction in predictions:
        for rank, (label, probability) in enumerate(prediction.top(5)):
            spent = ("", "")
            if rank == 0:
                spent = (bins(prediction.active_bins), f"{prediction.total_gflops:.4g}")
            path = os.fsencode(prediction.path).decode(errors="backslashreplace")  # a name may be any bytes
            rows.append([path if rank == 0 else "", label, common.percent(probability), *spent])
    static = sum(prediction.total_static_gflops for prediction in predictions)
    total = sum(prediction.total_gflops for prediction in predictions)
    computed = sum(len(prediction.gflops) for prediction in predictions)
    sampled = any(prediction.active_bins for prediction in predictions)
    note = bill(total, static if sampled else None, computed, most_views * len(predictions))
    columns = ["video", "class", "probability", "active bins", "GFLOPs"]
    common.print_table("Predictions", columns, rows, note, left=(0, 1))


def bins(active_bins: "dict[str, tuple[int, ...]]") -> str:
    """Return the active bins of a video's views in a few characters, site by site."""
    texts = [
        str(kept[0]) if len(kept) == 1 else f"{sum(kept) / len(kept):.1f} ({min(kept)}-{max(kept)})"
        for kept in active_bins.values()
    ]
    return ", ".join(texts) or "static"
