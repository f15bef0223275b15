"""`atfr calibrate`: set the sampler of a checkpoint by some unlabelled videos, or when its views may stop."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atfr.checks import at_least_one, in_range
from atfr.cli import common
from atfr.errors import InputError
from atfr.words import counted

if TYPE_CHECKING:
    from atfr.evaluate.settling import Settling
    from atfr.video.spec import ViewSpec


UNSURE = 0.05
"""A loss that may be larger than what is wanted by so much is told."""


def calibrate(
    checkpoint: Path,
    videos: list[Path] = [],  # noqa: B006  # read only
    *,
    share: float | None = None,
    gflops: float | None = None,
    views: str | None = None,
    loss: float = 1.0,
    data: Path | None = None,
    test_fold: int | None = None,
    most: int = 100,
    batch_size: int = 8,
    num_workers: int = 0,
    device: str = "auto",
    json: bool = False,
) -> None:
    """Set a network's sampler by some videos, or when the views of a video may stop; kept in its checkpoint folder.

    The noise floor of change-guided sampling becomes what most of the videos have. With --share or --gflops the number
    of bins becomes the largest whose mean cost is not above. Labels are not used.

    With --views it is found out instead with which lead a class is settled, so that `--views auto` of `atfr predict`,
    `test` and `bulk` computes no further views of a video. Give labelled videos that the network has not learned from
    and is not tested on; without labels, what all views say counts as right.

    Args:
        checkpoint: A folder that `atfr train` wrote; its config.json is changed, or its task.json.
        videos: Video files, or folders of them; for the sampler the centred clip of each is looked at.
        share: The wanted mean cost of a clip, as a share of the network without a sampler.
        gflops: The same in GFLOPs (multiply-adds / 1e9).
        views: The most clips x crops of a video, as 10x3: find out when they may stop.
        loss: Points of accuracy that stopping may lose, with --views.
        data: Labelled videos for --views, the val split of this folder of classes or CSV file; the test split where
            it has none.
        most: So many of the videos are looked at, spread over all of them; with --views all are.
        batch_size: Views in one forward pass, at most, with --views.
        num_workers: Processes that decode, with --views; 0 decodes in a thread beside the network.
    """
    at_least_one("--most", most)
    in_range("--loss", loss, 0, 100)
    if (data is None) == (not videos):
        raise InputError("give videos, or labelled ones with --views 10x3 --data DATA")
    batches = {"batch_size": batch_size, "num_workers": num_workers}
    if views is not None:
        sampler = {"share": share, "gflops": gflops, "most": most}
        common.refuse(calibrate, sampler, "--views is about views, not about the sampler")
        found = common.parse_views(views)
        if found is None:
            raise InputError("--views is the most views of a video here, as 10x3; auto is what is found out")
        labelled = None if data is None else (data, test_fold)
        calibrate_views(checkpoint, videos, labelled, found, loss / 100, device, json, **batches)
        return
    common.refuse(calibrate, {"data": data, "test_fold": test_fold}, "labels are for --views")
    common.refuse(calibrate, {"loss": loss, **batches}, "without --views the sampler is set")
    from atfr.data.walk import videos_among

    calibrate_sampler(checkpoint, videos_among(videos), share, gflops, most, device, json)


def calibrate_sampler(
    checkpoint: Path, files: list[Path], share: float | None, gflops: float | None, most: int, device: str, json: bool
) -> None:
    """Set the noise floor and the number of bins."""
    model, task = common.load(checkpoint, device)
    from atfr.adapt.calibrate import calibrate_
    from atfr.evaluate.task import save_checkpoint
    from atfr.video.file import VideoFile
    from atfr.video.transforms import test_clips

    chosen = files[:: -(-len(files) // most)]
    clips = []
    with common.progress("reading videos", len(chosen)) as progress:
        for number, file in enumerate(chosen, 1):
            clips.append(test_clips(VideoFile(file, shorter_side=task.spec.decode_side), task.spec))
            progress(number, len(chosen))
    with common.busy("calibrating"):
        found = calibrate_(model, clips, share=share, gflops=gflops)
    save_checkpoint(model.cpu(), replace(task, views=None), checkpoint)
    if task.views is not None:
        common.note("when views may stop was found with another sampler and is dropped: calibrate with --views again")
    if json:
        common.print_json(asdict(found))
        return
    rows: list[list[object]] = [[f"noise floor at {site}", f"{zone:.3g}"] for site, zone in found.dead_zone.items()]
    if found.num_bins is not None:
        rows.append(["bins", found.num_bins])
    rows.append(["maps a clip keeps", told(found.active_bins)])
    if found.gflops is not None:
        rows.append(["GFLOPs of a clip", told(found.gflops)])
    rows.append(["GFLOPs without the sampler", f"{found.static_gflops:.3g}"])
    note = "Mean ± spread over clips (least to most). GFLOPs are multiply-adds / 1e9."
    common.print_table(f"Calibrated with {counted(found.clips, 'clip')}, kept in {checkpoint}", ["", ""], rows, note)


def told(spread: tuple[float, float, float, float]) -> str:
    """Return a spread in words."""
    mean, deviation, least, most = spread
    return f"{mean:.3g} ± {deviation:.2g} ({least:.3g} to {most:.3g})"


def calibrate_views(
    checkpoint: Path,
    videos: list[Path],
    labelled: tuple[Path, int | None] | None,
    view_spec: "ViewSpec",
    loss: float,
    device: str,
    json: bool,
    **batches: int,
) -> None:
    """Find out when views may stop, and keep it beside the network."""
    from atfr.evaluate.task import save_task

    if not checkpoint.is_dir():
        raise InputError(
            f"expected a folder that `atfr train` wrote, got '{checkpoint}': what is found out is kept in it; of a "
            "published network make one with `create_model(..., pretrained=True)` and `save_checkpoint`"
        )
    model, task = common.load(checkpoint, device)
    from atfr.data.walk import videos_among
    from atfr.evaluate.settling import settle_views

    files, labels = videos_among(videos), None
    if labelled is not None:
        data, test_fold = labelled
        splits = common.read_data(data, task.labels, test_fold)
        split = "val" if "val" in splits else "test"
        records = splits[split].records
        common.note(f"{counted(len(records), 'video')} of the {split} split of '{data}'")
        files, labels = [record.path for record in records], [record.label for record in records]

    with common.progress("computing all views", len(files)) as progress:
        options: dict[str, Any] = {
            **batches,
            "on_error": lambda _, error: common.warn(f"left out: {error}"),
            "progress": progress,
        }
        found = settle_views(model, files, labels, task, view_spec, loss, **options)
    if json:
        common.print_json(asdict(found))
    else:
        print_settling(found)
    if found.lost_at_most > loss + UNSURE:
        common.note(
            f"{counted(found.videos, 'video decides', 'videos decide')} little: of others "
            f"{common.percent(found.lost_at_most)} may be lost"
        )
    views = None if found.settled is None else replace(view_spec, settled=found.settled)
    if views != task.views:
        save_task(replace(task, views=views), checkpoint)
    if views is None:
        common.note("nothing is kept: no lead keeps the loss that small on these videos; give more, or a larger --loss")
    else:
        common.note(f"kept in '{checkpoint}', for --views auto")


def print_settling(found: "Settling") -> None:
    """Print when views may stop and what that does, beside as many views for every video."""
    percent = common.percent
    right = "told right" if found.labelled else "told as by all views"
    rows: list[list[object]] = [
        ["settled at a lead of", "never" if found.settled is None else f"{found.settled:.3g} nats"],
        ["views of a video", f"{found.views:.2f} of {found.all_views}"],
        [right, percent(found.right)],
        ["  by all views", percent(found.all_right)],
        [f"  by the first {found.fewer} of every video", percent(found.fewer_right)],
        [
            "lost, on others like these",
            f"{percent(found.lost_at_most)} at most (95 %, of {counted(found.videos, 'video')})",
        ],
    ]
    common.print_table("When views may stop", ["", ""], rows, left=(0, 1))
    if found.settled is not None and found.fewer_right >= found.right:
        common.note(f"stopping is no better here than a fixed number of views for every video: {found.fewer}")
